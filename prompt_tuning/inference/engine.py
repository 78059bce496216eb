"""One frozen model that answers with many prompts at once."""

from collections.abc import Callable, Sequence
import dataclasses
import threading
import time

from absl import logging

from prompt_tuning.inference import batches
from prompt_tuning.inference.compiled import Compiled
from prompt_tuning.inference.frozen_model import FrozenModel
from prompt_tuning.inference.programs import TOP, Network
from prompt_tuning.inference.prompt_table import PromptTable
from prompt_tuning.inference.requests import (
  Generation,
  Prompt,
  Ranking,
  Request,
  Ticket,
)
from prompt_tuning.inference.shapes import Shape, Shapes
from prompt_tuning.inference.waiting import QueueFullError, Waiting


class ClosedError(Exception):
  """The engine takes no more requests."""


@dataclasses.dataclass(frozen=True)
class Settings:
  """How the engine works.

  Attributes:
    shapes: Of batches.
    slots: Prompts on the device; more are kept on the host, and swapped.
    longest_prompt: Positions of the longest prompt.
    room: Requests that may wait.
    patience: Seconds that a request waits for others to share a batch with.
    chunk: Steps of decoding, after which other batches have their turn.
    running: Batches that are decoded in turn, at most.
  """

  shapes: Shapes = dataclasses.field(default_factory=Shapes)
  slots: int = 64
  longest_prompt: int = 128
  room: int = 256
  patience: float = 0.003
  chunk: int = 16
  running: int = 4


@dataclasses.dataclass(frozen=True)
class BatchDone:
  """A batch that is over, for who counts.

  Attributes:
    shape: Of the batch.
    requests: In it.
    rows: Of it, those left over included.
    input_tokens: Of prompts and inputs.
    output_tokens: Of answers.
    seconds: From its first step to its last.
  """

  shape: Shape
  requests: int
  rows: int
  input_tokens: int
  output_tokens: int
  seconds: float


