"""`/v1/files` and `/v1/fine_tuning/jobs`: tuning, in OpenAI's format."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
import dataclasses
import functools
import json
import re
import sqlite3
from typing import Any, Literal

import fastapi

from prompt_tuning.data import text_pairs
from prompt_tuning.serving import access_log, errors
from prompt_tuning.serving.errors import ApiError
from prompt_tuning.serving.schemas import (
  MAX_LEARNING_RATE,
  MAX_STEPS,
  Hyperparameters,
  Limit,
  NewJob,
)
from prompt_tuning.serving.service import EventStream, Service, page
from prompt_tuning.training import tuning
from prompt_tuning.tuning_jobs import jobs as jobs_lib
from prompt_tuning.tuning_jobs.job_store import JobStore
from prompt_tuning.tuning_jobs.jobs import SUCCEEDED, File, Job, JobEvent

_LOOK_SECONDS = 0.5
# Training inputs whose pieces are counted.
_SAMPLE = 200
# The fields of a job that are shown as they are.
_SHOWN = ("id", "created_at", "finished_at", "status", "score", "step")
_SHOWN += ("training_file", "validation_file", "metadata")


def add_routes(app: fastapi.FastAPI, service: Service) -> None:
  """Adds the routes for a service's files and jobs to an application."""
  own, route = service.own_jobs, service.job_threads.route
  _add_files(app, service)

  @app.post("/v1/fine_tuning/jobs")
  @route
  def create(body: NewJob):
    if body.model != service.base:
      raise ApiError(
        404,
        f"Prompts are tuned for {service.base!r}, got {body.model[:80]!r}.",
        "model_not_found",
        "model",
      )
    job = _add_job(service, own(), body)
    if service.supervisor is not None:
      service.supervisor.wake()
    return _job(service, job)

  @app.get("/v1/fine_tuning/jobs")
  @route
  def jobs(
    request: fastapi.Request, limit: Limit = 20, after: str | None = None
  ):
    shown, query = functools.partial(_job, service), request.query_params
    found = {job.id: job for job in own().jobs() if _has_notes(job, query)}
    return page(found, shown, limit, after)

  @app.get("/v1/fine_tuning/jobs/{id}")
  @route
  def job(id: str):
    return _job(service, own().job(id))

  @app.post("/v1/fine_tuning/jobs/{id}/cancel")
  @route
  def cancel(id: str):
    store = own()
    if store.job(id).status in jobs_lib.FINAL:
      raise errors.invalid("The job is over.")
    cancelled = store.cancel(id)
    access_log.write("job.cancelled", job=id)
    return _job(service, cancelled)

  @app.get("/v1/fine_tuning/jobs/{id}/checkpoints")
  @route
  def checkpoints(id: str, limit: Limit = 10, after: str | None = None):
    """Returns the only checkpoint that can be served: the job's prompt."""
    job = own().job(id)
    found = {f"ftckpt-{id[6:]}": job} if job.status == SUCCEEDED else {}
    return page(found, _checkpoint, limit, after)

  @app.get("/v1/fine_tuning/jobs/{id}/events")
  @route
  def events(
    request: fastapi.Request,
    id: str,
    stream: bool = False,
    limit: Limit | None = None,
    after: str | None = None,
  ):
    store = own()
    store.job(id)
    if not stream:  # The newest first, as in OpenAI's API.
      items = {f"ftevent-{x.number}": x for x in reversed(store.events(id))}
      return page(items, _event, 1000 if limit is None else limit, after)
    for name, value in {"limit": limit, "after": after}.items():
      if value is not None:
        raise errors.invalid(
          f"A stream has no {name}: use the header Last-Event-ID to choose its "
          "start.",
          name,
        )
    last = request.headers.get("last-event-id", "")
    is_number = re.fullmatch("[0-9]{1,18}", last)
    return EventStream(
      _stream(service, store, id, int(last) if is_number else 0)
    )


