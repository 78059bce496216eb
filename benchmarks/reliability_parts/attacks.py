"""Attacks by strangers and by a tenant, Bob, on a server and a tenant, Ann.

An attack succeeds if it is answered like a good request, if its answer has one
of Ann's secrets, or if it changes anything that is hers.
"""

from collections.abc import Iterator
from concurrent import futures
import contextlib
import hashlib
import io
import itertools
import json
import pathlib
import pickle
import re
import socket
import string
import tomllib
from typing import Any
import zipfile

import httpx
import numpy as np
import tqdm

import harness
import prompt_tuning as pt
from prompt_tuning import prompt_files
from prompt_tuning.tuning_jobs import owners
from traffic import mixed
from traffic.servers import Server

_TABLE = pathlib.Path(__file__).with_suffix(".toml")
_CHECKPOINT = str(harness.ROOT / "checkpoints" / "ladder_xs" / "lm_100")
_ROOM = 3
_FLAGS = "--name=base --lengths=32 --labels=16 --max_tokens=16 --rows=1 "
_FLAGS += f"--hosts=localhost --quota_files={_ROOM} --body_bytes=65536 "
_FLAGS += "--upload_bytes=1000000"
_TEXT = "Emma bought Anna a silver ring"  # All words are the model's.
_LINE = json.dumps({"prompt": _TEXT, "completion": "True"}).encode()
_JOBS = "/v1/fine_tuning/jobs"
_ANN, _BOB = "a-key-of-ann", "a-key-of-bob"
_BEARER = f"Authorization: Bearer {_BOB}"
_HIDDEN = f"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n{_BEARER}\r\n\r\n"


def run(scratch: pathlib.Path, *, full: bool) -> dict[str, int | float]:
  """Attacks a server; the short version leaves out most of the attacks."""
  keys, log, prompts = (scratch / x for x in ("keys", "access.log", "prompts"))
  keys.write_text(f"{_ANN} ann\n{_BOB} bob\n")
  flags = f"--keys={keys} --access_log={log} {_FLAGS}"
  server = Server(_CHECKPOINT, scratch, *flags.split())
  server.start()
  try:
    counts = _attack(server, 1 if full else 5)
  finally:
    server.stop()
  told, names = (_ANN, _BOB, _TEXT), [path.stem for path in prompts.iterdir()]
  return counts | {
    "secrets_in_log": sum(log.read_text().count(x) for x in told),
    "misplaced_files": sum(not owners.STEM.fullmatch(name) for name in names),
  }


def _attack(server: Server, every: int) -> dict[str, int | float]:
  """Counts attacks, successful ones, and answers with a server error."""
  (prompt,) = mixed.make_prompts(pt.load(_CHECKPOINT), [2])
  content = prompt_files.content(prompt.array, None, ".npy")
  ann, bob = (
    httpx.Client(
      base_url=server.http.base_url,
      headers={"Authorization": f"Bearer {key}"},
      timeout=60,
    )
    for key in (_ANN, _BOB)
  )
  ann.put("/v1/prompts/hers", content=content).raise_for_status()
  file = _upload(ann).json()["id"]
  settings = {"length": 2, "steps": 2, "init": "random_uniform"}
  wanted = {"training_file": file, "hyperparameters": settings}
  job = (
    ann.post(_JOBS, json={"model": "base", **wanted})
    .raise_for_status()
    .json()["id"]
  )

  def hers() -> list[Any]:
    """Returns everything that Ann has, except her job's progress."""
    paths = f"/v1/files/{file}/content", "/v1/prompts/hers", "/v1/files"
    jobs = ann.get(_JOBS).json()["data"]
    states = [(x["id"], x["status"] == "cancelled") for x in jobs]
    return [states, *(ann.get(path).content for path in paths)]

  before, got_in, failures = hers(), 0, 0
  attacks = [*_requests(content, file=file, job=job)][::every]
  for place, headers, body, is_list in tqdm.tqdm(attacks, unit="attack"):
    answer, asked = _send(server, place, headers, body), place.encode() + body
    statuses = re.findall(rb"HTTP/1.1 (\d)\d\d ", answer)
    secrets = (_TEXT.encode(), file.encode(), job.encode(), b"hers")
    is_told = any(x in answer and x not in asked for x in secrets)
    is_in = is_told or (b"2" in statuses and not is_list)
    if is_in or b"5" in statuses:
      tqdm.tqdm.write(f"{place} {headers} {body[:80]}: {answer[:500]}")
    got_in, failures = got_in + is_in, failures + (b"5" in statuses)
  right = {"model": "base", "prompt": "a"}  # A good request, sent like attacks.
  bob.post("/v1/completions", json=right).raise_for_status()
  with futures.ThreadPoolExecutor() as threads:  # More uploads than fit.
    rivals = [*threads.map(lambda _: _upload(bob), range(20))]
  late = [_upload(bob), bob.put("/v1/prompts/late", content=content)]
  stored = sum(x.is_success for x in rivals)
  assert stored, "Bob's good requests must be answered."
  got_in += max(0, stored - _ROOM)
  got_in += sum(x.is_success for x in late)
  return {
    "attacks": len(attacks) + len(rivals) - _ROOM + len(late),
    "got_in": got_in + (hers() != before),
    "server_errors": failures,
  }


