"""The HTTP application: its routes, and what is around them."""

import asyncio
import contextlib
import dataclasses
from typing import Any, Literal

import fastapi
from fastapi import responses
import prometheus_client
from starlette.types import ASGIApp

from prompt_tuning import prompt_files
from prompt_tuning.inference.requests import Prompt
from prompt_tuning.serving import completions, errors, prompt_store
from prompt_tuning.serving.errors import ApiError
from prompt_tuning.serving.gate import Gate
from prompt_tuning.serving.service import Service

# What needs no key: probes, and a page that asks for one.
OPEN_PATHS = ("/", "/static/", "/healthz", "/readyz")
UPLOAD_PATHS = ("/v1/prompts/", "/v1/files")


def make(service: Service, *routers: fastapi.APIRouter) -> ASGIApp:
  """Makes the application.

  Args:
    service: What it offers.
    *routers: More routes.
  """

  @contextlib.asynccontextmanager
  async def lifespan(_app: fastapi.FastAPI):
    async with contextlib.asynccontextmanager(service.started_engine)():
      yield

  app = fastapi.FastAPI(
    title="prompt_tuning", lifespan=lifespan, docs_url=None, redoc_url=None
  )
  errors.install(app)
  for router in (
    _probes(service),
    _models(service),
    _prompts(service),
    completions.router(service),
    *routers,
  ):
    app.include_router(router)
  gate = Gate(app, service.limits, OPEN_PATHS, UPLOAD_PATHS)
  return service.metrics.around(gate)


def _probes(service: Service) -> fastapi.APIRouter:
  routes = fastapi.APIRouter()

  def check_engine():
    if service.engine.failure is not None:
      raise ApiError(500, "The engine failed.", "internal_error")

  # Async: threads may all wait for a folder that does not answer.
  @routes.get("/healthz")
  async def health():
    """Whether the process should live."""
    check_engine()
    supervisor = service.supervisor
    problem = None if supervisor is None else supervisor.problem
    # The process answers all the same: another one could tune no more.
    return {"status": "ok"} | ({"jobs": problem} if problem else {})

  @routes.get("/readyz")
  async def ready():
    """Whether requests are answered."""
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

  def of_base() -> dict[str, Any]:
    return {
      "id": service.base,
      "object": "model",
      "created": service.started,
      "owned_by": "prompt_tuning",
      "fingerprint": service.engine.model.fingerprint,
    }

  def of_prompt(prompt: Prompt) -> dict[str, Any]:
    described = {"length": prompt.length, "width": prompt.array.shape[1]}
    if prompt.metadata is not None:
      described |= dataclasses.asdict(prompt.metadata)
    return {
      "id": prompt.name,
      "object": "model",
      "created": service.started,
      "owned_by": "prompt_tuning",
      "parent": service.base,
      "prompt": described,
    }

  @routes.get("/v1/models")
  def models():
    prompts = service.store.all()
    return {"object": "list", "data": [of_base(), *map(of_prompt, prompts)]}

  @routes.get("/v1/models/{name:path}")  # A model's may have a slash.
  async def model(name: str):
    prompt = await service.prompt(name)
    return of_base() if prompt is None else of_prompt(prompt)

  @routes.delete("/v1/models/{name}")
  @routes.delete("/v1/prompts/{name}")
  async def delete(name: str):
    if await service.prompt(name) is None:
      raise errors.invalid("The model alone cannot be deleted.", "model")
    with contextlib.suppress(prompt_store.UnknownPromptError):
      await asyncio.to_thread(service.store.delete, name)
    return {"id": name, "object": "model", "deleted": True}

  @routes.put("/v1/prompts/{name}", status_code=201)
  async def put(name: str, request: fastapi.Request):
    content = await request.body()
    try:
      # Beside other requests: an archive may be large, the folder a bucket.
      prompt = await asyncio.to_thread(service.store.put, name, content)
    except ValueError as error:
      raise errors.invalid(str(error)) from None
    return of_prompt(prompt)

  return routes


def _prompts(service: Service) -> fastapi.APIRouter:
  routes = fastapi.APIRouter()

  @routes.get("/v1/prompts/{name}")
  async def get(
    name: str,
    format: Literal["safetensors", "npy", "peft"] = "safetensors",
  ):
    """Returns the prompt's file."""
    prompt = await service.prompt(name)
    if prompt is None:
      raise errors.invalid("The model alone has no prompt.", "model")
    suffix = "zip" if format == "peft" else format
    disposition = f'attachment; filename="{name}.{suffix}"'
    return responses.Response(
      await asyncio.to_thread(_file, prompt, format),
      media_type="application/octet-stream",
      headers={"Content-Disposition": disposition},
    )

  return routes


def _file(prompt: Prompt, form: str) -> bytes:
  """Returns a prompt as the content of a file."""
  if form == "peft":
    return prompt_store.adapter_archive(prompt)
  return prompt_files.content(prompt.array, prompt.metadata, f".{form}")
