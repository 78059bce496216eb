"""`/v1/files` and `/v1/fine_tuning/jobs`: tuning, in OpenAI's form."""

import asyncio
from collections.abc import AsyncIterator
import dataclasses
import json
import re
from typing import Annotated, Any, Literal

import fastapi

from prompt_tuning.serving import access_log, errors
from prompt_tuning.serving.errors import ApiError
from prompt_tuning.serving.schemas import MAX_LEARNING_RATE, MAX_STEPS, NewJob
from prompt_tuning.serving.service import EventStream, Service
from prompt_tuning.tuning_jobs import jobs as jobs_lib
from prompt_tuning.tuning_jobs.job_store import JobStore
from prompt_tuning.tuning_jobs.jobs import SUCCEEDED, File, Job, JobEvent

Limit = Annotated[int, fastapi.Query(ge=1)]
_LOOK_SECONDS = 0.5
# The fields of a job that are shown as they are.
_SHOWN = ("id", "created_at", "finished_at", "status", "score", "step")
_SHOWN += ("training_file", "validation_file")


def add_routes(app: fastapi.FastAPI, service: Service) -> None:
  """Adds the routes for a service's files and jobs to an application."""
  own = service.own_jobs
  _add_files(app, service)

  @app.post("/v1/fine_tuning/jobs")
  def create(body: NewJob):
    if body.model != service.base:
      raise ApiError(
        404,
        f"Prompts are tuned for {service.base!r}, got {body.model[:80]!r}.",
        "model_not_found",
        "model",
      )
    store = own()
    file = store.file(body.training_file)
    if body.validation_file is not None:
      _check_lengths(service, store, body.validation_file)
    longest = service.engine.settings.longest_prompt
    settings = _settings(body, file.pairs, longest)
    with service.room(length=settings.length, jobs=1):
      job = store.add_job(
        body.training_file, body.validation_file, body.suffix, settings
      )
    access_log.write("job.created", job=job.id, prompt=job.prompt)
    if service.supervisor is not None:
      service.supervisor.wake()
    return _job(job)

  @app.get("/v1/fine_tuning/jobs")
  def jobs(limit: Limit = 20, after: str | None = None):
    return _page([_job(job) for job in own().jobs()], limit, after)

  @app.get("/v1/fine_tuning/jobs/{id}")
  def job(id: str):
    return _job(own().job(id))

  @app.post("/v1/fine_tuning/jobs/{id}/cancel")
  def cancel(id: str):
    store = own()
    if store.job(id).status in jobs_lib.FINAL:
      raise errors.invalid("The job is over.")
    cancelled = store.cancel(id)
    access_log.write("job.cancelled", job=id)
    return _job(cancelled)

  @app.get("/v1/fine_tuning/jobs/{id}/events")
  def events(
    request: fastapi.Request,
    id: str,
    stream: bool = False,
    limit: Limit | None = None,
    after: str | None = None,
  ):
    store = own()
    store.job(id)
    if not stream:  # The newest first, as OpenAI's.
      items = [_event(x) for x in reversed(store.events(id))]
      return _page(items, 1000 if limit is None else limit, after)
    for name, value in {"limit": limit, "after": after}.items():
      if value is not None:
        raise errors.invalid(
          f"A stream has no {name}: the header Last-Event-ID says where it "
          "starts.",
          name,
        )
    last = request.headers.get("last-event-id", "")
    is_number = re.fullmatch("[0-9]{1,18}", last)
    return EventStream(
      _stream(service, store, id, int(last) if is_number else 0)
    )


def _add_files(app: fastapi.FastAPI, service: Service) -> None:
  own = service.own_jobs

  @app.post("/v1/files")
  async def upload(
    file: fastapi.UploadFile,
    purpose: Literal["fine-tune"] = fastapi.Form(),
  ):
    del purpose
    name = (file.filename or "data.jsonl")[:200]
    content = await file.read()

    def add() -> File:
      with service.room(len(content)):
        return own().add_file(name, content)

    with errors.refusing("file"):
      added = await asyncio.to_thread(add)
    access_log.write("file.created", file=added.id, bytes=added.bytes)
    return _file(added)

  @app.get("/v1/files")
  def files(
    limit: Limit = 100,
    after: str | None = None,
    order: Literal["asc", "desc"] = "desc",
    purpose: str | None = None,
  ):
    found = [_file(file) for file in own().files()]
    if order == "asc":
      found.reverse()
    items = [x for x in found if purpose in (None, x["purpose"])]
    return _page(items, limit, after)

  @app.get("/v1/files/{id}")
  def file(id: str):
    return _file(own().file(id))

  @app.get("/v1/files/{id}/content")
  def content(id: str):
    return fastapi.Response(own().content(id), media_type="application/jsonl")

  @app.delete("/v1/files/{id}")
  def delete(id: str):
    own().delete_file(id)
    access_log.write("file.deleted", file=id)
    return {"id": id, "object": "file", "deleted": True}