def _upload(client: httpx.Client) -> httpx.Response:
  data, files = {"purpose": "fine-tune"}, {"file": _LINE}
  return client.post("/v1/files", data=data, files=files)


def _requests(
  content: bytes, **ids: str
) -> Iterator[tuple[str, list[str], bytes, bool]]:
  """Yields each attack's place, headers and body, and whether it lists."""
  digest = hashlib.sha256(_ANN.encode()).hexdigest()
  fields = dict(ids, ann=_ANN, digest=digest, hidden=_HIDDEN, long="a" * 70_000)
  fields["prompt"] = content.decode("latin-1")

  def fill(text: str, **name: str) -> str:
    return string.Template(text).safe_substitute(fields, **name)

  for group in tomllib.loads(_TABLE.read_text())["groups"]:
    key = [_BEARER] if group.get("is_keyed", True) else []
    kinds = ("places", "names", "headers", "bodies")
    choices = [group.get(kind, [""]) for kind in kinds]
    for place, name, header, body in itertools.product(*choices):
      headers = [*key, fill(header)] if header else key
      place, body = (fill(x, name=fill(name)) for x in (place, body))
      is_list = group.get("is_list", False)
      yield place, headers, body.encode("latin-1"), is_list
  for evil in _evil_prompts(content):
    yield "PUT /v1/prompts/evil", [_BEARER], evil, False


def _evil_prompts(content: bytes) -> Iterator[bytes]:
  """Yields files that are not prompts, although some resemble `content`."""
  yield from (b"", b"PK", content[:-4], content.replace(b"(2,", b"(9,"))
  yield from (content.replace(b"<f4", x) for x in (b"|O8", b"<U4", b">c8"))
  yield from (pickle.dumps(np.ones((2, 2))), b" " * 2**20)
  header = b'{"prompt":{"dtype":"F32","shape":[9,9],"data_offsets":[0,999]}}'
  for size in (len(header), 2**40, 2**64 - 1):
    yield size.to_bytes(8, "little") + header
  archive = io.BytesIO()
  with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
    file.writestr("../adapter_config.json", "[" * 2**20)
    file.writestr("../../adapter_model.safetensors", bytes(2**27))
  yield archive.getvalue()


def _send(server: Server, place: str, headers: list[str], body: bytes) -> bytes:
  """Sends a request unchanged, however wrong; returns all received bytes."""
  names, lines = " ".join(headers).lower(), [f"{place} HTTP/1.1", *headers]
  if "host:" not in names:
    lines.append("Host: localhost")
  if not re.search("content-length|transfer-encoding", names):
    lines += [f"Content-Length: {len(body)}", "Connection: close"]
  head = "".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1")
  answer = b""
  # A connection that closes, or waits for more, is a refusal too.
  with (
    contextlib.suppress(ConnectionError, TimeoutError),
    socket.create_connection(server.address, timeout=8) as connection,
  ):
    connection.sendall(head + body)
    while part := connection.recv(2**16):
      answer += part
  return answer
