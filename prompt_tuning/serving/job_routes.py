"""`/v1/files` and `/v1/fine_tuning/jobs`: tuning, in OpenAI's form."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
import json
import re
from typing import Any, Literal

import fastapi
import pydantic

from prompt_tuning.serving import errors, forms
from prompt_tuning.serving.errors import ApiError
from prompt_tuning.serving.service import EventStream, Service
from prompt_tuning.tuning_jobs import job_store
from prompt_tuning.tuning_jobs import jobs as jobs_lib
from prompt_tuning.tuning_jobs.job_store import JobStore
from prompt_tuning.tuning_jobs.jobs import File, Job, JobEvent

_LOOK_SECONDS = 0.5
_RATE, _HIGHEST_RATE = 0.3, 100.0
_MOST_STEPS = 1_000_000
_LARGEST_BATCH = 1024
_SUFFIX = r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}"


class Hyperparameters(forms.Form):
  """Of a job: OpenAI's, and those of prompts."""

  n_epochs: int | Literal["auto"] = "auto"
  batch_size: int | Literal["auto"] = "auto"
  learning_rate_multiplier: float | Literal["auto"] = "auto"
  length: int | None = pydantic.Field(None, ge=1)
  steps: int | None = pydantic.Field(None, ge=1, le=_MOST_STEPS)
  init: Literal["class_labels", "sampled_vocab", "random_uniform"] | None = None
  learning_rate: float | None = pydantic.Field(None, gt=0, le=_HIGHEST_RATE)
  rank: bool = False


class NewJob(forms.Form):
  """The body of `POST /v1/fine_tuning/jobs`."""

  model: forms.Text
  training_file: forms.Text
  validation_file: forms.Text | None = None
  suffix: str | None = pydantic.Field(None, pattern=f"^{_SUFFIX}$")
  seed: int = pydantic.Field(0, ge=0, lt=2**31)
  hyperparameters: Hyperparameters = pydantic.Field(
    # Not the class itself: checkers take its fields for required.
    default_factory=lambda: Hyperparameters()
  )


def router(
  service: Service, store: JobStore, wake: Callable[[], None]
) -> fastapi.APIRouter:
  """Returns the routes.

  Args:
    service: What prompts are for.
    store: The files and jobs.
    wake: Called when there is a new job.
  """
  routes = fastapi.APIRouter()
  _add_files(routes, store)

  def job_of(id: str) -> Job:
    return _known(store.job, id, "job")

  def shown(job: Job) -> dict[str, Any]:
    return _job(service, job)

  @routes.post("/v1/fine_tuning/jobs")
  def create(body: NewJob):
    if body.model != service.base:
      raise ApiError(
        404,
        f"Prompts are tuned for {service.base!r}, got {body.model[:80]!r}.",
        "model_not_found",
        "model",
      )
    file = _known(store.file, body.training_file, "file")
    if body.validation_file is not None:
      pairs = _known(store.pairs, body.validation_file, "file")
      _check_lengths(service, pairs)
    longest = service.engine.settings.longest_prompt
    settings = _settings(body, file.pairs, longest)
    # A file may be deleted since.
    job = _known(
      lambda id: store.add_job(
        id, body.validation_file, body.suffix or "prompt", settings
      ),
      body.training_file,
      "file",
    )
    wake()
    return shown(job)

  @routes.get("/v1/fine_tuning/jobs")
  def jobs(limit: int = 20, after: str | None = None):
    return _page([shown(job) for job in store.jobs()], limit, after)

  @routes.get("/v1/fine_tuning/jobs/{id}")
  def job(id: str):
    return shown(job_of(id))

  @routes.post("/v1/fine_tuning/jobs/{id}/cancel")
  def cancel(id: str):
    if job_of(id).status in jobs_lib.OVER:
      raise errors.invalid("The job is over.")
    return shown(store.cancel(id))

  @routes.get("/v1/fine_tuning/jobs/{id}/events")
  def events(
    request: fastapi.Request,
    id: str,
    stream: bool = False,
    limit: int | None = None,
    after: str | None = None,
  ):
    job_of(id)
    if not stream:  # The newest first, as OpenAI's.
      all_events = store.events(id, limit=-1)
      items = [_event(x) for x in reversed(all_events)]
      return _page(items, 1000 if limit is None else limit, after)
    _check_not_given(limit=limit, after=after)
    last = request.headers.get("last-event-id", "")
    is_number = re.fullmatch("[0-9]{1,18}", last)
    return EventStream(
      _stream(service, store, id, int(last) if is_number else 0)
    )

  return routes


