"""Which shapes batches have: few, so that all are compiled at the start."""

from collections.abc import Iterator, Sequence
import dataclasses
from typing import Literal

from prompt_tuning.inference.requests import Generation, Ranking, Request

Kind = Literal["generate", "beam", "rank"]


class TooLongError(ValueError):
  """A request that fits into no shape.

  Attributes:
    param: The field that is too long; None: what the input is from.
  """

  def __init__(self, message: str, param: str | None):
    """Keeps its arguments."""
    super().__init__(message)
    self.param = param


@dataclasses.dataclass(frozen=True)
class Shape:
  """What requests must have in common to share a batch, and their size.

  Attributes:
    kind: What is done.
    length: Positions of the prompt and the input, T.
    steps: Tokens of the answer, S; of ranking, those of all labels, U.
    beams: K of a beam search, else 0.
  """

  kind: Kind
  length: int
  steps: int
  beams: int = 0

  def fits_into(self, other: "Shape") -> bool:
    """Whether a request of this shape can be in a batch of another."""
    if (self.kind, self.beams) != (other.kind, other.beams):
      return False
    # What a beam search finds depends on how long answers may be.
    if self.beams and self.steps != other.steps:
      return False
    return self.length <= other.length and self.steps <= other.steps


@dataclasses.dataclass(frozen=True)
class Shapes:
  """The shapes that there are; each is compiled.

  Attributes:
    rows: Rows of a batch, B.
    lengths: Positions of a row, the prompt's and the input's.
    steps: Tokens of an answer.
    labels: Tokens of all labels of an input.
    beams: Of a beam search; none: there is no such search.
    positions: Rows times length, at most: what bounds activations.
    logits: Rows times tokens of labels, at most: each is V numbers.
  """

  rows: Sequence[int] = (1, 4, 16)
  lengths: Sequence[int] = (64, 128, 256, 512)
  steps: Sequence[int] = (16, 128)
  labels: Sequence[int] = (16, 64, 256)
  beams: Sequence[int] = (4,)
  positions: int = 4096
  logits: int = 1024

  def __post_init__(self):
    for name in ("rows", "lengths", "steps", "labels"):
      sizes = list(getattr(self, name))
      if not sizes or sizes != sorted(set(sizes)) or sizes[0] < 1:
        raise ValueError(
          f"Expected {name} to be numbers that increase, got {sizes}."
        )
    if self.rows[0] != 1:
      raise ValueError(f"Expected rows to begin with 1, got {self.rows}.")

  def of(self, request: Request) -> Shape:
    """Returns the smallest shape that a request fits into.

    Raises:
      TooLongError: if there is none.
    """
    prompt = request.prompt.length if request.prompt else 0
    length = _smallest(
      self.lengths,
      prompt + len(request.tokens),
      f"an input of {len(request.tokens)} tokens behind a prompt of {prompt}",
    )
    if isinstance(request, Ranking):
      tokens = sum(map(len, request.labels))
      what = f"labels of {tokens} tokens in all"
      steps = _smallest(self.labels, tokens, what, "labels")
      return Shape("rank", length, steps)
    return self._of_generation(request, length)

  def _of_generation(self, request: Generation, length: int) -> Shape:
    what = f"max_tokens {request.max_tokens}"
    steps = _smallest(self.steps, request.max_tokens, what, "max_tokens")
    if not request.num_beams:
      return Shape("generate", length, steps)
    if request.num_beams not in self.beams:
      raise ValueError(
        f"Expected num_beams to be {' or '.join(map(str, (0, *self.beams)))}, "
        f"got {request.num_beams}. It is the server's --beams."
      )
    if request.max_tokens != steps:
      raise ValueError(
        "Expected max_tokens of a beam search, on which its result depends, to "
        f"be one of {list(self.steps)}, got {request.max_tokens}."
      )
    return Shape("beam", length, steps, request.num_beams)

  def rows_of(self, shape: Shape) -> list[int]:
    """Returns the numbers of rows that batches of a shape have."""
    limits = [self.positions // shape.length]
    if shape.kind == "rank":
      limits.append(self.logits // shape.steps)
    if shape.kind == "beam":
      limits.append(self.rows[-1] // shape.beams)
    # One row must do.
    return [1, *(rows for rows in self.rows[1:] if rows <= min(limits))]

  def __iter__(self) -> Iterator[Shape]:
    """Yields every shape, as what is compiled sees it."""
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
