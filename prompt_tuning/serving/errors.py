"""Errors in OpenAI's form."""

import itertools
from typing import Any

from absl import logging
import fastapi
from fastapi import responses
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from prompt_tuning.serving import forms


class ApiError(Exception):
  """What a client is told instead of an answer.

  Attributes:
    status: Of HTTP.
    message: For people.
    code: For programs.
    param: The field that is wrong, if it is one.
    headers: Of the response.
  """

  def __init__(
    self,
    status: int,
    message: str,
    code: str,
    param: str | None = None,
    headers: dict[str, str] | None = None,
  ):
    """Keeps its arguments."""
    super().__init__(message)
    self.status, self.message, self.code = status, message, code
    self.param, self.headers = param, headers

  @property
  def body(self) -> dict[str, Any]:
    """What is sent."""
    kind = {
      401: "authentication_error",
      404: "not_found_error",
      429: "rate_limit_error",
    }.get(self.status)
    if kind is None:
      kind = "invalid_request_error" if self.status < 500 else "server_error"
    return {
      "error": {
        "message": self.message,
        "type": kind,
        "param": self.param,
        "code": self.code,
      }
    }

  def response(self) -> responses.JSONResponse:
    """Returns it as a response."""
    return responses.JSONResponse(self.body, self.status, headers=self.headers)


def invalid(message: str, param: str | None = None) -> ApiError:
  """Returns the error of a request that will never be right."""
  return ApiError(400, message, "invalid_value", param)


def busy(message: str) -> ApiError:
  """Returns the error of a queue that is full just now."""
  return ApiError(429, message, "queue_full", headers={"Retry-After": "1"})


def not_ready(message: str) -> ApiError:
  """Returns the error of what a server cannot do now, but may soon."""
  return ApiError(503, message, "not_ready", headers={"Retry-After": "5"})


def _is_field(name: str | int) -> bool:
  """Whether a body has such a field."""
  return any(name in form.model_fields for form in forms.Form.__subclasses__())


def install(app: fastapi.FastAPI) -> None:
  """Gives every error of an app OpenAI's form."""

  @app.exception_handler(ApiError)
  async def _(_request: fastapi.Request, error: ApiError):
    return error.response()

  @app.exception_handler(RequestValidationError)
  async def _(_request: fastapi.Request, error: RequestValidationError):
    first = error.errors()[0]
    place = [x for x in first["loc"] if x not in ("body", "query")]
    if first["type"] == "json_invalid":
      return invalid("Expected a body of JSON.").response()
    # Behind the fields come numbers of items and what kinds a field may have.
    place = [*place[:1], *itertools.takewhile(_is_field, place[1:])]
    name = ".".join(map(str, place)) or None
    return invalid(f"{name or 'body'}: {first['msg']}.", name).response()

  @app.exception_handler(HTTPException)
  async def _(request: fastapi.Request, error: HTTPException):
    message = f"{request.method} {request.url.path[:200]}: {error.detail}."
    return ApiError(
      error.status_code,
      message,
      "not_found" if error.status_code == 404 else "invalid_request",
      headers=dict(error.headers) if error.headers else None,
    ).response()

  @app.exception_handler(Exception)
  async def _(_request: fastapi.Request, error: Exception):
    logging.error("A request failed.", exc_info=error)
    return ApiError(500, "The server failed.", "internal_error").response()
