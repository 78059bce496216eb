"""Models whose layers T5X scanned, read layer by layer.

T5X's scalable T5 stacks the layers' parameters along axis 1 under `layers`, may
keep heads on a separate axis, and has a relative bias in every layer.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools

import numpy as np

from t5x.formats import stored_arrays
from t5x.formats.stored_arrays import StoredArray

# The axis of the layers in T5X.
_AXIS = 1
_BIAS = "relative_posemb/rel_embedding"


@dataclasses.dataclass(frozen=True)
class Stack:
  """The same parameter of all layers.

  Attributes:
    array: [a, L, ...] on disk.
    joined: The axis of one layer that is stored as two, heads and their width,
      or None.
  """

  array: StoredArray
  joined: int | None

  @property
  def num_layers(self) -> int:
    return self.array.shape[_AXIS]

  @property
  def shape(self) -> tuple[int, ...]:
    """The shape of one layer."""
    shape = (*self.array.shape[:_AXIS], *self.array.shape[_AXIS + 1 :])
    if (axis := self.joined) is None:
      return shape
    return (*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])

  def open(self) -> Callable[[int], stored_arrays.Reader]:
    """Returns a function from a layer to its reader.

    A block is read once for all layers."""
    read = self.array.open()

    @functools.cache
    def blocks(*bounds: tuple[int, int]) -> np.ndarray:
      """[L, ...]: the part of every layer within these bounds."""
      index = [slice(*pair) for pair in bounds]
      axis, within = self.joined, None
      if axis is not None:
        width = self._head_width
        start, stop = bounds[axis]
        heads = slice(start // width, -(-stop // width))
        first = heads.start * width
        within = slice(start - first, stop - first)
        index[axis : axis + 1] = [heads, slice(0, width)]
      index.insert(_AXIS, slice(None))
      block = np.moveaxis(np.asarray(read(tuple(index))), _AXIS, 0)
      if axis is None:
        return block
      before, after = block.shape[: axis + 1], block.shape[axis + 3 :]
      joined = block.reshape(*before, -1, *after)
      return joined[(*(slice(None) for _ in before), within)]

    def of_layer(layer: int) -> stored_arrays.Reader:
      def read_layer(index: stored_arrays.Index) -> np.ndarray:
        bounds = [
          part.indices(size)[:2]
          for part, size in zip(index, self.shape, strict=True)
        ]
        return blocks(*bounds)[layer]

      return read_layer

    return of_layer

  @property
  def _head_width(self) -> int:
    assert self.joined is not None
    shape = (*self.array.shape[:_AXIS], *self.array.shape[_AXIS + 1 :])
    return shape[self.joined + 1]


@dataclasses.dataclass(frozen=True)
class Layer:
  """One layer's parameter.

  Attributes:
    stack: The stack that it is in.
    index: The number of the layer.
  """

  stack: Stack
  index: int

  @property
  def shape(self) -> tuple[int, ...]:
    return self.stack.shape

  @property
  def dtype(self) -> np.dtype:
    return self.stack.array.dtype

  def open(self) -> stored_arrays.Reader:
    return self.stack.open()(self.index)


def take_apart(arrays: Mapping[str, StoredArray]) -> dict[str, StoredArray]:
  """Splits the stacks in a checkpoint into layers.

  Args:
    arrays: Path of the parameter -> array.

  Returns:
    The same, with `layers_<i>` for `layers`. A model that was not scanned stays
    as it is.

  Raises:
    ValueError: if layers have different biases, which a T5 never has.
  """
  apart: dict[str, StoredArray] = {}
  for name, array in arrays.items():
    before, found, after = name.partition("/layers/")
    if not found:
      apart[name] = array
    elif after == _BIAS:
      apart[f"{before}/relpos_bias/rel_embedding"] = _shared(name, array)
    else:
      stack = Stack(array, _joined_axis(after, len(array.shape) - 1))
      apart |= {
        f"{before}/layers_{i}/{after}": Layer(stack, i)
        for i in range(stack.num_layers)
      }
  return apart


def _joined_axis(name: str, ndim: int) -> int | None:
  """Returns the axis of heads in one layer's kernel, if it has one."""
  if ndim < 3:
    return None
  return 0 if name.endswith("/out/kernel") else 1


def _shared(name: str, array: StoredArray) -> StoredArray:
  """Returns the bias that all layers share."""
  by_layer = np.moveaxis(stored_arrays.read(array), _AXIS, 0)
  if not np.array_equal(by_layer, np.broadcast_to(by_layer[0], by_layer.shape)):
    raise ValueError(
      f"Expected {name} to be the same in every layer, as in a T5, which has "
      "one relative bias for all layers of a stack; these differ."
    )
  return stored_arrays.ArrayInMemory(by_layer[0])