class Engine:
  """Answers requests, in batches, in a thread of its own.

  Attributes:
    model: The frozen model.
    settings: How it works.
    table: The prompts on the device.
    failure: What ended the engine's thread, if anything did.
  """

  def __init__(
    self,
    model: FrozenModel,
    settings: Settings | None = None,
    on_batch: Callable[[BatchDone], None] = lambda done: None,
  ):
    """Compiles nothing yet, and reads the model.

    Args:
      model: The frozen model.
      settings: How to work.
      on_batch: Called in the engine's thread after every batch.
    """
    self.model = model
    self.settings = settings = settings or Settings()
    self.failure: BaseException | None = None
    self._eos_id: int = model.vocabulary.eos_id
    self.table = PromptTable(
      settings.slots, settings.longest_prompt, model.config.emb_dim
    )
    self._compiled = Compiled(
      Network(model.config, self._eos_id), model.params, settings.shapes
    )
    self._waiting = Waiting(
      settings.shapes, settings.room, settings.patience, settings.slots
    )
    self._on_batch = on_batch
    self._changed = threading.Condition()
    self._running: list[tuple[batches.Batch, Shape, int, float]] = []
    self._is_closed = False
    self._thread = threading.Thread(target=self._work, name="engine")

  def start(self, should_stop: Callable[[], bool] = lambda: False) -> None:
    """Compiles everything, and begins to answer.

    Args:
      should_stop: Asked before each program; True ends it, without a beginning.
    """
    self._compiled.compile(self.table, should_stop)
    if not should_stop():
      self._thread.start()

  def close(self) -> None:
    """Takes no more requests, finishes those that it has, and ends."""
    with self._changed:
      self._is_closed = True
      self._changed.notify_all()
    if self._thread.is_alive():
      self._thread.join()

  def __enter__(self) -> "Engine":
    self.start()
    return self

  def __exit__(self, *error) -> None:
    self.close()

  @property
  def is_ready(self) -> bool:
    """Whether it answers."""
    return self._thread.is_alive() and not self._is_closed

  @property
  def waiting(self) -> int:
    """Requests that wait for a batch."""
    return len(self._waiting)

  @property
  def running(self) -> int:
    """Requests that are worked on."""
    return sum(len(batch.tickets) for batch, *_ in self._running)

  def tokens_of(self, text: str) -> tuple[int, ...]:
    """Encodes an input, with the end of sequence."""
    return (*self.model.vocabulary.encode(text), self._eos_id)

  def submit(self, requests: Sequence[Request]) -> list[Ticket]:
    """Takes requests, all or none.

    Args:
      requests: Any kinds.

    Returns:
      What to wait for.

    Raises:
      ValueError: if one cannot be answered; a `TooLongError` if it is too long.
      QueueFullError: if there is no room for them.
      ClosedError: if the engine takes no more.
    """
    for request in requests:
      self._check(request)
    now = time.monotonic()
    tickets = [Ticket(request, now) for request in requests]
    with self._changed:
      if not self.is_ready:
        raise ClosedError(
          "The engine failed."
          if self.failure
          else "The server is starting or stopping."
        )
      self._waiting.put(tickets)
      self._changed.notify_all()
    return tickets

  def check_prompt(self, prompt: Prompt) -> None:
    """Raises ValueError for a prompt that the table has no room for."""
    longest = self.settings.longest_prompt
    if prompt.length > longest:
      raise ValueError(
        f"Expected a prompt of at most {longest} positions, got "
        f"{prompt.length}: start the server with --longest_prompt="
        f"{prompt.length}."
      )

  def _check(self, request: Request) -> None:
    if request.prompt is not None:
      self.check_prompt(request.prompt)
    if isinstance(request, Ranking):
      if not request.labels or not all(request.labels):
        raise ValueError("Expected labels to rank, got none.")
      return
    if request.max_tokens < 1:
      raise ValueError(f"Expected max_tokens >= 1, got {request.max_tokens}.")
    if not 0 <= request.temperature < float("inf"):
      raise ValueError(f"Expected temperature >= 0, got {request.temperature}.")
    if not 0 <= request.top_log_probs <= TOP:
      raise ValueError(
        f"Expected log probabilities of at most {TOP} tokens, got "
        f"{request.top_log_probs}."
      )
    _check_search(request)

  def _work(self) -> None:
    try:
      while self._turn():
        pass
    except BaseException as error:
      self.failure = error
      logging.exception("The engine stops.")
    finally:
      with self._changed:
        self._is_closed = True
        left = self._waiting.clear()
      for batch, *_ in self._running:
        left += batch.tickets
      for ticket in left:
        ticket.finish(
          ClosedError(
            "The engine failed." if self.failure else "The server stopped."
          )
        )

  def _turn(self) -> bool:
    """Begins a batch, if there is one, and goes on; False at the end."""
    with self._changed:
      taken = None
      if len(self._running) < self.settings.running:
        taken = self._waiting.take(time.monotonic())
      if taken is None and not self._running:
        if self._waiting:
          self._changed.wait(max(0, self._waiting.due() - time.monotonic()))
        elif self._is_closed:
          return False
        else:
          self._changed.wait()
        return True
    if taken is not None:
      self._begin(*taken)
    for entry in list(self._running):
      self._advance(entry)
    return True

  def _begin(self, tickets: list[Ticket], shape: Shape, rows: int) -> None:
    started = time.monotonic()
    try:
      batch = batches.make(
        self._compiled,
        self.table,
        tickets,
        shape,
        rows,
        self.settings.shapes.rows_of(shape),
        self.settings.chunk,
        self._eos_id,
      )
    except Exception as error:
      self._fail(tickets, error)
      if self.table.is_lost:
        raise  # No batch would be answered any more.
      return
    self._running.append((batch, shape, rows, started))

  def _advance(self, entry: tuple[batches.Batch, Shape, int, float]) -> None:
    batch, shape, rows, started = entry
    try:
      if batch.advance():
        return
    except Exception as error:
      self._fail(batch.tickets, error)
    self._running.remove(entry)
    requests = [ticket.request for ticket in batch.tickets]
    self._on_batch(
      BatchDone(
        shape,
        len(requests),
        rows,
        sum(
          len(x.tokens) + (x.prompt.length if x.prompt else 0) for x in requests
        ),
        batch.output_tokens,
        time.monotonic() - started,
      )
    )

  def _fail(self, tickets: Sequence[Ticket], error: Exception) -> None:
    logging.error("A batch failed.", exc_info=error)
    for ticket in tickets:
      ticket.finish(error)


def _check_search(request: Generation) -> None:
  if not request.num_beams:
    return
  if request.temperature or request.top_log_probs or request.on_token:
    raise ValueError(
      "Beam search goes without temperature, log probabilities of tokens and "
      "streaming."
    )


__all__ = [
  "BatchDone",
  "ClosedError",
  "Engine",
  "QueueFullError",
  "Settings",
]