def _check_lengths(service: Service, store: JobStore, file: str) -> None:
  """Refuses validation texts that are too long to answer, or for memory.

  Training cuts such texts.
  """
  vocabulary = service.engine.model.vocabulary
  most = max(service.engine.settings.shapes.lengths)
  pairs = jobs_lib.parse_examples(store.content(file))
  for number, pair in enumerate(pairs, 1):
    for text in pair:
      # Odd characters aside, few texts have two tokens per character.
      if 2 * len(text) >= most and len(vocabulary.encode(text)) >= most:
        raise errors.invalid(
          f"Expected texts of less than {most} tokens in the validation file, "
          f"as the server answers; one of example {number} has more.",
          "validation_file",
        )


def _settings(body: NewJob, pairs: int, longest: int) -> jobs_lib.Settings:
  """Returns the settings of a job, with numbers for "auto" and epochs."""
  given, default = body.hyperparameters, jobs_lib.Settings()
  length = given.length or min(default.length, longest)
  batch_size = given.batch_size or min(default.batch_size, pairs)
  steps = given.steps or default.steps
  if given.n_epochs is not None:
    steps = -(-pairs * given.n_epochs // batch_size)
  rate = given.learning_rate * given.learning_rate_multiplier

  def check(is_right: bool, name: str, expected: str) -> None:
    if not is_right:
      raise errors.invalid(f"Expected {expected}.", f"hyperparameters.{name}")

  check(length <= longest, "length", f"at most {longest}, got {length}")
  check(
    batch_size <= pairs,
    "batch_size",
    f"a batch size from 1 to {pairs}, the file's examples, got {batch_size}",
  )
  is_clear = given.n_epochs is None or given.steps is None
  check(is_clear, "n_epochs", "steps or n_epochs, not both")
  check(
    steps <= MAX_STEPS,
    "n_epochs",
    f"epochs of at most {MAX_STEPS} steps in all",
  )
  check(
    0 < rate <= MAX_LEARNING_RATE,
    "learning_rate_multiplier",
    f"a learning rate in (0, {MAX_LEARNING_RATE:g}] in all, got {rate:g}",
  )
  return jobs_lib.Settings(
    length,
    steps,
    given.init,
    rate,
    batch_size,
    body.seed,
    given.rank,
    given.n_epochs,
  )


def _file(file: File) -> dict[str, Any]:
  constant = {"object": "file", "purpose": "fine-tune", "status": "processed"}
  return dataclasses.asdict(file) | constant


def _job(job: Job) -> dict[str, Any]:
  settings = dataclasses.asdict(job.settings)
  rate = job.settings.learning_rate / jobs_lib.Settings.learning_rate
  failure = {"code": "failed", "message": job.error, "param": None}
  return {
    **{name: getattr(job, name) for name in _SHOWN},
    "object": "fine_tuning.job",
    "model": job.model,
    "fine_tuned_model": job.prompt if job.status == SUCCEEDED else None,
    "organization_id": "prompt_tuning",
    "result_files": [],
    "trained_tokens": None,
    "seed": settings.pop("seed"),
    "hyperparameters": {
      **settings,
      "n_epochs": job.settings.n_epochs or "auto",
      "learning_rate_multiplier": rate,
    },
    "error": failure if job.error else None,
  }


def _event(event: JobEvent) -> dict[str, Any]:
  return {
    "id": f"ftevent-{event.number}",
    "object": "fine_tuning.job.event",
    "created_at": int(event.created_at),
    "level": "error" if event.data.get("status") == "failed" else "info",
    "message": event.message,
    "type": "metrics" if event.kind in ("train", "eval") else "message",
    "kind": event.kind,
    "data": event.data,
  }


def _page(
  items: list[dict[str, Any]], limit: int, after: str | None
) -> dict[str, Any]:
  """Returns the part of a list that follows the item `after`."""
  start = 0
  if after is not None:
    ids = [item["id"] for item in items]
    start = ids.index(after) + 1 if after in ids else len(items)
  some = items[start : start + limit]
  return {
    "object": "list",
    "data": some,
    "has_more": start + limit < len(items),
    "first_id": some[0]["id"] if some else None,
    "last_id": some[-1]["id"] if some else None,
  }


async def _stream(
  service: Service, store: JobStore, id: str, after: int
) -> AsyncIterator[str]:
  """Yields a job's events as server-sent ones, until the job is over."""
  while not service.is_stopping:
    # In this order: all events of a job that is over are read.
    job = await asyncio.to_thread(store.job, id)
    for event in await asyncio.to_thread(store.events, id, after):
      after = event.number
      yield f"id: {after}\ndata: {json.dumps(_event(event))}\n\n"
    if job.status in jobs_lib.FINAL:
      yield "data: [DONE]\n\n"
      return
    # A comment, which fails if the client has left.
    yield ": \n\n"
    await asyncio.sleep(_LOOK_SECONDS)
