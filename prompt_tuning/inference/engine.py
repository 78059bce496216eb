"""The engine: one frozen model that answers with many prompts at once."""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import threading
import time

from absl import logging

from prompt_tuning.inference import batches
from prompt_tuning.inference.batch_queue import BatchQueue, Settings, Shape
from prompt_tuning.inference.batches import Batch, Decoding
from prompt_tuning.inference.compiled import CompiledPrograms
from prompt_tuning.inference.frozen_model import FrozenModel
from prompt_tuning.inference.requests import Request, Ticket, TunedPrompt


class ClosedError(Exception):
  """An error for requests to an engine that is closed."""


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
      on_batch: Called in the engine's thread at the end of every batch.
    """
    self.model = model
    settings = settings or Settings()
    shapes = dataclasses.replace(
      settings.shapes, keeps_prompts=model.network.keeps_prompts
    )
    self.settings = settings = dataclasses.replace(settings, shapes=shapes)
    self.failure: BaseException | None = None
    self._programs = CompiledPrograms(model, settings)
    self.table = self._programs.table
    self._queue = BatchQueue(settings)
    self._on_batch = on_batch
    self._changed = threading.Condition()
    self._running: set[Batch] = set()
    self._decodings: list[Decoding] = []
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
    """Number of requests in batches that have no answer yet."""
    # A copy: the engine's thread changes it meanwhile.
    return sum(batch.left for batch in self._running.copy())

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
    """Starts what waits, and continues what runs; False at the end."""
    with self._changed:
      may_start = len(self._decodings) < self.settings.running
      joining = self._take_joining(may_start)
      taken = self._queue.take(time.monotonic(), may_start)
      if taken is None and not self._decodings:
        if self._queue:
          self._changed.wait(max(0, self._queue.due() - time.monotonic()))
        elif self._is_closed:
          return False
        else:
          self._changed.wait()
        return True
      started = None if taken is None else self._batch(taken)
    for decoding, batch in joining:
      self._attempt([batch], functools.partial(decoding.join, batch))
    if started is not None:
      self._start(started)
    for decoding in self._decodings.copy():
      self._advance(decoding)
    return True

  def _batch(self, taken: tuple[list[Ticket], Shape, int]) -> Batch:
    batch = Batch(*taken, started=time.monotonic())
    self._running.add(batch)
    return batch

  def _take_joining(self, may_overtake: bool) -> list[tuple[Decoding, Batch]]:
    """Takes requests for rows of decodings that have become free.

    Once no batch can start, none overtakes the oldest request, so that
    decodings end.
    """
    joining = []
    for decoding in self._decodings:
      free = len(decoding.free)
      while taken := self._queue.take_more(
        decoding.shape, decoding.rows, free, may_overtake
      ):
        joining.append((decoding, self._batch(taken)))
        free -= len(taken[0])
    return joining

  def _attempt(self, served: Sequence[Batch], work: Callable[[], None]) -> bool:
    """Does some work; if it fails, so do the batches that it is for."""
    try:
      work()
      return True
    except Exception as error:
      logging.error("A batch failed.", exc_info=error)
      for batch in served:
        for ticket in batch.tickets:  # Not a ValueError: no request is wrong.
          ticket.finish(RuntimeError("The batch failed: see the log."))
        self._end(batch)
      if self.table.is_lost:
        raise  # No other batch could be answered.
      return False

  def _end(self, batch: Batch) -> None:
    self._running.remove(batch)
    batch.seconds = time.monotonic() - batch.started
    self._on_batch(batch)

  def _start(self, batch: Batch) -> None:
    """Answers a batch, or begins to decode it."""
    if batch.shape.kind == "generate":
      self._attempt(
        [batch],
        lambda: self._decodings.append(Decoding(self._programs, batch)),
      )
      return
    begun = time.monotonic()
    answer = functools.partial(batches.answer, self._programs, batch)
    if self._attempt([batch], answer):
      batch.first_answer = time.monotonic()
      self._queue.took(batch.shape, batch.rows, batch.first_answer - begun)
      self._end(batch)

  def _advance(self, decoding: Decoding) -> None:
    """Decodes some tokens, and ends the batches that have all of theirs."""
    begun = time.monotonic()
    advance = functools.partial(decoding.advance, self.settings.chunk)
    if not self._attempt(decoding.batches, advance):
      self._decodings.remove(decoding)
      return
    now = time.monotonic()
    decoding.busy += now - begun
    for batch in decoding.batches.copy():
      batch.first_answer = batch.first_answer or now
      if not batch.left:
        decoding.batches.remove(batch)
        self._end(batch)
    if not decoding.batches:
      self._decodings.remove(decoding)
      if not decoding.was_joined:
        self._queue.took(decoding.shape, decoding.rows, decoding.busy)
