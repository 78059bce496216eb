"""Middleware that checks a request's key, rate, size and time; counts it."""

import asyncio
from collections import OrderedDict
import contextlib
import dataclasses
import hashlib
import math
import os
import pathlib
import re
import time

from starlette import requests
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prompt_tuning.serving import errors
from prompt_tuning.serving.errors import ApiError
from prompt_tuning.serving.metrics import Metrics

# Probes, and the page that asks for a key, need no key and have no rate.
_OPEN = re.compile(r"/(static/.*|healthz|readyz)?")
# The bodies of these may be large.
_UPLOAD = re.compile(r"(POST|PUT) /v1/(prompts/.*|files)")
# The number of clients whose rates are remembered.
_CLIENTS = 10_000
# The number of uploads in memory at once; others wait, unread.
_UPLOADS = 4
# The time for a request to arrive, ten times as long for an upload; and for a
# client to take a part of a stream, or a MiB.
_READ_SECONDS, _WRITE_SECONDS = 30.0, 30.0


@dataclasses.dataclass(frozen=True)
class Limits:
  """The limits that clients have.

  Attributes:
    keys: SHA-256 of the keys that are accepted; None: no key is needed.
    requests_per_minute: For each key, or, without keys, for each address; the
      same for wrong keys from an address. 0: unlimited.
    body_bytes: The maximum size of a request.
    upload_bytes: The maximum size of an uploaded file.
    answer_seconds: The time for an answer, or for the whole of a stream.
    hosts: The names that the server answers to; None: any. Another website can
      point its own name to this machine.
  """

  keys: frozenset[str] | None = None
  requests_per_minute: int = 0
  body_bytes: int = 2**20
  upload_bytes: int = 2**26
  answer_seconds: float = 120.0
  hosts: frozenset[str] | None = None


def read_keys(path: str | os.PathLike[str]) -> frozenset[str]:
  """Reads a file of keys, one per line; "#" starts a comment.

  Raises:
    ValueError: if it has no key.
  """
  lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
  keys = [line.partition("#")[0].strip() for line in lines]
  digests = frozenset(_digest(key) for key in keys if key)
  if not digests:
    raise ValueError(f"Expected keys in {path}, one per line, got none.")
  return digests


def _digest(key: str) -> str:
  # Comparing digests takes a time that reveals nothing about the key.
  return hashlib.sha256(key.encode()).hexdigest()


class LimitsMiddleware:
  """An ASGI application that passes on the requests within the limits."""

  def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics):
    """Keeps its arguments.

    Args:
      app: The application behind it.
      limits: The limits.
      metrics: The metrics, which count all requests.
    """
    self._app, self._limits, self._metrics = app, limits, metrics
    self._uploads = asyncio.Semaphore(_UPLOADS)
    # Client -> (requests that it may send, at this time).
    self._allowed: OrderedDict[str, tuple[float, float]] = OrderedDict()

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    """Passes a request on, or refuses it."""
    if scope["type"] != "http":
      await self._app(scope, receive, send)
      return
    request, start, status = requests.Request(scope), time.monotonic(), 0

    async def send_in_time(message: Message) -> None:
      nonlocal status
      status = message.get("status", status)
      parts = max(1, len(message.get("body", b"")) / 2**20)
      async with asyncio.timeout(_WRITE_SECONDS * parts):
        await send(message)

    try:
      self._check_origin(request)
      if not _OPEN.fullmatch(scope["path"]):
        self._check_rate(self._client(request))
      is_upload = bool(_UPLOAD.fullmatch(f"{request.method} {scope['path']}"))
      async with contextlib.AsyncExitStack() as stack:
        if is_upload:
          try:
            async with asyncio.timeout(_READ_SECONDS):
              await self._uploads.acquire()
          except TimeoutError:
            raise errors.not_ready("Too many uploads at once.") from None
          stack.callback(self._uploads.release)
        receive = self._limited(request, receive, is_upload)
        await self._app(scope, receive, send_in_time)
    except Exception as error:
      if status:  # The response has begun.
        raise
      response = await errors.respond(request, error)
      await response(scope, receive, send_in_time)
    finally:
      route = getattr(scope.get("route"), "path", "other")
      seconds = time.monotonic() - start
      self._metrics.count_request(route, status, seconds)

  def _check_origin(self, request: requests.Request) -> None:
    """Refuses requests that other websites have a visitor's browser send.

    Where a key is needed, they cannot send it.
    """
    if self._limits.keys is None and (
      request.method not in ("GET", "HEAD", "OPTIONS")
      and request.headers.get("sec-fetch-site") == "cross-site"
    ):
      raise ApiError(
        403,
        "Without keys, the server refuses requests from other websites.",
        "cross_site",
      )
    name = re.sub(r":[0-9]*$", "", request.headers.get("host", "")).lower()
    if self._limits.hosts is not None and name not in self._limits.hosts:
      raise ApiError(
        403,
        f"Expected the host {' or '.join(sorted(self._limits.hosts))}, got "
        f"{name[:80]!r}. Other names need --keys, --host or "
        "--forwarded_allow_ips.",
        "wrong_host",
      )

  def _client(self, request: requests.Request) -> str:
    """Returns the client's name for its rate, if the client has access."""
    keys = self._limits.keys
    address = request.client.host if request.client else ""
    if keys is None:
      return address
    kind, _, key = request.headers.get("authorization", "").partition(" ")
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
    """Counts a request by a bucket that fills with time."""
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
        f"Expected at most {most} requests per minute.",
        "rate_limit_exceeded",
        headers={"Retry-After": str(math.ceil((1 - left) * 60 / most))},
      )

  def _limited(
    self, request: requests.Request, receive: Receive, is_upload: bool
  ) -> Receive:
    """Returns a `receive` that refuses a body that is large or slow.

    Raises:
      ApiError: if the request says that its body is too large.
    """
    limits = self._limits
    most = limits.upload_bytes if is_upload else limits.body_bytes
    seconds = _READ_SECONDS * (10 if is_upload else 1)
    deadline = asyncio.get_running_loop().time() + seconds
    size, is_complete = 0, False
    too_large = ApiError(
      413, f"Expected at most {most} bytes.", "request_too_large"
    )
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > most:
      raise too_large

    async def limited() -> Message:
      nonlocal size, is_complete
      if is_complete:  # Only the client's end may follow, at any time.
        return await receive()
      try:
        async with asyncio.timeout_at(deadline):
          message = await receive()
      except TimeoutError:
        raise ApiError(
          408,
          f"The request did not arrive within {seconds:g} seconds.",
          "request_timeout",
          headers={"Connection": "close"},
        ) from None
      size += len(message.get("body", b""))
      if size > most:
        raise too_large
      is_complete = not message.get("more_body")
      return message

    return limited
