"""Batches of examples of different lengths, with few shapes and little padding.

Every shape is compiled once, so there should be few shapes. Padding is wasted
work, so examples of one shape should have similar lengths.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses

import numpy as np

Features = Mapping[str, np.ndarray]

INPUTS = "encoder_input_tokens"
# Features with this prefix are as long as the inputs.
_OF_INPUTS = "encoder_"
# Lengths are multiples of this, as processors work on blocks of values.
_MULTIPLE = 8
# The smallest length is at least this fraction of the longest.
_RANGE = 1 / 8
# A microbatch of the longest examples has this fraction of the rows.
_PART = 1 / 4
# It has more rows if it needs them for this many tokens, which keep a processor
# busy.
_TOKENS = 512
# Extra cost of a microbatch, in tokens, for reading the weights again.
_OVERHEAD = 128
# Batches of a split for each additional shape.
_BATCHES_PER_SHAPE = 16
_MOST_OF_SPLIT = 5
_STEP_OF_SPLIT = 0.6


@dataclasses.dataclass(frozen=True)
class Shape:
  """The shape of a microbatch's inputs.

  Attributes:
    rows: Number of examples.
    length: Number of tokens of each.
  """

  rows: int
  length: int


@dataclasses.dataclass(frozen=True)
class Microbatch:
  """Some examples of a batch, and the shape that they get.

  Attributes:
    rows: The examples' numbers in the batch; there may be fewer than the
      shape's rows.
    shape: The shape of the inputs.
  """

  rows: np.ndarray
  shape: Shape


def count_tokens(features: Features) -> np.ndarray:
  """Counts the tokens of `encoder_input_tokens`, [..., T]; 0 if absent."""
  inputs = np.asarray(features.get(INPUTS, ()))
  numbers = np.arange(1, inputs.shape[-1] + 1)
  return ((inputs != 0) * numbers).max(axis=-1, initial=0)


def cut(features: Features, length: int) -> dict[str, np.ndarray]:
  """Cuts the features of the inputs, [n, T, ...], to [n, length, ...]."""
  return {
    name: x[:, :length] if name.startswith(_OF_INPUTS) else x
    for name, x in features.items()
  }


def take(features: Features, microbatch: Microbatch) -> dict[str, np.ndarray]:
  """Takes the features of a microbatch from its batch.

  Args:
    features: [n, ...] each; features of the inputs are [n, T, ...].
    microbatch: The rows to take, and their shape.

  Returns:
    [shape.rows, ...] each; features of the inputs are [shape.rows,
    shape.length, ...]. Rows without an example are zeros, which have no loss.
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

  Lengths fall from the longest by a constant factor. Shorter shapes have more
  rows, so that all shapes have about the same number of tokens.

  Args:
    rows: Examples of a batch.
    longest: Tokens of the longest inputs.
    count: The largest number of shapes, at least 1.
    fixed: Tokens that the encoder adds to each row, such as a prompt.
    multiple: A divisor of the rows of every microbatch.

  Returns:
    At most `count` shapes, from short to long.
  """
  step = _RANGE ** (1 / max(count - 1, 1))
  lengths = {_rounded(longest * step**i, longest) for i in range(count)}
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
      lengths, no smaller, that all processes plan with.

  Returns:
    Microbatches, from short to long; each example is in one of them.
  """
  order = np.argsort(lengths, kind="stable")
  ordered = agreed(lengths[order])
  # costs[i]: the fewest tokens for the first i examples; last[i]: the shape of
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


def plan_split(
  lengths: np.ndarray, batch_size: int, padded: int
) -> list[Microbatch]:
  """Cuts a whole split, or a part of one, into batches of similar lengths.

  The lengths of the batches fall from `padded` by a constant factor, so splits
  of the same features share compiled programs.

  Args:
    lengths: [n] Tokens of each example.
    batch_size: Rows of every batch.
    padded: Length of the features. A split with few batches uses it for all:
      another compilation would take longer than it saves.

  Returns:
    Batches, from short to long; each example is in one of them.
  """
  order = np.argsort(lengths, kind="stable")
  parts = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
  count = min(_MOST_OF_SPLIT, 1 + len(parts) // _BATCHES_PER_SHAPE)
  limits = [_rounded(padded * _STEP_OF_SPLIT**i, padded) for i in range(count)]
  return [
    Microbatch(
      part, Shape(batch_size, min(x for x in limits if x >= lengths[part[-1]]))
    )
    for part in parts
  ]


def _rounded(length: float, longest: int) -> int:
  """Rounds a length up to a multiple, but not beyond the longest."""
  return min(-(-max(int(length), 1) // _MULTIPLE) * _MULTIPLE, longest)
