"""The engine: one frozen model that answers with many prompts at once."""

from collections.abc import Callable, Iterator, Sequence
import threading
import time

from absl import logging

from prompt_tuning.inference import batches
from prompt_tuning.inference.batch_queue import BatchQueue, Settings
from prompt_tuning.inference.batches import Batch
from prompt_tuning.inference.compiled import CompiledPrograms
from prompt_tuning.inference.frozen_model import FrozenModel
from prompt_tuning.inference.requests import Request, Ticket, TunedPrompt


class ClosedError(Exception):
  """An error for requests to an engine that takes no more."""


class Engine:
  """A thread that answers requests in batches.

  Attributes:
    model: The frozen model.
    settings: Its settings.
    table: The prompts on the device.
    failure: The error that ended the thread, if one did.
  """

  def __init__(
    self,
    model: FrozenModel,
    settings: Settings | None = None,
    on_batch: Callable[[Batch], None] = lambda batch: None,
  ):
    """Reads the model; compiles nothing yet.

    Args:
      model: The frozen model.
      settings: Its settings.
      on_batch: Called in the engine's thread after every batch.
    """
    self.model = model
    self.settings = settings = settings or Settings()
    self.failure: BaseException | None = None
    self._programs = CompiledPrograms(model, settings)
    self.table = self._programs.table
    self._queue = BatchQueue(settings)
    self._on_batch = on_batch
    self._changed = threading.Condition()
    self._running: dict[Batch, Iterator[None]] = {}
    self._is_closed = False
    self._thread = threading.Thread(target=self._work, name="engine")

  def start(self, should_stop: Callable[[], bool] = lambda: False) -> None:
    """Compiles everything, then begins to answer.

    Args:
      should_stop: Called before each program; True ends the start.
    """
    self._programs.compile(should_stop)
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
    """True while it takes requests."""
    return self._thread.is_alive() and not self._is_closed

  @property
  def queued(self) -> int:
    """Number of requests that wait for a batch."""
    return len(self._queue)

  @property
  def running(self) -> int:
    """Number of requests in batches."""
    # A copy: the engine's thread changes it meanwhile.
    return sum(len(batch.tickets) for batch in list(self._running))

  def submit(self, requests: Sequence[Request]) -> list[Ticket]:
    """Takes all of the requests, or none.

    Args:
      requests: Of any kinds.

    Returns:
      A ticket for each, to wait for.

    Raises:
      ValueError: if one cannot be answered; a `TooLongError` if it is too long.
      QueueFullError: if there is no room for them.
      ClosedError: if the engine takes no more.
    """
    for request in requests:
      if request.prompt is not None:
        self.check_prompt(request.prompt)
      if getattr(request, "num_beams", 0) and (
        request.temperature or request.top_log_probs or request.on_token
      ):
        raise ValueError(
          "Beam search does not support temperature, log probabilities of "
          "tokens, or streaming."
        )
    now = time.monotonic()
    tickets = [Ticket(request, now) for request in requests]
    with self._changed:
      if not self.is_ready:
        raise ClosedError(
          "The engine failed."
          if self.failure
          else "The server is starting or stopping."
        )
      self._queue.put(tickets)
      self._changed.notify_all()
    return tickets

  def check_prompt(self, prompt: TunedPrompt) -> None:
    """Raises ValueError for a prompt that is longer than the table's slots."""
    longest = self.settings.longest_prompt
    if prompt.length > longest:
      raise ValueError(
        f"Expected a prompt of at most {longest} positions, got "
        f"{prompt.length}: start the server with --longest_prompt="
        f"{prompt.length}."
      )

  def _work(self) -> None:
    try:
      while self._turn():
        pass
    except BaseException as error:
      self.failure = error
      logging.exception("The engine stopped.")
    finally:
      with self._changed:
        self._is_closed = True
        left = self._queue.clear()
      for batch in self._running:
        left += batch.tickets
      for ticket in left:
        ticket.finish(
          ClosedError(
            "The engine failed." if self.failure else "The server stopped."
          )
        )

  def _turn(self) -> bool:
    """Starts a batch, if there is one, and continues all; False at the end."""
    with self._changed:
      taken = None
      if len(self._running) < self.settings.running:
        taken = self._queue.take(time.monotonic())
      if taken is None and not self._running:
        if self._queue:
          self._changed.wait(max(0, self._queue.due() - time.monotonic()))
        elif self._is_closed:
          return False
        else:
          self._changed.wait()
        return True
    if taken is not None:
      batch = Batch(*taken, started=time.monotonic())
      work = batches.run(self._programs, batch, self.settings.chunk)
      self._running[batch] = work
    for batch in list(self._running):
      self._advance(batch)
    return True

  def _advance(self, batch: Batch) -> None:
    start = time.monotonic()
    try:
      is_over = next(self._running[batch], self) is self
      batch.first_answer = batch.first_answer or time.monotonic()
      batch.busy += time.monotonic() - start
      if not is_over:
        return
      self._queue.took(batch.shape, batch.rows, batch.busy)
    except Exception as error:
      logging.error("A batch failed.", exc_info=error)
      for ticket in batch.tickets:  # Not a ValueError: no request is wrong.
        ticket.finish(RuntimeError("The batch failed: see the log."))
      if self.table.array.is_deleted():  # By a copy that failed.
        raise  # No other batch could be answered.
    del self._running[batch]
    batch.seconds = time.monotonic() - batch.started
    self._on_batch(batch)
