"""A small Hugging Face hub on this machine, with a few routes of its API."""

import base64
from collections.abc import Iterator
import contextlib
import hashlib
import http.server
import json
import re
import threading
from typing import Any
import urllib.parse

import pytest

_REPOSITORY = re.compile(
  r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|preupload|commit)/.*)?"
)
_FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/[^/]+/(.*)")

# "models" or "datasets", OWNER/NAME -> file -> content.
Repositories = dict[tuple[str, str], dict[str, bytes]]


class _Handler(http.server.BaseHTTPRequestHandler):
  """Answers from the server's `repositories`."""

  server: Any
  protocol_version = "HTTP/1.1"

  def log_message(self, format, *args):
    """Logs nothing."""

  def _send(self, content: bytes, headers: dict[str, str], status=200) -> None:
    self.send_response(status)
    for name, value in {**headers, "Content-Length": len(content)}.items():
      self.send_header(name, str(value))
    self.end_headers()
    if self.command != "HEAD":
      self.wfile.write(content)

  def _send_json(self, value: Any, status=200) -> None:
    headers = {"Content-Type": "application/json"}
    if status == 404:
      headers["X-Error-Code"] = "RepoNotFound"
    self._send(json.dumps(value).encode(), headers, status)

  def do_GET(self) -> None:
    """Answers with a repository, its files, or one of them."""
    path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
    if matched := _FILE.fullmatch(path):
      key = "datasets" if matched[1] else "models", matched[2]
      content = self.server.repositories[key][matched[3]]
      sha = hashlib.sha256(content).hexdigest()
      self._send(content, {"ETag": f'"{sha}"', "X-Repo-Commit": _sha(key)})
      return
    matched = _REPOSITORY.fullmatch(path)
    key = (matched[1], matched[2]) if matched else ("", "")
    files = self.server.repositories.get(key)
    if matched is None or files is None:
      self._send_json({"error": "Repository not found"}, 404)
    elif matched[3] == "tree":
      self._send_json(
        [
          {"type": "file", "path": name, "size": len(x), "oid": "0" * 40}
          for name, x in files.items()
        ]
      )
    else:
      siblings = [{"rfilename": name} for name in files]
      self._send_json({"id": key[1], "sha": _sha(key), "siblings": siblings})

  do_HEAD = do_GET  # noqa: N815

  def do_POST(self) -> None:
    """Makes a repository, or commits files to one."""
    content = self.rfile.read(int(self.headers["Content-Length"]))
    at = f"http://{self.headers['Host']}"
    if self.path == "/api/repos/create":
      given = json.loads(content)
      name = f"{given.get('organization', 'me')}/{given['name']}"
      self.server.repositories.setdefault(("models", name), {})
      self._send_json({"url": f"{at}/{name}"})
      return
    matched = _REPOSITORY.fullmatch(urllib.parse.urlsplit(self.path).path)
    if matched is None:
      self._send_json({"errors": [], "warnings": []})  # A card's check.
    elif matched[3] == "preupload":
      names = [x["path"] for x in json.loads(content)["files"]]
      mode = {"uploadMode": "regular", "shouldIgnore": False}
      self._send_json({"files": [{"path": name, **mode} for name in names]})
    else:
      files = self.server.repositories[matched[1], matched[2]]
      for line in map(json.loads, content.splitlines()):
        if line["key"] == "file":
          value = line["value"]
          files[value["path"]] = base64.b64decode(value["content"])
      url = f"{at}/{matched[2]}/commit/{'1' * 40}"
      self._send_json({"commitOid": "1" * 40, "commitUrl": url})


def _sha(key: tuple[str, str]) -> str:
  return hashlib.sha1("/".join(key).encode()).hexdigest()


@contextlib.contextmanager
def serving(monkeypatch, cache) -> Iterator[Repositories]:
  """Replaces Hugging Face's hub by a local one with an empty cache.

  Args:
    monkeypatch: pytest's fixture.
    cache: The folder for the library's cache.

  Yields:
    The hub's repositories, which a test may fill and read.
  """
  constants = pytest.importorskip("huggingface_hub.constants")

  from prompt_tuning.interop import hub

  server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
  server.repositories = {}
  threading.Thread(target=server.serve_forever, daemon=True).start()
  endpoint = f"http://127.0.0.1:{server.server_address[1]}"
  monkeypatch.setenv("HF_ENDPOINT", endpoint)
  monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
  try:
    yield server.repositories
  finally:
    server.shutdown()
    server.server_close()
    hub.folder.cache_clear()