def _add_files(app: fastapi.FastAPI, service: Service) -> None:
  own, route = service.own_jobs, service.job_threads.route

  @app.post("/v1/files")
  async def upload(
    file: fastapi.UploadFile,
    purpose: Literal["fine-tune"] = fastapi.Form(),
    # Refused, because files stay until they are deleted.
    end: None = fastapi.Form(None, alias="expires_after[anchor]"),
  ):
    del purpose, end
    name = (file.filename or "data.jsonl")[:200]
    content = await file.read()

    def add() -> File:
      with service.room(len(content)):
        return own().add_file(name, content)

    with errors.refusing("file"):
      added = await service.job_threads.run(add)
    access_log.write("file.created", file=added.id, bytes=added.bytes)
    return _file(added)

  @app.get("/v1/files")
  @route
  def files(
    limit: Limit = 100,
    after: str | None = None,
    order: Literal["asc", "desc"] = "desc",
    purpose: str | None = None,
  ):
    found = own().files() if purpose in (None, "fine-tune") else []
    if order == "asc":
      found.reverse()
    return page({file.id: file for file in found}, _file, limit, after)

  @app.get("/v1/files/{id}")
  @route
  def file(id: str):
    return _file(own().file(id))

  @app.get("/v1/files/{id}/content")
  @route
  def content(id: str):
    with errors.refusing():
      content = own().content(id)
    return fastapi.Response(content, media_type="application/jsonl")

  @app.delete("/v1/files/{id}")
  @route
  def delete(id: str):
    own().delete_file(id)
    access_log.write("file.deleted", file=id)
    return {"id": id, "object": "file", "deleted": True}


def _add_job(service: Service, store: JobStore, body: NewJob) -> Job:
  """Checks and queues a job."""
  given = body.method and body.method.supervised.hyperparameters
  pairs = store.file(body.training_file).pairs
  settings = _settings(service, given or body.hyperparameters, body.seed, pairs)
  examples = {}
  for field in ("training_file", "validation_file"):
    if (file := getattr(body, field)) is not None:
      with errors.refusing(field):
        examples[field] = [*jobs_lib.parse_examples(store.content(file))]
  _check_examples(service, settings, **examples)
  with service.room(length=settings.length, jobs=1):
    job = store.add_job(
      body.training_file,
      body.validation_file,
      body.suffix,
      settings,
      body.metadata,
    )
  access_log.write("job.created", job=job.id, prompt=job.prompt)
  return job


def _check_examples(
  service: Service,
  settings: jobs_lib.Settings,
  training_file: Sequence[tuple[str, str]],
  validation_file: Sequence[tuple[str, str]] = (),
) -> None:
  """Refuses examples and labels that the worker would refuse.

  It also refuses validation texts that are too long for an answer or the
  memory; training texts would just be cut.
  """
  vocabulary = service.engine.model.vocabulary
  most = max(service.engine.settings.shapes.lengths)
  unk_id = getattr(vocabulary, "unk_id", None)
  is_unknown = [
    piece == unk_id
    for text, _ in training_file[:_SAMPLE]
    for piece in vocabulary.encode(text)
  ]
  unknown = sum(is_unknown) / max(1, len(is_unknown))
  if unknown > tuning.Settings.max_unknown:
    raise errors.invalid(
      f"The model's vocabulary does not know {unknown:.0%} of the pieces of "
      "the training file's inputs, so the model cannot tell them apart.",
      "training_file",
    )
  labels, train = settings.labels, {"train": training_file}
  with errors.refusing(
    "training_file" if labels is None else "hyperparameters.labels"
  ):
    targets, _ = text_pairs.targets_of(train, vocabulary, labels)
  for number, pair in enumerate(validation_file, 1):
    for text in pair:
      # Except for odd characters, few texts have more tokens than bytes, plus
      # one for a space in front.
      size = len(text.encode()) + 1
      if size >= most and len(vocabulary.encode(text)) >= most:
        raise errors.invalid(
          f"Expected texts of less than {most} tokens in the validation file, "
          f"the server's limit; a text of example {number} has more.",
          "validation_file",
        )
    with errors.refusing("validation_file"):
      targets.normalize(pair[1], f"Example {number}", "give labels=[]")
  with errors.refusing("hyperparameters"):
    if settings.rank:
      text_pairs.check_ranked(targets.labels)
    chosen = tuning.Settings(length=settings.length, init=settings.init)
    tuning.initializer(service.engine.model, targets.labels, chosen)


