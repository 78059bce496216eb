"""What a request passes before it is looked at: key, rate, size and time."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Sequence
import contextlib
import dataclasses
import hashlib
import math
import os
import pathlib
import re
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prompt_tuning.serving import errors
from prompt_tuning.serving.errors import ApiError

# Clients whose rates are remembered.
_CLIENTS = 10_000
# Of a body that is sent at once, before it is seen whether the client reads.
_PART_BYTES = 2**16
# Uploads that are in memory at once; others wait, unread.
_UPLOADS = 4


@dataclasses.dataclass(frozen=True)
class Limits:
  """What clients may do.

  Attributes:
    keys: SHA-256 of the keys that are let in; None: anybody is.
    requests_per_minute: Of a key, or, without keys, of an address; with wrong
      keys, of an address too. 0: any.
    body_bytes: Of a request.
    upload_bytes: Of a file that is uploaded.
    read_seconds: For a request to arrive; for an upload, ten times as long.
    answer_seconds: For an answer, or, of a stream, all of it.
    write_seconds: For a client to take what is sent.
    hosts: Names that it may be called by; None: any. A web page that has its
      own name point to this machine is another's.
  """

  keys: frozenset[str] | None = None
  requests_per_minute: int = 0
  body_bytes: int = 2**20
  upload_bytes: int = 2**26
  read_seconds: float = 30.0
  answer_seconds: float = 120.0
  write_seconds: float = 30.0
  hosts: frozenset[str] | None = None


def read_keys(path: str | os.PathLike[str]) -> frozenset[str]:
  """Reads a file of keys, one a line; "#" begins a comment.

  Raises:
    ValueError: if it has none.
  """
  lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
  keys = [line.partition("#")[0].strip() for line in lines]
  digests = frozenset(_digest(key) for key in keys if key)
  if not digests:
    raise ValueError(f"Expected keys in {path}, one a line, got none.")
  return digests


def _digest(key: str) -> str:
  # Digests are compared, so that how long it takes says nothing of the key.
  return hashlib.sha256(key.encode()).hexdigest()


class Gate:
  """An ASGI application around another, which sees only whole requests."""

  def __init__(
    self,
    app: ASGIApp,
    limits: Limits,
    open_paths: Sequence[str],
    upload_paths: Sequence[str],
  ):
    """Keeps its arguments.

    Args:
      app: What answers.
      limits: What clients may do.
      open_paths: What needs no key and has no rate; "/x/" is all below it.
      upload_paths: Where bodies may be large.
    """
    self._app = app
    self._limits = limits
    self._open = tuple(open_paths)
    self._upload = tuple(upload_paths)
    self._uploads = asyncio.Semaphore(_UPLOADS)
    # Client -> (requests that it may send now, when that was so).
    self._allowed: OrderedDict[str, tuple[float, float]] = OrderedDict()

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    """Passes a request on, or refuses it."""
    if scope["type"] != "http":
      await self._app(scope, receive, send)
      return
    try:
      self._check_page(scope)
      if not _is_in(scope["path"], self._open):
        self._check_rate(self._client(scope))
      is_upload = scope["method"] in ("POST", "PUT") and _is_in(
        scope["path"], self._upload
      )
      async with self._room() if is_upload else contextlib.nullcontext():
        body = await self._read(scope, receive, is_upload)
        await self._app(scope, _replay(body, receive), self._timed(send))
    except ApiError as error:
      await error.response()(scope, receive, self._timed(send))

  def _check_page(self, scope: Scope) -> None:
    """Refuses what a web page of somebody else's sends, where no key is asked.

    A browser sends it for whoever looks at that page.
    """
    headers = dict(scope["headers"])
    if self._limits.keys is None and (
      scope["method"] not in ("GET", "HEAD", "OPTIONS")
      and headers.get(b"sec-fetch-site") == b"cross-site"
    ):
      raise ApiError(
        403, "Without keys, no other site's page is answered.", "cross_site"
      )
    host = headers.get(b"host", b"").decode("latin-1")
    name = re.sub(r":[0-9]*$", "", host).lower()
    if self._limits.hosts is not None and name not in self._limits.hosts:
      raise ApiError(
        403,
        f"Expected the host {' or '.join(sorted(self._limits.hosts))}, got "
        f"{name[:80]!r}. Other names need --keys, --host or "
        "--forwarded_allow_ips.",
        "wrong_host",
      )

  def _client(self, scope: Scope) -> str:
    """Returns who sends, if that one is let in."""
    keys = self._limits.keys
    address = (scope.get("client") or ("",))[0]
    if keys is None:
      return address
    headers = dict(scope["headers"])
    kind, _, key = (
      headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    )
    digest = _digest(key.strip())
    if kind.lower() != "bearer" or digest not in keys:
      self._check_rate(address)
      raise ApiError(
        401,
        "Expected a key of this server, in the header 'Authorization: Bearer "
        "KEY'.",
        "invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
      )
    return digest

  def _check_rate(self, client: str) -> None:
    """Counts a request; it is a bucket that fills with time."""
    if not (most := self._limits.requests_per_minute):
      return
    now = time.monotonic()
    left, then = self._allowed.pop(client, (float(most), now))
    left = min(float(most), left + (now - then) * most / 60)
    is_allowed = left >= 1
    self._allowed[client] = (left - is_allowed, now)
    if len(self._allowed) > _CLIENTS:
      self._allowed.popitem(last=False)
    if not is_allowed:
      raise ApiError(
        429,
        f"At most {most} requests a minute.",
        "rate_limit_exceeded",
        headers={"Retry-After": str(math.ceil((1 - left) * 60 / most))},
      )

  @contextlib.asynccontextmanager
  async def _room(self) -> AsyncIterator[None]:
    """Waits until there is room for an upload."""
    try:
      async with asyncio.timeout(self._limits.read_seconds):
        await self._uploads.acquire()
    except TimeoutError:
      raise errors.not_ready("Too many uploads at once.") from None
    try:
      yield
    finally:
      self._uploads.release()

  async def _read(
    self, scope: Scope, receive: Receive, is_upload: bool
  ) -> bytes:
    """Reads the body."""
    limits = self._limits
    most = limits.upload_bytes if is_upload else limits.body_bytes
    too_large = ApiError(
      413, f"Expected at most {most} bytes.", "request_too_large"
    )
    length = dict(scope["headers"]).get(b"content-length", b"0")
    if not length.isdigit() or int(length) > most:
      raise too_large
    seconds = limits.read_seconds * (10 if is_upload else 1)
    parts, size = [], 0
    try:
      async with asyncio.timeout(seconds):
        while True:
          message = await receive()
          if message["type"] == "http.disconnect":
            raise ApiError(400, "The client left.", "client_left")
          parts.append(message.get("body", b""))
          size += len(parts[-1])
          if size > most:
            raise too_large
          if not message.get("more_body"):
            return b"".join(parts)
    except TimeoutError:
      raise ApiError(
        408,
        f"The request did not arrive within {seconds:g} seconds.",
        "request_timeout",
        headers={"Connection": "close"},
      ) from None

  def _timed(self, send: Send) -> Send:
    """Lets a client that takes nothing go."""

    async def timed(message: Message) -> None:
      for part in _parts(message):  # Of a whole, no one would wait.
        async with asyncio.timeout(self._limits.write_seconds):
          await send(part)

    return timed


def _parts(message: Message) -> Iterator[Message]:
  """Yields a message, but a long body in parts."""
  body = message.get("body", b"")
  last = max(len(body) - 1, 0) // _PART_BYTES
  for i in range(last):
    part = body[i * _PART_BYTES : (i + 1) * _PART_BYTES]
    yield {**message, "body": part, "more_body": True}
  yield {**message, "body": body[last * _PART_BYTES :]} if last else message


def _replay(body: bytes, receive: Receive) -> Receive:
  """Returns what gives a body that was read, and then what comes after it."""
  messages = iter([{"type": "http.request", "body": body}])

  async def replay() -> Message:
    return next(messages, None) or await receive()

  return replay


def _is_in(path: str, places: Sequence[str]) -> bool:
  return any(
    path.startswith(place)
    if place.endswith("/") and place != "/"
    else path == place
    for place in places
  )
