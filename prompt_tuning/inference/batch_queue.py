"""The queue of requests, from which batches of a few shapes are taken.

There are only a few shapes, so that all can be compiled at the start.
"""

from collections import deque
from collections.abc import Iterator, Sequence
import dataclasses
from typing import Literal

from prompt_tuning.inference.requests import (
  Embedding,
  Generation,
  Ranking,
  Request,
  Ticket,
)

Kind = Literal["generate", "beam", "rank", "embed"]


class FieldError(ValueError):
  """An error for a request with a field that has a wrong value.

  Attributes:
    param: The field; None means the input.
  """

  def __init__(self, message: str, param: str | None):
    """Stores its arguments."""
    super().__init__(message)
    self.param = param


class TooLongError(FieldError):
  """An error for a request that fits into no shape."""


@dataclasses.dataclass(frozen=True)
class Shape:
  """The kind and size of a batch.

  Attributes:
    kind: The kind of its requests; all but "generate" take one step.
    length: Positions of the input, and of the prompt unless that is kept, T.
    steps: Tokens of the answer, S; for ranking, those of all labels, U; for
      embedding, 0.
    beams: K of a beam search, else 0.
  """

  kind: Kind
  length: int
  steps: int
  beams: int = 0

  def fits_into(self, other: "Shape") -> bool:
    """Returns whether a request of this shape can join a batch of another."""
    if (self.kind, self.beams) != (other.kind, other.beams):
      return False
    # The result of a beam search depends on the longest answer allowed.
    if self.beams and self.steps != other.steps:
      return False
    return self.length <= other.length and self.steps <= other.steps


