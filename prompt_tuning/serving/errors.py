"""Errors in OpenAI's format, and their conversion from exceptions."""

from collections.abc import Iterator, Mapping
import contextlib
import errno
import itertools
import sqlite3
from typing import Any

from absl import logging
from fastapi.exceptions import RequestValidationError
from starlette import requests, responses
from starlette.exceptions import HTTPException

from prompt_tuning.inference.batch_queue import (
  FieldError,
  QueueFullError,
  TooLongError,
)
from prompt_tuning.inference.engine import ClosedError
from prompt_tuning.serving import schemas
from prompt_tuning.tuning_jobs import jobs

_TYPES = {
  401: "authentication_error",
  404: "not_found_error",
  429: "rate_limit_error",
}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ApiError(HTTPException):
  """An error that is sent to the client.

  Attributes:
    code: A name for programs.
    param: The field that is wrong, if there is one.
  """

  def __init__(
    self,
    status: int,
    message: str,
    code: str,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
  ):
    """Keeps its arguments; the message is for people."""
    super().__init__(status, message, headers)
    self.code, self.param = code, param

  @property
  def body(self) -> dict[str, Any]:
    """The JSON of the response."""
    status = self.status_code
    default = "invalid_request_error" if status < 500 else "server_error"
    return {
      "error": {
        "message": self.detail,
        "type": _TYPES.get(status, default),
        "param": self.param,
        "code": self.code,
      }
    }


def invalid(message: str, param: str | None = None) -> ApiError:
  """Returns the error for a request that can never succeed."""
  return ApiError(400, message, "invalid_value", param)


def not_ready(message: str) -> ApiError:
  """Returns the error for a request that may succeed soon."""
  return ApiError(503, message, "not_ready", headers={"Retry-After": "5"})


@contextlib.contextmanager
def refusing(param: str | None = None) -> Iterator[None]:
  """Turns a ValueError into an ApiError, which may name a wrong field."""
  try:
    yield
  except FieldError as error:
    error.param = error.param or param
    raise
  except ValueError as error:
    raise invalid(str(error), param) from None


def reason(error: BaseException) -> str:
  """Returns the reason for a failure, without the server's paths."""
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  if isinstance(error, sqlite3.Error | TimeoutError):
    return str(error)
  return type(error).__name__


def _of_storage(error: OSError | sqlite3.Error) -> ApiError:
  """Returns the error for a request that failed in a disk or a bucket."""
  logging.warning("Storage failed: %r", error)
  message = f"The server's storage failed: {reason(error)}."
  code = getattr(error, "sqlite_errorcode", None)
  if code == sqlite3.SQLITE_FULL or getattr(error, "errno", None) in _FULL:
    return ApiError(507, message, "storage_full")
  retry = {"Retry-After": "5"}
  return ApiError(503, message, "storage_failed", headers=retry)


def api_error(error: BaseException) -> ApiError:
  """Returns the error that a client gets for an exception."""
  match error:
    case ApiError():
      return error
    case TooLongError(param=param):
      code = "context_length_exceeded"
      return ApiError(400, str(error), code, param or "prompt")
    case FieldError(param=param):
      return invalid(str(error), param)
    case QueueFullError():
      return ApiError(
        429, str(error), "queue_full", headers={"Retry-After": "1"}
      )
    case ClosedError():
      return not_ready(str(error))
    case OSError() | sqlite3.Error():
      return _of_storage(error)
    case jobs.UnknownError():
      return ApiError(404, str(error), f"{error.kind}_not_found")
    case requests.ClientDisconnect():
      return ApiError(400, "The client left.", "client_left")
    case jobs.InUseError():
      return ApiError(409, str(error), "file_in_use")
    case RequestValidationError():
      first = error.errors()[0]
      # With another content type, the body is bytes.
      if first["type"] == "json_invalid" or isinstance(first["input"], bytes):
        return invalid(
          "Expected a JSON body with Content-Type application/json."
        )
      # Without "body" or "query", and without the indices of items.
      place = [x for x in first["loc"][1:] if isinstance(x, str)]
      # After the fields, pydantic names the member of a union.
      bodies = schemas.Schema.__subclasses__()
      fields = {name for body in bodies for name in body.model_fields}
      if first["type"] == "extra_forbidden":
        fields.add(place[-1])
      inner = itertools.takewhile(fields.__contains__, place[1:])
      name = ".".join([*place[:1], *inner]) or None
      return invalid(f"{name or 'body'}: {first['msg']}.", name)
    case HTTPException(status_code=status):
      code = "not_found" if status == 404 else "invalid_request"
      return ApiError(status, f"{error.detail}.", code, headers=error.headers)
  logging.error("A request failed.", exc_info=error)
  return ApiError(500, "The server failed.", "internal_error")


async def respond(
  request: requests.Request, error: Exception
) -> responses.JSONResponse:
  """Returns the response to a request that ended with an exception."""
  found = api_error(error)
  if isinstance(error, HTTPException) and found is not error:
    found.detail = f"{request.method} {request.url.path[:200]}: {found.detail}"
  return responses.JSONResponse(
    found.body, found.status_code, headers=found.headers
  )
