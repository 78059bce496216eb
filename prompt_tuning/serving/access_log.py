"""The access log: a line of JSON for each request and each change.

Lines name tenants, routes and ids, but never keys or the text of requests.
"""

import contextvars
import json
import logging
import logging.handlers
import random
import sys
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prompt_tuning.serving import tenants
from prompt_tuning.serving.metrics import Metrics

_LOG = logging.getLogger(__name__)
_LOG.propagate = False
# The id of the running request; its response has the id in a header.
_id: contextvars.ContextVar[str] = contextvars.ContextVar("id", default="")


def write_to(path: str) -> None:
  """Starts the log, in a file or, for "-", on standard output."""
  is_file = path != "-"
  _LOG.handlers[:] = [
    logging.handlers.WatchedFileHandler(path, encoding="utf-8")
    if is_file
    else logging.StreamHandler(sys.stdout)
  ]
  _LOG.setLevel(logging.INFO)


def write(event: str, **values: Any) -> None:
  """Writes a line about the running request.

  Args:
    event: "request", or a change, such as "file.created".
    **values: Ids and numbers.
  """
  if _LOG.isEnabledFor(logging.INFO):
    head = {"time": round(time.time(), 3), "event": event, "id": _id.get()}
    _LOG.info(json.dumps({**head, "tenant": tenants.current.get(), **values}))


class LogMiddleware:
  """An ASGI application that names, counts and logs the requests it passes on.

  HEAD becomes GET here: the web server omits the body.
  """

  def __init__(self, app: ASGIApp, metrics: Metrics):
    """Keeps its arguments."""
    self._app, self._metrics = app, metrics

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    """Passes a request on, and logs it when it ends."""
    if scope["type"] != "http":
      await self._app(scope, receive, send)
      return
    start, status, size, method = time.monotonic(), 0, 0, scope["method"]
    _id.set(random.randbytes(8).hex())  # `secrets` would release Python's lock.
    scope = {**scope, "method": "GET" if method == "HEAD" else method}

    async def send_named(message: Message) -> None:
      nonlocal status, size
      if message["type"] == "http.response.start":
        status = message["status"]
        name = b"x-request-id", _id.get().encode()
        message["headers"] = [*message.get("headers", ()), name]
      size += len(message.get("body", b""))
      await send(message)

    try:
      await self._app(scope, receive, send_named)
    finally:
      route = getattr(scope.get("route"), "path", "other")
      seconds = time.monotonic() - start
      self._metrics.count_request(route, status, seconds)
      write(
        "request",
        address=(scope.get("client") or [""])[0],
        method=method,
        route=route,
        # If the answer is an error, the names may be any text.
        names=scope.get("path_params", {}) if 0 < status < 400 else {},
        status=status,
        bytes=size,
        seconds=round(seconds, 4),
      )
