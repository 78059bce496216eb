"""What the routes of a server share."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent import futures
import dataclasses
import time
from typing import Any

from absl import logging
from fastapi import responses

from prompt_tuning.inference.engine import (
  ClosedError,
  Engine,
  QueueFullError,
)
from prompt_tuning.inference.requests import Prompt, Request, Ticket
from prompt_tuning.inference.shapes import TooLongError
from prompt_tuning.serving import errors
from prompt_tuning.serving.errors import ApiError
from prompt_tuning.serving.gate import Limits
from prompt_tuning.serving.metrics import Metrics
from prompt_tuning.serving.prompt_store import (
  PromptStore,
  UnknownPromptError,
  UnreadError,
)
from prompt_tuning.tuning_jobs.supervisor import Supervisor

# Between looks at whether a client is still there.
_LOOK_SECONDS = 0.5
# How long a request for a prompt that is known waits for a look at the folder.
_PATIENCE = 1.0


class EventStream(responses.StreamingResponse):
  """Server-sent events as a response, which no proxy is to keep."""

  def __init__(
    self, events: AsyncIterator[str], at_end: Callable[[], None] = lambda: None
  ):
    """Sends nothing yet.

    Args:
      events: What is sent.
      at_end: Called in any case, also if the client leaves before the first.
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
  """A model, its prompts, and how they are offered.

  Attributes:
    base: The name of the model alone.
    engine: What answers.
    store: The prompts.
    metrics: What is counted.
    limits: What clients may do.
    supervisor: Of the worker that tunes, if prompts are tuned here.
    started: When, in seconds since 1970.
    is_stopping: Whether it is about to end: streams without an end, end.
  """

  base: str
  engine: Engine
  store: PromptStore
  metrics: Metrics
  limits: Limits = dataclasses.field(default_factory=Limits)
  supervisor: Supervisor | None = None
  started: int = dataclasses.field(default_factory=lambda: int(time.time()))
  is_stopping: bool = False
  _looking: asyncio.Lock = dataclasses.field(
    default_factory=asyncio.Lock, init=False
  )
  # A thread of its own: those of asyncio may all be busy with uploads.
  _look_thread: futures.Executor = dataclasses.field(
    default_factory=lambda: futures.ThreadPoolExecutor(1, "look"), init=False
  )

  async def prompt(self, model: str) -> Prompt | None:
    """Returns the prompt that a request calls its model; None: none.

    What is not in memory is looked for in a thread, one at a time, however many
    ask: neither a slow folder nor wrong names hold up others.

    Raises:
      ApiError: if there is none of that name, or no answer of the folder.
    """
    if model == self.base:
      return None
    if (prompt := self.store.in_memory(model)) is not None:
      return prompt
    asked = time.monotonic()
    known = self.store.in_memory(model, is_late=True)
    patience = self.limits.answer_seconds if known is None else _PATIENCE
    try:
      async with asyncio.timeout(patience), self._looking:
        await asyncio.sleep(self.store.pause(asked))
        return await asyncio.get_running_loop().run_in_executor(
          self._look_thread, self.store.get, model, asked
        )
    except TimeoutError:
      if known is None:
        raise self.late() from None
      return known
    except UnknownPromptError:
      raise ApiError(
        404,
        f"There is no model {model[:80]!r}: see GET /v1/models.",
        "model_not_found",
        "model",
      ) from None
    except UnreadError:
      raise errors.not_ready(
        f"The prompt {model[:80]!r} could not be looked for, or not be read."
      ) from None

  def check_number(self, inputs: int, param: str) -> None:
    """Refuses more inputs than the engine has room for, before work on them.

    Args:
      inputs: How many, samples included.
      param: The field to blame.

    Raises:
      ApiError: if they are too many.
    """
    room = self.engine.settings.room
    if inputs > room:
      raise errors.invalid(
        f"Expected at most {room} inputs, samples included, got {inputs}.",
        param,
      )

  def submit(self, requests: Sequence[Request], param: str) -> list[Ticket]:
    """Hands requests to the engine.

    Args:
      requests: All of one request of HTTP.
      param: The field to blame for one whose input is too long.

    Raises:
      ApiError: if it does not take them.
    """
    self.check_number(len(requests), param)
    try:
      return self.engine.submit(requests)
    except TooLongError as error:
      raise ApiError(
        400, str(error), "context_length_exceeded", error.param or param
      ) from None
    except ValueError as error:
      raise errors.invalid(str(error)) from None
    except QueueFullError as error:
      raise errors.busy(str(error)) from None
    except ClosedError as error:
      raise errors.not_ready(str(error)) from None

  async def results(
    self,
    tickets: Sequence[Ticket],
    has_left: Callable[[], Awaitable[bool]],
  ) -> list[Any]:
    """Waits for answers.

    Args:
      tickets: Of `submit`. If they are not waited for, they are cancelled.
      has_left: Whether nobody waits any more.

    Raises:
      ApiError: if there is no answer in time, or the engine failed.
    """
    waiting = asyncio.gather(
      *(asyncio.wrap_future(ticket.future) for ticket in tickets)
    )
    deadline = time.monotonic() + self.limits.answer_seconds
    try:
      while not waiting.done():
        left = deadline - time.monotonic()
        if left <= 0:
          raise self.late()
        await asyncio.wait([waiting], timeout=min(left, _LOOK_SECONDS))
        if waiting.done():
          break
        if await has_left():
          raise ApiError(400, "The client left.", "client_left")
      return list(waiting.result())
    except ClosedError as error:
      raise errors.not_ready(str(error)) from None
    finally:
      waiting.cancel()
      for ticket in tickets:
        ticket.cancel()

  def late(self) -> ApiError:
    """Returns the error of an answer that takes too long."""
    return ApiError(
      504,  # Not 503, which has a proxy ask the next replica for it.
      f"No answer within {self.limits.answer_seconds:g} seconds.",
      "timeout",
      headers={"Retry-After": "5"},
    )

  async def started_engine(self) -> AsyncIterator[None]:
    """Runs the engine while an application does; for its lifespan."""
    starting = asyncio.create_task(asyncio.to_thread(self._start))
    try:
      yield
    finally:
      self.is_stopping = True
      await starting
      if self.supervisor is not None:
        await asyncio.to_thread(self.supervisor.close)
      await asyncio.to_thread(self.engine.close)
      self._look_thread.shutdown(wait=False, cancel_futures=True)

  def _start(self) -> None:
    begin = time.monotonic()
    try:
      self.engine.start(lambda: self.is_stopping)
      if self.is_stopping:
        return
      logging.info("Ready: compiled in %.1f s.", time.monotonic() - begin)
      if self.supervisor is not None:
        self.supervisor.start()
    except Exception as error:  # /healthz tells.
      self.engine.failure = error
      logging.exception("The engine did not start.")
