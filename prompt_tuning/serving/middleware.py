"""Middleware that checks a request's head, origin, key, rate, size and time."""

import asyncio
from collections.abc import AsyncIterator
import contextlib
import ipaddress
import re
import tempfile
import weakref

from starlette import requests
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prompt_tuning.serving import errors, tenants
from prompt_tuning.serving.errors import ApiError
from prompt_tuning.serving.tenants import Quotas
from prompt_tuning.tuning_jobs import owners

# Probes, and the page that asks for a key, need no key and have no rate limit.
_OPEN = re.compile(r"/(static/.*|healthz|readyz)?")
# Requests whose bodies may be large.
_UPLOAD = re.compile(r"(POST|PUT) /v1/(prompts/.*|files)")
# The number of a client's uploads that may arrive at once, into files, and of
# all complete uploads that may be in memory at once. Others wait.
_ARRIVING, _UPLOADS = 16, 4
# The maximum size of the headers and the path.
_HEAD_BYTES = 2**16
# The time for a request to arrive, with ten times as much for an upload; and
# for a client to read a part of a stream, or a MiB.
_READ_SECONDS, _WRITE_SECONDS = 30.0, 30.0


class LimitsMiddleware:
  """An ASGI application that passes on requests within the limits."""

  def __init__(self, app: ASGIApp, quotas: Quotas):
    """Keeps the wrapped application, and the quotas with their limits."""
    self._app, self._limits, self._quotas = app, quotas.limits, quotas
    self._uploads = asyncio.Semaphore(_UPLOADS)
    # Client -> a semaphore for the uploads that arrive from it.
    self._arriving: weakref.WeakValueDictionary[str, asyncio.Semaphore] = (
      weakref.WeakValueDictionary()
    )

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    """Passes a request on, or refuses it."""
    if scope["type"] != "http":
      await self._app(scope, receive, send)
      return
    request, has_begun = requests.Request(scope), False
    client = request.client.host if request.client else ""

    async def send_in_time(message: Message) -> None:
      nonlocal has_begun
      has_begun = True
      parts = max(1, len(message.get("body", b"")) / 2**20)
      async with asyncio.timeout(_WRITE_SECONDS * parts):
        await send(message)

    # A request owns nothing before its key is accepted.
    tenants.current.set(None if self._limits.keys is None else owners.NOBODY)
    try:
      _check_head(request)
      self._check_origin(request)
      if not _OPEN.fullmatch(scope["path"]):
        client = self._check_key(request, client)
        self._quotas.count_request(client)
      is_upload = bool(_UPLOAD.fullmatch(f"{request.method} {scope['path']}"))
      limited = self._limited(request, receive, is_upload)
      length = int(request.headers.get("content-length", 2**63))
      if is_upload and length > self._limits.body_bytes:
        upload = requests.Request(scope, limited)
        async with self._arrived(client, upload) as arrived:
          await self._app(scope, arrived, send_in_time)
      else:
        await self._app(scope, limited, send_in_time)
    except Exception as error:
      if has_begun:
        raise
      response = await errors.respond(request, error)
      await response(scope, receive, send_in_time)

  def _check_origin(self, request: requests.Request) -> None:
    """Refuses requests that other websites make a visitor's browser send.

    A browser states the relation of the sites or, without encryption, only the
    origin.
    """
    headers = request.headers
    host = headers.get("host", "").lower()
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    is_own = site in ("same-origin", "none")
    if site is None:
      is_own = origin is None or origin.lower().partition("://")[2] == host
    if request.method not in ("GET", "OPTIONS") and not is_own:
      raise ApiError(
        403, "The server refuses requests from other websites.", "cross_site"
      )
    name, hosts = re.sub(r":[0-9]*$", "", host), self._limits.hosts
    if hosts is not None and not (name in hosts or _is_address(name)):
      raise ApiError(
        403,
        f"Expected a name of this server as the Host, got {name[:80]!r}. "
        "Other names need --hosts, --keys or --forwarded_allow_ips.",
        "wrong_host",
      )

  def _check_key(self, request: requests.Request, address: str) -> str:
    """Sets the tenant; returns the client's name for its rate."""
    keys = self._limits.keys
    if keys is None:
      return address
    kind, _, key = request.headers.get("authorization", "").partition(" ")
    tenant = keys.get(tenants.digest(key.strip()))
    if kind.lower() != "bearer" or tenant is None:
      self._quotas.count_request(address)
      raise ApiError(
        401,
        "Expected a key of this server, in the header 'Authorization: Bearer "
        "KEY'.",
        "invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
      )
    tenants.current.set(tenant)
    return f"@{tenant}"  # No address has this name.

  @contextlib.asynccontextmanager
  async def _arrived(
    self, client: str, request: requests.Request
  ) -> AsyncIterator[Receive]:
    """Yields an upload's `receive` once all of it has arrived in a file.

    A slow upload takes no memory, and no place from other clients' uploads.
    """
    new = asyncio.Semaphore(_ARRIVING)
    async with _slot(self._arriving.setdefault(client, new)):
      with tempfile.SpooledTemporaryFile(self._limits.body_bytes) as file:
        async for part in request.stream():
          file.write(part)
        file.seek(0)
        async with _slot(self._uploads):
          messages = [{"type": "http.request", "body": file.read()}]

          async def receive() -> Message:
            return messages.pop() if messages else await request.receive()

          yield receive

  def _limited(
    self, request: requests.Request, receive: Receive, is_upload: bool
  ) -> Receive:
    """Returns a `receive` that refuses a large or slow body.

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
      if is_complete:  # Only the client's disconnection may still follow.
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


def _check_head(request: requests.Request) -> None:
  """Refuses a head that is large, or gives two different ends of the body."""
  headers, close = request.headers, {"Connection": "close"}
  size = sum(len(name) + len(value) for name, value in headers.raw)
  size += len(request.scope.get("raw_path") or b"")
  size += len(request.scope.get("query_string") or b"")
  if size > _HEAD_BYTES:
    message = f"Expected headers of at most {_HEAD_BYTES} bytes."
    raise ApiError(431, message, "headers_too_large", headers=close)
  if "content-length" in headers and "transfer-encoding" in headers:
    raise ApiError(
      400,
      "Expected Content-Length or Transfer-Encoding, got both.",
      "ambiguous_length",
      headers=close,
    )


def _is_address(host: str) -> bool:
  with contextlib.suppress(ValueError):
    return bool(ipaddress.ip_address(host.strip("[]")))
  return False


@contextlib.asynccontextmanager
async def _slot(uploads: asyncio.Semaphore) -> AsyncIterator[None]:
  """Holds a place among the uploads.

  Raises:
    ApiError: if no place becomes free in time.
  """
  try:
    async with asyncio.timeout(_READ_SECONDS):
      await uploads.acquire()
  except TimeoutError:
    raise errors.not_ready("Too many uploads at once.") from None
  try:
    yield
  finally:
    uploads.release()
