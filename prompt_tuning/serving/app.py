"""The HTTP application: the routes and the middleware around them."""

import asyncio
import contextlib
import dataclasses
import re
from typing import Any, Literal

import fastapi
from fastapi import responses
import prometheus_client
from starlette.types import ASGIApp

from prompt_tuning import prompt_files
from prompt_tuning.inference.requests import TunedPrompt
from prompt_tuning.serving import completions, errors, prompt_store
from prompt_tuning.serving.errors import ApiError
from prompt_tuning.serving.middleware import LimitsMiddleware
from prompt_tuning.serving.service import Service

# Probes, and the page that asks for a key, need none.
OPEN_PATHS = re.compile(r"/(static/.*|healthz|readyz)?")
UPLOAD_PATHS = re.compile(r"/v1/(prompts/.*|files)")


def make(service: Service, *routers: fastapi.APIRouter) -> ASGIApp:
  """Makes the application.

  Args:
    service: The model and the prompts.
    *routers: More routes.
  """
  app = fastapi.FastAPI(
    title="prompt_tuning",
    lifespan=service.lifespan,
    docs_url=None,
    redoc_url=None,
  )
  errors.install(app)
  for router in (
    _probes(service),
    _models(service),
    completions.router(service),
    *routers,
  ):
    app.include_router(router)
  limited = LimitsMiddleware(app, service.limits, OPEN_PATHS, UPLOAD_PATHS)
  return service.metrics.around(limited)


def _probes(service: Service) -> fastapi.APIRouter:
  routes = fastapi.APIRouter()

  def check_engine():
    if service.engine.failure is not None:
      raise ApiError(500, "The engine failed.", "internal_error")

  # Async: all threads may be waiting for a folder that does not answer.
  @routes.get("/healthz")
  async def health():
    """Returns 200 unless the process should be restarted."""
    check_engine()
    supervisor = service.supervisor
    problem = None if supervisor is None else supervisor.problem
    # No reason to restart: the process answers, and a new one could not tune.
    return {"status": "ok"} | ({"jobs": problem} if problem else {})

  @routes.get("/readyz")
  async def ready():
    """Returns 200 if the server answers requests."""
    check_engine()
    if service.is_stopping or not service.engine.is_ready:
      raise errors.not_ready("The server is starting or stopping.")
    return {"status": "ready"}

  @routes.get("/metrics")
  def metrics():
    return fastapi.Response(
      service.metrics.text(), media_type=prometheus_client.CONTENT_TYPE_LATEST
    )

  return routes


def _models(service: Service) -> fastapi.APIRouter:
  routes = fastapi.APIRouter()

  def described(prompt: TunedPrompt | None) -> dict[str, Any]:
    """Returns a model: a prompt, or the base without one."""
    model = {
      "id": service.base,
      "object": "model",
      "created": service.started,
      "owned_by": "prompt_tuning",
    }
    if prompt is None:
      return {**model, "fingerprint": service.engine.model.fingerprint}
    details = {"length": prompt.length, "width": prompt.array.shape[1]}
    if prompt.metadata is not None:
      details |= dataclasses.asdict(prompt.metadata)
    changes = {"id": prompt.name, "parent": service.base, "prompt": details}
    return model | changes

  @routes.get("/v1/models")
  def models():
    prompts = service.store.all()
    return {"object": "list", "data": [*map(described, [None, *prompts])]}

  @routes.get("/v1/models/{name:path}")  # The base's name may have a slash.
  async def model(name: str):
    return described(await service.prompt(name))

  @routes.delete("/v1/models/{name}")
  @routes.delete("/v1/prompts/{name}")
  async def delete(name: str):
    if await service.prompt(name) is None:
      raise errors.invalid("The base model cannot be deleted.", "model")
    with contextlib.suppress(prompt_store.UnknownPromptError):
      await asyncio.to_thread(service.store.delete, name)
    return {"id": name, "object": "model", "deleted": True}

  @routes.put("/v1/prompts/{name}", status_code=201)
  async def put(name: str, request: fastapi.Request):
    content = await request.body()
    with errors.refusing():
      # In a thread: an archive may be large, and the folder in a bucket.
      prompt = await asyncio.to_thread(service.store.put, name, content)
    return described(prompt)

  @routes.get("/v1/prompts/{name}")
  async def get(
    name: str,
    format: Literal["safetensors", "npy", "peft"] = "safetensors",
  ):
    """Returns the prompt's file."""
    prompt = await service.prompt_alone(name)
    suffix = "zip" if format == "peft" else format
    disposition = f'attachment; filename="{name}.{suffix}"'
    return responses.Response(
      await asyncio.to_thread(_file, prompt, format),
      media_type="application/octet-stream",
      headers={"Content-Disposition": disposition},
    )

  return routes


def _file(prompt: TunedPrompt, format: str) -> bytes:
  """Returns a prompt as the content of a file."""
  if format == "peft":
    return prompt_store.adapter_archive(prompt)
  return prompt_files.content(prompt.array, prompt.metadata, f".{format}")
