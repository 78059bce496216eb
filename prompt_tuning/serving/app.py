"""The HTTP application: its own routes, other modules', and the middleware."""

import asyncio
import contextlib
import dataclasses
import functools
from importlib import resources
import mimetypes
import sqlite3
from typing import Any, Literal

import fastapi
from fastapi.exceptions import RequestValidationError
import prometheus_client
from starlette.exceptions import HTTPException

from prompt_tuning import prompt_files
from prompt_tuning.inference import neighbours
from prompt_tuning.inference.requests import TunedPrompt
from prompt_tuning.serving import (
  access_log,
  completions,
  errors,
  job_routes,
  prompt_store,
  schemas,
  tenants,
)
from prompt_tuning.serving.access_log import LogMiddleware
from prompt_tuning.serving.errors import ApiError
from prompt_tuning.serving.middleware import LimitsMiddleware
from prompt_tuning.serving.service import Service, page
from prompt_tuning.tuning_jobs import owners

# The page loads and runs only its own files, and no other page can embed it.
_HEADERS = {
  "Content-Security-Policy": "default-src 'none'; script-src 'self'; "
  "style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
  "form-action 'none'; frame-ancestors 'none'",
  "X-Content-Type-Options": "nosniff",
  "Referrer-Policy": "no-referrer",
  # After an update, a browser must not run an old script in a new page.
  "Cache-Control": "no-cache",
}


def make(service: Service) -> fastapi.FastAPI:
  """Makes the application of a service."""
  app = fastapi.FastAPI(
    title="prompt_tuning",
    lifespan=service.lifespan,
    docs_url=None,
    redoc_url=None,
    # The middleware handles the other exceptions.
    exception_handlers={
      HTTPException: errors.respond,
      RequestValidationError: errors.respond,
    },
  )
  for add_routes in (
    completions.add_routes,  # First, because routes are searched in order.
    _add_probes,
    _add_models,
    _add_page,
  ):
    add_routes(app, service)
  if service.jobs is not None:
    job_routes.add_routes(app, service)
  app.add_middleware(LimitsMiddleware, quotas=service.quotas)
  app.add_middleware(LogMiddleware, metrics=service.metrics)  # Outermost.
  return app


def _add_probes(app: fastapi.FastAPI, service: Service) -> None:
  def check_engine():
    if service.engine.failure is not None:
      raise ApiError(500, "The engine failed.", "internal_error")

  # Async, because all threads may be waiting for a folder that hangs.
  @app.get("/healthz")
  async def health():
    """Returns 200 unless the process should be restarted."""
    check_engine()
    problems = await service.problems()
    # Not a reason to restart: the process answers, and a new one would have
    # the same problems.
    return {"status": "degraded" if problems else "ok", **problems}

  @app.get("/readyz")
  async def ready():
    """Returns 200 if the server answers requests."""
    check_engine()
    if service.is_stopping or not service.engine.is_ready:
      raise errors.not_ready("The server is starting or stopping.")
    return {"status": "ready"}

  @app.get("/metrics")
  async def metrics():
    if service.jobs is not None:
      with contextlib.suppress(OSError, sqlite3.Error):  # /healthz reports it.
        counts = await service.job_threads.run(service.jobs.counts, seconds=1)
        service.metrics.count_jobs(counts)
    return fastapi.Response(
      service.metrics.text({service.base, *service.store.all()}),
      media_type=prometheus_client.CONTENT_TYPE_LATEST,
    )


