"""How examples of different lengths become few arrays with little padding.

What is compiled is compiled for a shape, so there are to be few shapes; what is
padding is computed for nothing, so examples of a shape should be about as long.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses

import numpy as np

Features = Mapping[str, np.ndarray]

INPUTS = "encoder_input_tokens"
# Features of this prefix are as long as the inputs.
_OF_INPUTS = "encoder_"
# Lengths are multiples of it, so that sizes fit what a processor does at once.
_MULTIPLE = 8
# The smallest length is this part of the longest, at least.
_RANGE = 1 / 8
# A microbatch of the longest examples has this part of the rows.
_PART = 1 / 4
# Or as many as have this many tokens: with fewer, a processor is not filled.
_TOKENS = 512
# Tokens that a microbatch costs beside its own: the weights are read anew.
_OVERHEAD = 128
# Batches of a split for each more shape that it may have.
_BATCHES_PER_SHAPE = 16
_MOST_OF_SPLIT = 4
# A length is as good as another that is this much longer.
_NEAR = 1.2


@dataclasses.dataclass(frozen=True)
class Shape:
  """Of the inputs of a microbatch.

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


def of_inputs(features: Features) -> np.ndarray:
  """Returns [n], the tokens of each row of `encoder_input_tokens` [n, T]."""
  inputs = features[INPUTS]
  return ((inputs != 0) * np.arange(1, inputs.shape[1] + 1)).max(axis=1)


def of_example(features: Features) -> int:
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
    microbatch: Which of them.

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
    count: How many shapes there may be.
    fixed: Tokens that the encoder adds to each row, such as a prompt.
    multiple: What the rows of a microbatch must be a multiple of.

  Returns:
    At most `count` shapes, from short to long.

  Raises:
    ValueError: if there may be none.
  """
  if count < 1:
    raise ValueError(f"Expected 1 shape at least, got {count}.")
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
  """Cuts a batch into microbatches, such that the tokens are fewest.

  Args:
    lengths: [n] Tokens of each example.
    shapes: What there is; one of them fits the longest example.
    fixed: Tokens that the encoder adds to each row.
    agreed: Of several processes, each with its part of the batch: makes of the
      sorted lengths of each those that all plan with, which are no smaller.

  Returns:
    Microbatches, from short to long, of every example once.
  """
  order = np.argsort(lengths, kind="stable")
  ordered = agreed(lengths[order])
  # Of the first i examples, the fewest tokens, and the last microbatch.
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
  """Cuts whole splits into batches of examples about as long.

  It knows the lengths that it chose, so that the splits of a mixture, and the
  parts of one that is too large, share what is compiled.
  """

  def __init__(self, batch_size: int, most: int = 8):
    """Knows no length yet.

    Args:
      batch_size: Rows of every batch.
      most: Lengths there may be, beside that of the features.
    """
    self._batch_size = batch_size
    self._most = most
    self._known: set[int] = set()

  def plan(self, lengths: np.ndarray, padded: int) -> list[Microbatch]:
    """Plans a split, or a part of one.

    Args:
      lengths: [n] Tokens of each example.
      padded: Length of the features. Few batches all have it: another
        compilation would take longer than what it saves.

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
    """Returns a known length that will do, or makes one known."""
    known = sorted(x for x in self._known | {padded} if x >= length)
    if known[0] > _NEAR * length and len(self._known) < self._most:
      self._known.add(length)
      return length
    return known[0]


def _limits(longest: Sequence[int], count: int) -> list[int]:
  """Chooses lengths for batches, such that the padding is least."""
  top = max(longest, default=0)
  rounded = [min(-(-x // _MULTIPLE) * _MULTIPLE, top) for x in longest]
  values = sorted(set(rounded))
  if len(values) <= count:
    return values
  numbers = [rounded.count(x) for x in values]
  # Of the first i values, limits of each number, and what they cost.
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
