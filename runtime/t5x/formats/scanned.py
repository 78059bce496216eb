"""Models whose layers T5X scanned, read layer by layer.

T5X's scalable T5 stacks the layers' parameters along axis 1 under `layers`. It
may keep heads on a separate axis, and has a relative bias in every layer.
"""

from collections.abc import Mapping
import functools
from typing import Any

import numpy as np

from t5x.formats import stored_arrays
from t5x.formats.stored_arrays import StoredArray

# The axis of the layers in T5X.
_AXIS = 1
_BIAS = "relative_posemb/rel_embedding"


def take_apart(arrays: Mapping[str, StoredArray]) -> dict[str, StoredArray]:
  """Splits the stacks in a checkpoint into layers.

  Args:
    arrays: Path of the parameter -> array.

  Returns:
    The same arrays, with `layers_<i>` for `layers`. A model that was not
    scanned stays as it is.

  Raises:
    ValueError: if layers have different biases, which a T5 never has.
  """
  apart: dict[str, StoredArray] = {}
  for name, array in arrays.items():
    before, found, after = name.partition("/layers/")
    if not found:
      apart[name] = array
    elif after == _BIAS:
      by_layer = np.moveaxis(stored_arrays.read(array), _AXIS, 0)
      if not (by_layer == by_layer[0]).all():
        raise ValueError(
          f"Expected {name} to be the same in every layer, as in a T5, which "
          "has one relative bias for all layers of a stack; these differ."
        )
      bias = stored_arrays.in_memory(by_layer[0])
      apart[f"{before}/relpos_bias/rel_embedding"] = bias
    else:
      apart |= {
        f"{before}/layers_{i}/{after}": _layer(name, array, i)
        for i in range(array.shape[_AXIS])
      }
  return apart


def _layer(name: str, array: StoredArray, layer: int) -> StoredArray:
  """Returns one layer's parameter of a stack, [a, L, ...] on disk."""
  shape = (*array.shape[:_AXIS], *array.shape[_AXIS + 1 :])
  axis = None
  if len(shape) > 2:
    # One axis is stored as two: heads, and their width.
    axis = 0 if name.endswith("/out/kernel") else 1
    shape = (*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])

  def read_layers(
    read: stored_arrays.Reader, *bounds: tuple[int, int]
  ) -> np.ndarray:
    """Reads [L, ...]: every layer, from start to stop on each other axis."""
    index = [slice(*pair) for pair in bounds]
    start = stop = first = width = 0
    if axis is not None:
      width = array.shape[axis + 2]
      start, stop = bounds[axis]
      first = start // width
      some = slice(first, -(-stop // width))
      index[axis : axis + 1] = [some, slice(0, width)]
    index.insert(_AXIS, slice(None))
    block = np.moveaxis(np.asarray(read(tuple(index))), _AXIS, 0)
    if axis is None:
      return block
    before, after = block.shape[: axis + 1], block.shape[axis + 3 :]
    within = slice(start - first * width, stop - first * width)
    joined = block.reshape(*before, -1, *after)
    return joined[(*(slice(None) for _ in before), within)]

  def open_layer(shared: dict[Any, Any] | None = None) -> stored_arrays.Reader:
    if shared is None:
      shared = {}
    if not shared:
      part = functools.partial(read_layers, array.open())
      shared["read"] = functools.cache(part)

    def read(index: stored_arrays.Index) -> np.ndarray:
      bounds = (x.indices(n)[:2] for x, n in zip(index, shape, strict=True))
      return shared["read"](*bounds)[layer]

    return read

  return StoredArray(shape, array.dtype, open_layer, stack=name)