def _add_models(app: fastapi.FastAPI, service: Service) -> None:
  described = functools.partial(_described, service)

  @app.get("/v1/models")
  async def models(
    limit: schemas.Limit = 1000, after: str | None = None, search: str = ""
  ):
    await service.store.look()
    prompts = service.store.all(tenants.current.get())
    found = {
      name: x
      for name, x in {service.base: None, **prompts}.items()
      if search.lower() in name.lower()
    }
    return page(found, described, limit, after)

  @app.get("/v1/models/{name:path}")  # The base's name may have a slash.
  async def model(name: str):
    return described(await service.prompt(name))

  @app.delete("/v1/models/{name}")
  @app.delete("/v1/prompts/{name}")
  async def delete(name: str):
    if (prompt := await service.prompt(name)) is None:
      raise errors.invalid("The base model cannot be deleted.", "model")
    if not owners.owns(tenants.current.get(), prompt.name):
      message = f"The prompt {name!r} belongs to another key, or to the server."
      raise ApiError(403, message, "not_the_owner", "model")
    await service.prompt_threads.run(service.store.delete, prompt.name)
    access_log.write("prompt.deleted", prompt=prompt.name)
    return {"id": name, "object": "model", "deleted": True}

  @app.put("/v1/prompts/{name}", status_code=201)
  async def put(name: str, request: fastapi.Request, shared: bool = False):
    content, tenant = await request.body(), tenants.current.get()

    def store() -> TunedPrompt:
      return service.store.put(
        *(name, content, tenant, shared),
        lambda x: service.room(length=x.length, prompt=x.name),
      )

    with errors.refusing():
      # In a thread, because an archive may be large, or the folder in a bucket.
      prompt = await service.prompt_threads.run(store)
    access_log.write("prompt.stored", prompt=prompt.name)
    return described(prompt)

  @app.get("/v1/prompts/{name}")
  async def get(
    name: str,
    format: Literal["safetensors", "npy", "peft"] = "safetensors",
  ):
    """Returns the prompt's file."""
    prompt, suffix = await service.prompt_alone(name), format
    if format == "peft":
      suffix = "zip"
      content = await asyncio.to_thread(
        prompt_store.adapter_archive, prompt, service.engine.model.checkpoint
      )
    else:
      content = prompt_files.content(
        prompt.array, prompt.metadata, f".{format}"
      )
    disposition = f'attachment; filename="{name}.{suffix}"'
    return fastapi.Response(
      content,
      media_type="application/octet-stream",
      headers={"Content-Disposition": disposition},
    )


def _described(service: Service, prompt: TunedPrompt | None) -> dict[str, Any]:
  """Returns a model: a prompt, or the base without one."""
  model = {
    "id": service.base,
    "object": "model",
    "created": service.started,
    "owned_by": "prompt_tuning",
  }
  if prompt is None:
    base, step = service.engine.model, service.engine.model.in_memory.step
    return {**model, "fingerprint": base.fingerprint, "step": step}
  details = {"length": prompt.length, "width": prompt.array.shape[1]}
  if prompt.metadata is not None:
    details |= dataclasses.asdict(prompt.metadata)
  name = owners.shown(prompt.name, tenants.current.get())
  changes = {"id": name, "parent": service.base, "prompt": details}
  if created := service.store.created(prompt.name):
    changes["created"] = created
  _, owner, is_shared = owners.split(prompt.name)
  if owner:
    changes |= {"owned_by": owner, "shared": is_shared}
  return model | changes


def _add_page(app: fastapi.FastAPI, service: Service) -> None:
  """Adds the page's files, and the routes that only it uses."""
  folder = resources.files("prompt_tuning.serving") / "static"
  files = {path.name: path.read_bytes() for path in folder.iterdir()}
  # One analysis at a time, because each copies the embeddings in float32.
  analysing = asyncio.Lock()

  @app.get("/")
  @app.get("/static/{name}")
  async def static(name: str = "index.html"):
    if name not in files:
      raise ApiError(404, "The page has no such file.", "not_found")
    kind = mimetypes.guess_type(name)[0]
    return fastapi.Response(files[name], media_type=kind, headers=_HEADERS)

  @app.get("/v1/page")
  async def offer():
    """Returns the settings of the page."""
    settings = service.engine.settings
    return {
      "object": "page",
      "examples": service.examples,
      "max_tokens": max(settings.shapes.steps),
      "longest_prompt": settings.longest_prompt,
      "tunes": service.jobs is not None,
    }

  @app.get("/v1/prompts/{name}/words")
  async def words(name: str, count: int = fastapi.Query(5, ge=1, le=50)):
    """Returns the vocabulary's words that are nearest to a prompt."""
    prompt = await service.prompt_alone(name)
    async with analysing:
      return await asyncio.to_thread(_words, service, prompt, count)


def _words(service: Service, prompt: TunedPrompt, count: int) -> dict[str, Any]:
  model = service.engine.model
  result = neighbours.analyse(
    prompt.array, model.embedding, model.vocabulary, num_neighbours=count
  )
  return {
    "object": "prompt.words",
    "embedding_norm": result.embedding_norm,
    "positions": [
      {
        "norm": norm,
        "words": [
          {"word": word, "cosine": cosine}
          for word, cosine in zip(words, cosines, strict=True)
        ],
      }
      for _, norm, words, cosines, _ in result.positions.itertuples()
    ],
  }