def _add_files(routes: fastapi.APIRouter, store: JobStore) -> None:
  @routes.post("/v1/files")
  async def upload(
    file: fastapi.UploadFile,
    purpose: Literal["fine-tune"] = fastapi.Form(),
  ):
    del purpose
    content = await file.read()
    try:
      return _file(
        await asyncio.to_thread(
          store.add_file, (file.filename or "data.jsonl")[:200], content
        )
      )
    except ValueError as error:
      raise errors.invalid(str(error), "file") from None

  @routes.get("/v1/files")
  def files(
    limit: int = 100,
    after: str | None = None,
    order: Literal["asc", "desc"] = "desc",
    purpose: str | None = None,
  ):
    found = [_file(file) for file in store.files()]
    if order == "asc":
      found.reverse()
    items = [x for x in found if purpose in (None, x["purpose"])]
    return _page(items, limit, after)

  @routes.get("/v1/files/{id}")
  def file(id: str):
    return _file(_known(store.file, id, "file"))

  @routes.get("/v1/files/{id}/content")
  def content(id: str):
    return fastapi.Response(
      _known(store.content, id, "file"), media_type="application/jsonl"
    )

  @routes.delete("/v1/files/{id}")
  def delete(id: str):
    try:
      _known(store.delete_file, id, "file")
    except job_store.InUseError as error:
      raise ApiError(409, str(error), "file_in_use") from None
    return {"id": id, "object": "file", "deleted": True}


def _check_lengths(service: Service, pairs: Sequence[tuple[str, str]]) -> None:
  """Refuses to evaluate what would not be answered, nor have room in memory.

  In training such texts are cut.
  """
  vocabulary = service.engine.model.vocabulary
  most = max(service.engine.settings.shapes.lengths)
  for number, pair in enumerate(pairs, 1):
    for text in pair:
      # But for odd characters, few texts have two tokens a character.
      if 2 * len(text) < most or len(vocabulary.encode(text)) < most:
        continue
      raise errors.invalid(
        f"Expected texts of less than {most} tokens in the validation file, as "
        f"the server answers; one of example {number} has more.",
        "validation_file",
      )


def _known(find: Callable[[str], Any], id: str, what: str) -> Any:
  try:
    return find(id)
  except job_store.UnknownError as error:
    unknown = error.args[0]  # Of several, as a job has two files.
    raise ApiError(
      404, f"There is no {what} {unknown[:80]!r}.", f"{what}_not_found"
    ) from None


