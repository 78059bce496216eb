"""Batches of examples of different lengths, with few shapes and little padding.

Every shape is compiled once, so there should be few shapes. Padding is wasted
work, so examples of one shape should have similar lengths.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses

import numpy as np

Features = Mapping[str, np.ndarray]

INPUTS = "encoder_input_tokens"
# Features of this prefix are as long as the inputs.
_OF_INPUTS = "encoder_"
# Lengths are multiples of this, as processors work on blocks of values.
_MULTIPLE = 8
# The smallest length is at least this fraction of the longest.
_RANGE = 1 / 8
# A microbatch of the longest examples has this fraction of the rows.
_PART = 1 / 4
# Or so many rows that it has this many tokens, to keep a processor busy.
_TOKENS = 512
# Extra cost of a microbatch, in tokens: the weights are read again.
_OVERHEAD = 128
# Batches of a split for each additional shape.
_BATCHES_PER_SHAPE = 16
_MOST_OF_SPLIT = 4
# A length may stand in for one that is shorter by this factor.
_NEAR = 1.2


@dataclasses.dataclass(frozen=True)
class Shape:
  """The shape of a microbatch's inputs.

  Attributes:
    rows: Examples.
    length: Tokens of each.
  """

  rows: int
  length: int


@dataclasses.dataclass(frozen=True)
class Microbatch:
  """Some examples of a batch, and the shape that they get.

  Attributes:
    rows: Their numbers in the batch; they may be fewer than those of the shape.
    shape: Of the inputs.
  """

  rows: np.ndarray
  shape: Shape


def count_tokens(features: Features) -> np.ndarray:
  """Returns [n], the tokens of each row of `encoder_input_tokens` [n, T]."""
  inputs = features[INPUTS]
  return ((inputs != 0) * np.arange(1, inputs.shape[1] + 1)).max(axis=1)


def count_tokens_of_example(features: Features) -> int:
  """Returns the tokens of `encoder_input_tokens` [T], or 0 without them."""
  found = np.flatnonzero(features.get(INPUTS, ()))
  return int(found[-1]) + 1 if len(found) else 0


def cut(features: Features, length: int) -> dict[str, np.ndarray]:
  """Cuts the features of the inputs, [n, T, ...], to [n, length, ...]."""
  return {
    name: x[:, :length] if name.startswith(_OF_INPUTS) else x
    for name, x in features.items()
  }


def take(features: Features, microbatch: Microbatch) -> dict[str, np.ndarray]:
  """Takes the features of a microbatch from those of its batch.

  Args:
    features: [n, ...] each; those of the inputs are [n, T, ...].
    microbatch: The rows to take, and their shape.

  Returns:
    [shape.rows, ...] each, [shape.rows, shape.length, ...] those of the inputs.
    Rows without an example are zeros: padding, which has no loss.
  """
  shape = microbatch.shape
  missing = shape.rows - len(microbatch.rows)

  rows = {name: x[microbatch.rows] for name, x in features.items()}
  return {
    name: np.pad(x, ((0, missing), *((0, 0),) * (x.ndim - 1)))
    for name, x in cut(rows, shape.length).items()
  }


def shapes(
  rows: int, longest: int, count: int, fixed: int = 0, multiple: int = 1
) -> tuple[Shape, ...]:
  """Chooses the shapes of the microbatches of a batch.

  Lengths fall from the longest by a constant factor; the shorter they are, the
  more rows, so that all shapes have about as many tokens.

  Args:
    rows: Examples of a batch.
    longest: Tokens of the longest inputs.
    count: The largest number of shapes.
    fixed: Tokens that the encoder adds to each row, such as a prompt.
    multiple: A divisor of the rows of every microbatch.

  Returns:
    At most `count` shapes, from short to long.

  Raises:
    ValueError: if `count` is less than 1.
  """
  if count < 1:
    raise ValueError(f"Expected at least 1 shape, got {count}.")
  step = _RANGE ** (1 / max(count - 1, 1))
  lengths = {
    min(-(-max(int(longest * step**i), 1) // _MULTIPLE) * _MULTIPLE, longest)
    for i in range(count)
  }
  sizes = [x for x in range(multiple, rows + 1, multiple) if rows % x == 0]
  tokens = max((longest + fixed) * max(rows * _PART, sizes[0]), _TOKENS)
  chosen = []
  for length in sorted(lengths):
    fitting = [x for x in sizes if x * (length + fixed) <= tokens]
    chosen.append(Shape(max(fitting, default=sizes[0]), length))
  return tuple(chosen)


def plan(
  lengths: np.ndarray,
  shapes: Sequence[Shape],
  fixed: int = 0,
  agreed: Callable[[np.ndarray], np.ndarray] = lambda x: x,
) -> list[Microbatch]:
  """Cuts a batch into microbatches with the fewest tokens.

  Args:
    lengths: [n] Tokens of each example.
    shapes: The available shapes; one of them fits the longest example.
    fixed: Tokens that the encoder adds to each row.
    agreed: Maps the sorted lengths of this process's part of the batch to
      lengths, no smaller, with which all processes plan.

  Returns:
    Microbatches, from short to long, of every example once.
  """
  order = np.argsort(lengths, kind="stable")
  ordered = agreed(lengths[order])
  # costs[i]: the fewest tokens of the first i examples; last[i]: the shape of
  # their last microbatch.
  costs: list[float] = [0.0]
  last: list[Shape | None] = [None]
  for i in range(1, len(order) + 1):
    fitting = (x for x in shapes if x.length >= ordered[i - 1])
    cost, _, shape = min(
      (
        costs[max(0, i - x.rows)] + x.rows * (x.length + fixed) + _OVERHEAD,
        x.length,
        x,
      )
      for x in fitting
    )
    costs.append(cost)
    last.append(shape)
  found = []
  stop = len(order)
  while stop:
    shape = last[stop]
    assert shape is not None, "there is one for each example"
    start = max(0, stop - shape.rows)
    found.append(Microbatch(order[start:stop], shape))
    stop = start
  return found[::-1]


class SplitPlanner:
  """Cuts whole splits into batches of examples of similar lengths.

  It remembers the lengths that it chose, so that the splits of a mixture, and
  the parts of a large split, share compiled programs.
  """

  def __init__(self, batch_size: int, most: int = 8):
    """Starts without any length.

    Args:
      batch_size: Rows of every batch.
      most: The largest number of lengths, beside that of the features.
    """
    self._batch_size = batch_size
    self._most = most
    self._known: set[int] = set()

  def plan(self, lengths: np.ndarray, padded: int) -> list[Microbatch]:
    """Plans a split, or a part of one.

    Args:
      lengths: [n] Tokens of each example.
      padded: Length of the features. A split of few batches uses it for all:
        another compilation would take longer than it saves.

    Returns:
      Batches, from short to long, of every example once.
    """
    size = self._batch_size
    order = np.argsort(lengths, kind="stable")
    parts = [order[i : i + size] for i in range(0, len(order), size)]
    longest = [int(lengths[part].max()) for part in parts]
    count = min(_MOST_OF_SPLIT, 1 + len(parts) // _BATCHES_PER_SHAPE)
    limits = [padded]
    if count > 1:
      limits += [self._find(x, padded) for x in _limits(longest, count)]
    return [
      Microbatch(part, Shape(size, min(x for x in limits if x >= length)))
      for part, length in zip(parts, longest, strict=True)
    ]

  def _find(self, length: int, padded: int) -> int:
    """Returns a known length that is close enough, or remembers a new one."""
    known = sorted(x for x in self._known | {padded} if x >= length)
    if known[0] > _NEAR * length and len(self._known) < self._most:
      self._known.add(length)
      return length
    return known[0]


def _limits(longest: Sequence[int], count: int) -> list[int]:
  """Chooses the lengths of batches that need the least padding."""
  top = max(longest, default=0)
  rounded = [min(-(-x // _MULTIPLE) * _MULTIPLE, top) for x in longest]
  values = sorted(set(rounded))
  if len(values) <= count:
    return values
  numbers = [rounded.count(x) for x in values]
  # best[i]: the cost of the first i values, and their limits.
  best: list[tuple[int, list[int]]] = [(0, [])] + [
    (values[i] * sum(numbers[: i + 1]), [values[i]]) for i in range(len(values))
  ]
  for _ in range(count - 1):
    best = [best[0]] + [
      min(
        (
          best[j][0] + values[i] * sum(numbers[j : i + 1]),
          best[j][1] + [values[i]],
        )
        for j in range(i + 1)
      )
      for i in range(len(values))
    ]
  return best[-1][1]