@dataclasses.dataclass(frozen=True)
class Shapes:
  """The shapes that are compiled.

  Attributes:
    rows: Rows of a batch, B.
    lengths: Positions of a row: those of the input and of the prompt.
    steps: Tokens of an answer.
    labels: Tokens of all labels of an input.
    beams: Beams of a search; empty: no beam search.
    positions: Limit on rows times length, which bounds activations.
    logits: Limit on rows times tokens of labels, each of which has V logits.
    keeps_prompts: Whether a row has no positions for its prompt; see `Network`.
  """

  rows: Sequence[int] = (1, 4, 16)
  lengths: Sequence[int] = (64, 128, 256, 512)
  steps: Sequence[int] = (16, 128)
  labels: Sequence[int] = (16, 64, 256)
  beams: Sequence[int] = (4,)
  positions: int = 4096
  logits: int = 1024
  keeps_prompts: bool = False

  def __post_init__(self):
    for name in ("rows", "lengths", "steps", "labels"):
      sizes = list(getattr(self, name))
      if not sizes or sizes != sorted(set(sizes)) or sizes[0] < 1:
        raise ValueError(
          f"Expected {name} to be increasing positive numbers, got {sizes}."
        )
    if self.rows[0] != 1:
      raise ValueError(f"Expected rows to start with 1, got {self.rows}.")

  def smallest_for(self, request: Request) -> Shape:
    """Returns the smallest shape that a request fits into.

    Raises:
      TooLongError: if it fits into no shape.
      FieldError: if its beams do not fit its other fields.
    """
    prompt = 0 if self.keeps_prompts else request.prompt_length
    length = _smallest(
      self.lengths,
      prompt + len(request.tokens),
      f"an input of {len(request.tokens)} tokens behind a prompt of {prompt}",
    )
    if isinstance(request, Embedding):
      return Shape("embed", length, 0)
    if isinstance(request, Ranking):
      tokens = sum(map(len, request.labels))
      what = f"labels of {tokens} tokens in all"
      steps = _smallest(self.labels, tokens, what, "labels")
      return Shape("rank", length, steps)
    assert isinstance(request, Generation)
    what = f"max_tokens {request.max_tokens}"
    steps = _smallest(self.steps, request.max_tokens, what, "max_tokens")
    if not request.num_beams:
      return Shape("generate", length, steps)
    if request.temperature or request.top_log_probs or request.on_token:
      raise FieldError(
        "Beam search does not support temperature, log probabilities of "
        "tokens, or streaming.",
        "num_beams",
      )
    if request.num_beams not in self.beams:
      raise FieldError(
        f"Expected num_beams to be {' or '.join(map(str, (0, *self.beams)))}, "
        f"got {request.num_beams}. The server's --beams sets it.",
        "num_beams",
      )
    if request.max_tokens != steps:
      raise FieldError(
        "The result of a beam search depends on max_tokens: expected one of "
        f"{list(self.steps)}, got {request.max_tokens}.",
        "max_tokens",
      )
    return Shape("beam", length, steps, request.num_beams)

  def rows_of(self, shape: Shape) -> list[int]:
    """Returns the numbers of rows that batches of a shape can have."""
    limits = [self.positions // shape.length]
    if shape.kind == "rank":
      limits.append(self.logits // shape.steps)
    if shape.kind == "beam":
      limits.append(self.rows[-1] // shape.beams)
    # A single row is always allowed.
    return [1, *(rows for rows in self.rows[1:] if rows <= min(limits))]

  def __iter__(self) -> Iterator[Shape]:
    """Yields every shape; "embed" uses only the first program of the others."""
    for length in self.lengths:
      for steps in self.steps:
        yield Shape("generate", length, steps)
        for beams in self.beams:
          yield Shape("beam", length, steps, beams)
      for labels in self.labels:
        yield Shape("rank", length, labels)


def _smallest(
  sizes: Sequence[int], needed: int, what: str, param: str | None = None
) -> int:
  for size in sizes:
    if size >= needed:
      return size
  raise TooLongError(f"Expected at most {sizes[-1]}, got {what}.", param)


@dataclasses.dataclass(frozen=True)
class Settings:
  """Settings of an engine.

  Attributes:
    shapes: The shapes of batches.
    slots: Prompts on the device; more are kept on the host, and swapped.
    longest_prompt: Positions of the longest prompt.
    room: Limit on waiting requests.
    patience: Seconds that a request waits for others to share a batch with.
    chunk: Steps of decoding before other batches get their turn, and other
      requests join.
    running: Limit on batches that are decoded in turn.
  """

  shapes: Shapes = dataclasses.field(default_factory=Shapes)
  slots: int = 64
  longest_prompt: int = 128
  room: int = 256
  patience: float = 0.003
  chunk: int = 16
  running: int = 4


class QueueFullError(Exception):
  """An error for a request that finds no room; the client may retry later."""


class BatchQueue:
  """A queue from which batches of one shape are taken, the oldest first."""

  def __init__(self, settings: Settings):
    """Makes an empty queue."""
    self._settings = settings
    self._tickets: deque[tuple[Ticket, Shape]] = deque()
    self._seconds: dict[tuple[Shape, int], float] = {}  # Of a batch, by rows.

  def __len__(self) -> int:
    return len(self._tickets)

  def put(self, tickets: list[Ticket]) -> None:
    """Adds all of the requests, or none.

    Raises:
      QueueFullError: if there is no room for them.
      ValueError: if one fits into no shape.
    """
    smallest_for, room = self._settings.shapes.smallest_for, self._settings.room
    shapes = [smallest_for(ticket.request) for ticket in tickets]
    if len(self) + len(tickets) > room:
      self._drop_finished()
    if len(self) + len(tickets) > room:
      raise QueueFullError(
        f"{len(self)} requests are waiting, and there is room for {room}."
      )
    self._tickets.extend(zip(tickets, shapes, strict=True))

  def clear(self) -> list[Ticket]:
    """Removes and returns all requests."""
    tickets = [ticket for ticket, _ in self._tickets]
    self._tickets.clear()
    return tickets

  def take(
    self, now: float, may_decode: bool = True
  ) -> tuple[list[Ticket], Shape, int] | None:
    """Takes a batch.

    Args:
      now: `time.monotonic()`.
      may_decode: Whether requests that are decoded may be taken; others do not
        wait for them.

    Returns:
      The batch's requests, their shape, and its number of rows, of which some
      may stay empty; None if it is better to wait until `due`.
    """
    self._drop_finished()
    waiting = [
      x for x in self._tickets if may_decode or x[1].kind != "generate"
    ]
    if not waiting:
      return None
    oldest, shape = waiting[0]
    most = self._settings.shapes.rows_of(shape)[-1]
    chosen = self._fitting(shape, most)
    alike = sum(own == shape for _, own in chosen)
    if alike < most and now < oldest.arrived + self._settings.patience:
      return None
    size = self._fastest(shape, chosen)
    return self._remove(chosen[:size]), shape, size

  def _fastest(self, shape: Shape, chosen: list[tuple[Ticket, Shape]]) -> int:
    """Returns the rows with which a batch of some requests is fastest.

    Small batches that are full may be faster than a large one that is not.
    """
    rows = self._settings.shapes.rows_of(shape)
    alike = sum(own == shape for _, own in chosen)
    sizes = [next(number for number in rows if number >= alike)]
    sizes += [number for number in rows if (shape, number) in self._seconds]

    def speed(size: int) -> float:  # Positions a second.
      positions = sum(own.length for _, own in chosen[:size])
      return positions / self._seconds.get((shape, size), 1e-9)

    return max(sizes, key=speed)

  def take_more(
    self, shape: Shape, rows: int, free: int, may_overtake: bool
  ) -> tuple[list[Ticket], Shape, int] | None:
    """Takes requests that join a batch which is being decoded.

    No request joins a batch that decodes all of its tokens at once. Requests
    that would fill a faster batch with more rows do not join either.

    Args:
      shape: The batch's shape.
      rows: The batch's rows. Fewer join at a time.
      free: Number of rows without a request.
      may_overtake: Whether the oldest request that is decoded may stay.

    Returns:
      As `take`; None if no request fits.
    """
    self._drop_finished()
    sizes = [x for x in self._settings.shapes.rows_of(shape) if x < rows]
    is_short = shape.steps <= self._settings.chunk
    waiting = [own for _, own in self._tickets if own.kind == "generate"]
    if is_short or not (free and sizes and waiting):
      return None
    if not (may_overtake or waiting[0].fits_into(shape)):
      return None
    fitting = self._fitting(shape, self._settings.shapes.rows_of(shape)[-1])
    chosen = fitting[: min(free, sizes[-1])]
    if not chosen:
      return None
    fastest = self._fastest(shape, fitting)
    if fastest > rows and len(fitting) >= fastest:
      return None
    size = next(x for x in sizes if x >= len(chosen))
    return self._remove(chosen), shape, size

  def _fitting(self, shape: Shape, most: int) -> list[tuple[Ticket, Shape]]:
    """Returns requests for a batch: the oldest, and then those of its shape.

    Shorter requests use rows that would otherwise be padding.
    """
    fitting = [x for x in self._tickets if x[1].fits_into(shape)]
    fitting[1:] = sorted(fitting[1:], key=lambda x: x[1] != shape)
    chosen, prompts = [], set()
    for ticket, own in fitting:
      if len(chosen) == most:
        break
      needed = prompts | {ticket.request.prompt} - {None}
      if len(needed) <= self._settings.slots:
        chosen.append((ticket, own))
        prompts = needed
    return chosen

  def _remove(self, chosen: list[tuple[Ticket, Shape]]) -> list[Ticket]:
    taken = [ticket for ticket, _ in chosen]
    self._tickets = deque(x for x in self._tickets if x[0] not in taken)
    return taken

  def took(self, shape: Shape, rows: int, seconds: float) -> None:
    """Records the time of a batch; later batches choose their rows by it."""
    mean = self._seconds.get((shape, rows), seconds)
    for key in self._seconds:
      if key[0] == shape:
        self._seconds[key] *= 0.998  # Slow ones are tried again at times.
    self._seconds[shape, rows] = mean + 0.1 * (seconds - mean)

  def _drop_finished(self) -> None:
    """Removes requests that are no longer awaited."""
    self._tickets = deque(x for x in self._tickets if not x[0].done())

  def due(self) -> float:
    """Returns the time at which the oldest request has waited long enough."""
    return self._tickets[0][0].arrived + self._settings.patience
