"""The state that the routes of a server share."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
import contextlib
import dataclasses
import time
from typing import Any

from absl import logging
from fastapi import responses

from prompt_tuning.inference.engine import Engine
from prompt_tuning.inference.requests import Ticket, TunedPrompt
from prompt_tuning.serving import errors
from prompt_tuning.serving.errors import ApiError
from prompt_tuning.serving.metrics import Metrics
from prompt_tuning.serving.middleware import Limits
from prompt_tuning.serving.prompt_store import PromptStore
from prompt_tuning.tuning_jobs.supervisor import Supervisor

# The pause between looks at whether a client is still there.
_LOOK_SECONDS = 0.5


class EventStream(responses.StreamingResponse):
  """Server-sent events as a response that no proxy buffers."""

  def __init__(
    self, events: AsyncIterator[str], at_end: Callable[[], None] = lambda: None
  ):
    """Sends nothing yet.

    Args:
      events: The events.
      at_end: Called in any case, even if the client leaves before the first
        event.
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
  """A model with its prompts, as a server offers it.

  Attributes:
    base: The name of the model without a prompt.
    engine: The engine that answers.
    store: The prompts.
    metrics: The metrics.
    limits: The limits that clients have.
    supervisor: The supervisor of the worker, if the server tunes prompts.
    started: The start, in seconds since 1970.
    is_stopping: Whether the server is about to end: endless streams then end.
  """

  base: str
  engine: Engine
  store: PromptStore
  metrics: Metrics
  limits: Limits = dataclasses.field(default_factory=Limits)
  supervisor: Supervisor | None = None
  started: int = dataclasses.field(default_factory=lambda: int(time.time()))
  is_stopping: bool = False

  async def prompt(self, model: str) -> TunedPrompt | None:
    """Returns the prompt that a request calls its model; None for the base.

    Raises:
      UnknownPromptError: if no prompt has this name.
      UnreadError: if that cannot be known now.
      ApiError: if the folder does not answer in time.
    """
    if model == self.base:
      return None
    try:
      return await self.store.find(model, self.limits.answer_seconds)
    except TimeoutError:
      raise self.timeout() from None

  async def prompt_alone(self, model: str) -> TunedPrompt:
    """Returns a prompt as `prompt` does, but refuses the base model."""
    if (prompt := await self.prompt(model)) is None:
      raise errors.invalid("The base model has no prompt.", "model")
    return prompt

  async def results(
    self,
    tickets: Sequence[Ticket],
    has_left: Callable[[], Awaitable[bool]],
  ) -> list[Any]:
    """Waits for answers; cancels them if it has to give up.

    Args:
      tickets: The engine's tickets.
      has_left: Returns whether the client has left.

    Raises:
      ApiError: if the answer takes too long, or the client has left.
      ClosedError: if the engine ends before it has answered.
    """
    answers = asyncio.gather(
      *(asyncio.wrap_future(ticket) for ticket in tickets)
    )
    try:
      async with asyncio.timeout(self.limits.answer_seconds):
        while not answers.done():
          await asyncio.wait([answers], timeout=_LOOK_SECONDS)
          if not answers.done() and await has_left():
            raise ApiError(400, "The client left.", "client_left")
      return list(answers.result())
    except TimeoutError:
      raise self.timeout() from None
    finally:
      answers.cancel()
      for ticket in tickets:
        ticket.cancel()

  def timeout(self) -> ApiError:
    """Returns the error for an answer that takes too long."""
    return ApiError(
      504,  # Not 503, at which a proxy asks the next replica.
      f"No answer within {self.limits.answer_seconds:g} seconds.",
      "timeout",
      headers={"Retry-After": "5"},
    )

  @contextlib.asynccontextmanager
  async def lifespan(self, _app: Any) -> AsyncIterator[None]:
    """Runs the engine and the supervisor while an application runs."""
    starting = asyncio.create_task(asyncio.to_thread(self._start))
    try:
      yield
    finally:
      self.is_stopping = True
      await starting
      if self.supervisor is not None:
        await asyncio.to_thread(self.supervisor.close)
      await asyncio.to_thread(self.engine.close)
      self.store.close()

  def _start(self) -> None:
    start = time.monotonic()
    try:
      self.engine.start(lambda: self.is_stopping)
      if self.is_stopping:
        return
      logging.info("Ready: compiled in %.1f s.", time.monotonic() - start)
      if self.supervisor is not None:
        self.supervisor.start()
    except Exception as error:  # /healthz reports it.
      self.engine.failure = error
      logging.exception("The engine did not start.")
