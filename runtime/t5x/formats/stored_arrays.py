"""Arrays on disk, in any format, that are read part by part."""

from collections.abc import Callable, Iterator
import dataclasses
import itertools
from typing import Protocol

import numpy as np

Index = tuple[slice, ...]
Reader = Callable[[Index], np.ndarray]


class StoredArray(Protocol):
  """An array that has not been read yet.

  Attributes:
    shape: Its shape.
    dtype: Its dtype, on disk.
  """

  @property
  def shape(self) -> tuple[int, ...]: ...

  @property
  def dtype(self) -> np.dtype: ...

  def open(self) -> Reader:
    """Returns a reader of parts, which keeps files open while it exists."""
    ...


@dataclasses.dataclass(frozen=True)
class ArrayInMemory:
  """An array that has been read already."""

  array: np.ndarray

  @property
  def shape(self) -> tuple[int, ...]:
    return self.array.shape

  @property
  def dtype(self) -> np.dtype:
    return self.array.dtype

  def open(self) -> Reader:
    return self.array.__getitem__


def read(stored: StoredArray) -> np.ndarray:
  """Reads all of an array."""
  return stored.open()(tuple(slice(0, size) for size in stored.shape))


def blocks(shape: tuple[int, ...], block: tuple[int, ...]) -> Iterator[Index]:
  """Cuts an array into blocks.

  Args:
    shape: The shape of the array.
    block: The shape of a block; those at the upper end may be smaller.

  Yields:
    The index of each, the last axis fastest.
  """
  axes = list(zip(shape, block, strict=True))
  starts = (range(0, size, step) for size, step in axes)
  for corner in itertools.product(*starts):
    yield tuple(
      slice(start, min(start + step, size))
      for start, (size, step) in zip(corner, axes, strict=True)
    )


def block_shape(
  shape: tuple[int, ...], dtype: np.dtype, max_bytes: int
) -> tuple[int, ...]:
  """Chooses blocks of at most `max_bytes`, by halving the longest axis."""
  block = list(shape)
  while len(block) and np.prod(block) * dtype.itemsize > max_bytes:
    axis = int(np.argmax(block))
    if block[axis] == 1:
      break
    block[axis] = -(-block[axis] // 2)
  return tuple(block)