def _settings(
  service: Service, given: Hyperparameters, seed: int, pairs: int
) -> jobs_lib.Settings:
  """Returns the settings of a job, with "auto" and epochs as numbers."""
  default = jobs_lib.Settings()
  longest = service.engine.settings.longest_prompt
  length = given.length or min(default.length, longest)
  batch_size = given.batch_size or min(default.batch_size, pairs)
  steps = given.steps or default.steps
  if given.n_epochs is not None:
    steps = -(-pairs * given.n_epochs // batch_size)
  rate = given.learning_rate
  rate = rate or service.prompt_rate * given.learning_rate_multiplier

  def check(is_right: bool, name: str, expected: str) -> None:
    if not is_right:
      raise errors.invalid(f"Expected {expected}.", f"hyperparameters.{name}")

  check(
    length <= longest, "length", f"a length of at most {longest}, got {length}"
  )
  check(
    batch_size <= pairs,
    "batch_size",
    f"a batch size from 1 to {pairs}, the file's examples, got {batch_size}",
  )
  is_clear = given.n_epochs is None or given.steps in (None, steps)
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
  values = given.model_dump(exclude={"learning_rate_multiplier"})
  values |= {"length": length, "steps": steps, "batch_size": batch_size}
  return jobs_lib.Settings(**{**values, "learning_rate": rate, "seed": seed})


def _file(file: File) -> dict[str, Any]:
  constant = {"object": "file", "purpose": "fine-tune", "status": "processed"}
  return dataclasses.asdict(file) | constant


def _job(service: Service, job: Job) -> dict[str, Any]:
  settings = dataclasses.asdict(job.settings)
  rate = job.settings.learning_rate / service.prompt_rate
  failure = {"code": "failed", "message": job.error, "param": None}
  seed = settings.pop("seed")
  hyperparameters = {
    **settings,
    "n_epochs": job.settings.n_epochs or "auto",
    "learning_rate_multiplier": rate,
  }
  supervised = {"hyperparameters": hyperparameters}
  return {
    **{name: getattr(job, name) for name in _SHOWN},
    "object": "fine_tuning.job",
    "model": job.model,
    "fine_tuned_model": job.prompt if job.status == SUCCEEDED else None,
    "organization_id": "prompt_tuning",
    "user_provided_suffix": job.prompt.removesuffix(f"-{job.id[-12:]}"),
    "result_files": [],
    "trained_tokens": None,
    "seed": seed,
    "hyperparameters": hyperparameters,
    "method": {"type": "supervised", "supervised": supervised},
    "integrations": [],
    "error": failure if job.error else None,
  }


def _has_notes(job: Job, query: Mapping[str, str]) -> bool:
  """Returns whether a job has the metadata of a query: metadata[KEY]=VALUE."""
  return all(
    (job.metadata or {}).get(name[len("metadata[") : -1]) == value
    for name, value in query.items()
    if name.startswith("metadata[")
  )


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


def _checkpoint(job: Job) -> dict[str, Any]:
  return {
    "id": f"ftckpt-{job.id[6:]}",
    "object": "fine_tuning.job.checkpoint",
    "created_at": job.finished_at,
    "fine_tuned_model_checkpoint": job.prompt,
    "fine_tuning_job_id": job.id,
    "step_number": job.step,
    "metrics": {"step": job.step, "score": job.score},
  }


async def _stream(
  service: Service, store: JobStore, id: str, after: int
) -> AsyncIterator[str]:
  """Yields a job's events as server-sent events, until the job is over."""
  run = service.job_threads.run
  while not service.is_stopping:
    try:  # In this order, so that all events of a finished job are read.
      job = await run(store.job, id)
      events = await run(store.events, id, after)
    except (OSError, sqlite3.Error) as error:
      yield f"data: {json.dumps(errors.api_error(error).body)}\n\n"
      return  # The client may continue with Last-Event-ID.
    for event in events:
      after = event.number
      yield f"id: {after}\ndata: {json.dumps(_event(event))}\n\n"
    if job.status in jobs_lib.FINAL:
      yield "data: [DONE]\n\n"
      return
    # A comment, which fails if the client has left.
    yield ": \n\n"
    await asyncio.sleep(_LOOK_SECONDS)
