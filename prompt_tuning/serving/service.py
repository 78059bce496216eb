"""The state that the routes of a server share."""

import asyncio
import collections
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent import futures
import contextlib
import contextvars
import dataclasses
import functools
import gc
import sqlite3
import time
from typing import Any, TypeVar

from absl import logging
import fastapi
from fastapi import responses

from prompt_tuning.inference.engine import Engine
from prompt_tuning.inference.requests import Request, TunedPrompt
from prompt_tuning.serving import errors, tenants
from prompt_tuning.serving.errors import ApiError
from prompt_tuning.serving.metrics import Metrics
from prompt_tuning.serving.prompt_store import PromptStore
from prompt_tuning.serving.tenants import Limits, Quotas
from prompt_tuning.training import defaults
from prompt_tuning.tuning_jobs import database
from prompt_tuning.tuning_jobs.job_store import JobStore
from prompt_tuning.tuning_jobs.worker import Supervisor

# Seconds that a probe waits for the store of jobs.
_PROBE_SECONDS = 0.5
# The number of threads for a folder, which may be locked, slow or hang.
_THREADS = 4
# Seconds for a call to get a thread, to do its work, and then to end its
# transaction.
_WAIT_SECONDS, _SECONDS, _END_SECONDS = 5.0, 60.0, 5.0
_Item = TypeVar("_Item")


def page(
  items: Mapping[str, _Item],
  show: Callable[[_Item], dict[str, Any]],
  limit: int,
  after: str | None,
) -> dict[str, Any]:
  """Returns the page of a list, id -> item, that follows the id `after`.

  Raises:
    ApiError: if the list has no such id: an empty page would look like its end.
  """
  ids, start = list(items), 0
  if after is not None:
    if after not in items:
      raise errors.invalid(
        f"The list has no {after[:80]!r}: it may have been deleted. List again "
        "from the start.",
        "after",
      )
    start = ids.index(after) + 1
  some = ids[start : start + limit]
  return {
    "object": "list",
    "data": [show(items[id]) for id in some],
    "has_more": start + limit < len(ids),
    "first_id": some[0] if some else None,
    "last_id": some[-1] if some else None,
  }