def _settings(body: NewJob, pairs: int, longest: int) -> jobs_lib.Settings:
  """Returns how a prompt is tuned, "auto" and epochs made numbers."""
  given, default = body.hyperparameters, jobs_lib.Settings()
  length = given.length or min(default.length, longest)
  if length > longest:
    raise errors.invalid(
      f"Expected a length of at most {longest}, got {length}.",
      "hyperparameters.length",
    )
  batch_size = given.batch_size
  if batch_size == "auto":
    batch_size = min(default.batch_size, pairs)
  most = min(pairs, _LARGEST_BATCH)
  if not 1 <= batch_size <= most:
    raise errors.invalid(
      f"Expected a batch size from 1 to {most}, got {batch_size}: the file has "
      f"{pairs} examples, and {_LARGEST_BATCH} is the most for any.",
      "hyperparameters.batch_size",
    )
  steps = given.steps or default.steps
  if given.n_epochs != "auto":
    if given.steps is not None or given.n_epochs < 1:
      raise errors.invalid(
        "Expected steps, or n_epochs >= 1.", "hyperparameters.n_epochs"
      )
    steps = -(-pairs * given.n_epochs // batch_size)
  if steps > _MOST_STEPS:
    raise errors.invalid(
      f"Expected n_epochs of {_MOST_STEPS} steps in all, at most.",
      "hyperparameters.n_epochs",
    )
  rate = given.learning_rate or _RATE
  if given.learning_rate_multiplier != "auto":
    rate *= given.learning_rate_multiplier
  if not 0 < rate <= _HIGHEST_RATE:
    raise errors.invalid(
      f"Expected a learning rate in (0, {_HIGHEST_RATE:g}], got {rate:g}, with "
      "learning_rate_multiplier.",
      "hyperparameters.learning_rate_multiplier",
    )
  return jobs_lib.Settings(
    length=length,
    steps=steps,
    init=given.init,
    learning_rate=rate,
    batch_size=batch_size,
    seed=body.seed,
    rank=given.rank,
    n_epochs=None if given.n_epochs == "auto" else given.n_epochs,
  )


def _file(file: File) -> dict[str, Any]:
  return {
    "id": file.id,
    "object": "file",
    "bytes": file.bytes,
    "created_at": file.created,
    "filename": file.name,
    "purpose": "fine-tune",
    "status": "processed",
    "pairs": file.pairs,
  }


def _job(service: Service, job: Job) -> dict[str, Any]:
  settings = job.settings
  is_done = job.status == jobs_lib.SUCCEEDED
  return {
    "id": job.id,
    "object": "fine_tuning.job",
    "created_at": job.created,
    "finished_at": job.finished,
    "status": job.status,
    "model": job.model or service.base,
    "fine_tuned_model": job.prompt if is_done else None,
    "organization_id": "prompt_tuning",
    "training_file": job.training_file,
    "validation_file": job.validation_file,
    "result_files": [],
    "trained_tokens": None,
    "seed": settings.seed,
    "hyperparameters": {
      "n_epochs": settings.n_epochs or "auto",
      "batch_size": settings.batch_size,
      "learning_rate_multiplier": settings.learning_rate / _RATE,
      "length": settings.length,
      "steps": settings.steps,
      "init": settings.init,
      "learning_rate": settings.learning_rate,
      "rank": settings.rank,
    },
    "error": None
    if job.error is None
    else {"code": "failed", "message": job.error, "param": None},
    "score": job.score,
    "step": job.step,
  }


def _event(event: JobEvent) -> dict[str, Any]:
  return {
    "id": f"ftevent-{event.number}",
    "object": "fine_tuning.job.event",
    "created_at": int(event.created),
    "level": "error" if event.data.get("status") == "failed" else "info",
    "message": event.message,
    "type": "metrics" if event.kind in ("train", "eval") else "message",
    "kind": event.kind,
    "data": event.data,
  }


def _check_not_given(**parameters: int | str | None) -> None:
  """Refuses what a stream of events makes nothing of."""
  for name, value in parameters.items():
    if value is not None:
      raise errors.invalid(
        f"Expected no {name} of a stream: the header Last-Event-ID says where "
        "it begins.",
        name,
      )


def _page(
  items: list[dict[str, Any]], limit: int, after: str | None
) -> dict[str, Any]:
  """Returns some of a list, those behind the item `after`."""
  start = 0
  if after is not None:
    ids = [item["id"] for item in items]
    start = ids.index(after) + 1 if after in ids else len(items)
  if limit < 1:
    raise errors.invalid("Expected limit >= 1.", "limit")
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
  """Yields events as server-sent ones, to the job's end."""
  while not service.is_stopping:
    is_over, new = await asyncio.to_thread(_news, store, id, after)
    for event in new:
      after = event.number
      yield f"id: {after}\ndata: {json.dumps(_event(event))}\n\n"
    if new:  # There may be more.
      continue
    if is_over:
      yield "data: [DONE]\n\n"
      return
    # A comment, which finds out whether the client is still there.
    yield ": \n\n"
    await asyncio.sleep(_LOOK_SECONDS)


def _news(store: JobStore, id: str, after: int) -> tuple[bool, list[JobEvent]]:
  """Returns whether a job is over, and its events after one."""
  # In this order: no event comes after the end.
  is_over = store.job(id).status in jobs_lib.OVER
  return is_over, store.events(id, after)