class FolderThreads:
  """A few threads for one folder, so that it delays no other requests.

  A call changes nothing in a store of jobs once its request was refused.
  """

  def __init__(self, name: str):
    """Starts nothing yet; messages call the folder `name`."""
    self._name = name
    self._pool = futures.ThreadPoolExecutor(_THREADS, name)

  def close(self) -> None:
    """Ends idle threads."""
    self._pool.shutdown(wait=False, cancel_futures=True)

  async def run(
    self, call: Callable[..., Any], *arguments: Any, seconds: float = 0.0
  ) -> Any:
    """Returns the result of a function, called in one of the threads.

    Raises:
      TimeoutError: if it does not get a thread, or does not end, in time.
    """
    seconds = seconds or _SECONDS
    context = contextvars.copy_context()
    context.run(database.deadline.set, time.monotonic() + seconds)
    future = self._pool.submit(context.run, call, *arguments)
    waiting = asyncio.wrap_future(future)
    # Retrieves an error that comes too late, or asyncio would log it.
    waiting.add_done_callback(lambda x: x.cancelled() or x.exception())
    await asyncio.wait([waiting], timeout=min(seconds, _WAIT_SECONDS))
    if not waiting.done() and not future.cancel():
      await asyncio.wait(
        [waiting], timeout=min(2 * seconds, seconds + _END_SECONDS)
      )
    if future.cancelled() or not waiting.done():
      raise TimeoutError(f"the folder of {self._name} did not answer in time")
    return waiting.result()

  def route(self, endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a route's function that runs in one of the threads."""

    @functools.wraps(endpoint)
    async def run(*arguments: Any, **named: Any) -> Any:
      return await self.run(functools.partial(endpoint, *arguments, **named))

    return run


class EventStream(responses.StreamingResponse):
  """A response of server-sent events, which proxies do not buffer."""

  def __init__(
    self, events: AsyncIterator[str], at_end: Callable[[], None] = lambda: None
  ):
    """Sends nothing yet.

    Args:
      events: The events.
      at_end: Always called at the end, even if the client leaves before the
        first event.
    """
    super().__init__(
      events,
      media_type="text/event-stream",
      headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )
    self._at_end = at_end

  async def __call__(self, *connection: Any) -> None:
    """Sends the events."""
    try:
      await super().__call__(*connection)
    finally:
      self._at_end()


@dataclasses.dataclass
class Service:
  """A model with its prompts, and the other state of a server.

  Attributes:
    base: The name of the model without a prompt.
    engine: The engine that answers.
    store: The prompts.
    metrics: The metrics.
    limits: The limits for clients.
    jobs: The data sets and tuning jobs, if the server tunes prompts.
    supervisor: The supervisor of the jobs' worker.
    examples: Inputs that the page offers: "model", a prompt's name, and
      "input", a text.
    started: The start time, in seconds since 1970.
    is_stopping: Whether the server is stopping, which ends endless streams.
    is_one_of_several: Whether other servers answer at its address. It then
      takes no requests before its engine is ready.
    prompt_threads: The threads that change prompts.
    job_threads: The threads that use the store of jobs.
  """

  base: str
  engine: Engine
  store: PromptStore
  metrics: Metrics
  limits: Limits = dataclasses.field(default_factory=Limits)
  jobs: JobStore | None = None
  supervisor: Supervisor | None = None
  examples: Sequence[dict[str, str]] = ()
  started: int = dataclasses.field(default_factory=lambda: int(time.time()))
  is_stopping: bool = False
  is_one_of_several: bool = False
  prompt_threads: FolderThreads = dataclasses.field(
    default_factory=lambda: FolderThreads("prompts")
  )
  job_threads: FolderThreads = dataclasses.field(
    default_factory=lambda: FolderThreads("jobs")
  )

  @functools.cached_property
  def quotas(self) -> Quotas:
    """The quotas of each tenant, according to the limits."""
    return Quotas(self.limits)

  @functools.cached_property
  def prompt_rate(self) -> float:
    """The learning rate of jobs that give none."""
    return defaults.prompt_rate(self.engine.model)

  def own_jobs(self) -> JobStore:
    """Returns the jobs and files of the request's tenant."""
    assert self.jobs is not None
    return self.jobs.of(tenants.current.get())

  def room(
    self, size: int = 0, length: int = 0, jobs: int = 0, prompt: str = ""
  ) -> contextlib.AbstractContextManager[None]:
    """Reserves storage for a file of a size, or a prompt of a length.

    Args:
      size: Bytes of a file.
      length: Positions of a prompt.
      jobs: Number of jobs.
      prompt: The stem of a prompt, whose older version does not count.

    Raises:
      ApiError: if this would exceed the quotas of the request's tenant.
    """
    width = self.engine.model.config.emb_dim

    def used() -> collections.Counter[str]:
      used = self.store.usage(tenants.current.get(), prompt)
      if self.jobs is not None:
        used += self.own_jobs().usage()
        used["bytes"] += 4 * width * used["positions"]
      return used

    size += 4 * width * length
    return self.quotas.room(used, bytes=size, files=1, jobs=jobs)

  async def problems(self) -> dict[str, str]:
    """Returns the problems of the folders, and of the worker."""
    await self.store.look()
    found = {"prompts": self.store.problem}
    if self.jobs is not None:
      found["jobs"] = self.supervisor and self.supervisor.problem
      try:
        await self.job_threads.run(self.jobs.check, seconds=_PROBE_SECONDS)
      except (OSError, sqlite3.Error) as error:
        found["jobs"] = f"The store of jobs failed: {errors.reason(error)}."
    return {name: problem for name, problem in found.items() if problem}

  async def prompt(self, model: str) -> TunedPrompt | None:
    """Returns the prompt that a request names as its model; None for the base.

    Raises:
      ApiError: if no prompt with this name is found in time.
    """
    if model == self.base:
      return None
    async with self.in_time():
      return await self.store.find(model, tenants.current.get())

  async def prompt_alone(self, model: str) -> TunedPrompt:
    """Returns a prompt like `prompt`, but refuses the base model."""
    if (prompt := await self.prompt(model)) is None:
      raise errors.invalid("The base model has no prompt.", "model")
    return prompt

  async def answers(
    self, rows: Sequence[Request], request: fastapi.Request
  ) -> list[Any]:
    """Waits for the answers to rows; cancels the rows if it fails.

    Args:
      rows: The rows.
      request: The rows' request, whose body was read.

    Raises:
      ApiError: if the answer takes too long, or the client has left.
      ClosedError: if the engine ends before it has answered.
    """
    with errors.refusing():
      tickets = self.engine.submit(rows)
    answers = asyncio.gather(*map(asyncio.wrap_future, tickets))
    # After the body, only the client's disconnection can follow.
    end = asyncio.ensure_future(request.receive())
    try:
      async with self.in_time():
        await asyncio.wait([answers, end], return_when="FIRST_COMPLETED")
      if not answers.done():
        raise ApiError(400, "The client left.", "client_left")
      return answers.result()
    finally:
      for waiting in (end, answers, *tickets):
        waiting.cancel()

  @contextlib.asynccontextmanager
  async def in_time(self, start: float | None = None) -> AsyncIterator[None]:
    """Limits the context to the time for an answer.

    Args:
      start: The event loop's time at the start of the answer, by default now.

    Raises:
      ApiError: if the time is over.
    """
    seconds = self.limits.answer_seconds
    start = asyncio.get_running_loop().time() if start is None else start
    try:
      async with asyncio.timeout_at(start + seconds):
        yield
    except TimeoutError:
      raise ApiError(
        504,  # Not 503, after which a proxy would try the next replica.
        f"No answer within {seconds:g} seconds.",
        "timeout",
        headers={"Retry-After": "5"},
      ) from None

  @contextlib.asynccontextmanager
  async def lifespan(self, _app: Any) -> AsyncIterator[None]:
    """Runs the engine and the supervisor while an application runs."""
    starting = asyncio.create_task(asyncio.to_thread(self._start))
    try:
      if self.is_one_of_several:
        await starting
        if self.engine.failure is not None:
          raise self.engine.failure
      yield
    finally:
      self.is_stopping = True
      await starting
      if self.supervisor is not None:
        await asyncio.to_thread(self.supervisor.close)
      await asyncio.to_thread(self.engine.close)
      for threads in self.store, self.prompt_threads, self.job_threads:
        threads.close()

  def _start(self) -> None:
    start = time.monotonic()
    try:
      self.engine.start(lambda: self.is_stopping)
      if self.is_stopping:
        return
      # The model and its programs stay: each collection would scan them, and
      # delay every request meanwhile.
      gc.collect()
      gc.freeze()
      logging.info("Ready: compiled in %.1f s.", time.monotonic() - start)
      if self.supervisor is not None:
        self.supervisor.start()
    except Exception as error:  # /healthz reports it.
      self.engine.failure = error
      logging.exception("The engine did not start.")
