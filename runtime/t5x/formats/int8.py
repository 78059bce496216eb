"""Frozen matrices in int8, with a scale for every channel.

The matrix `X` is held as `X`, in int8, and `X_scale`, a vector. A kernel,
[in, out], has a scale for every column; an embedding, which may be the output
head as well, has one for every row. A model that has `X_scale` holds `X` in
this way, whatever its checkpoint does.

The kernel of an output head has a scale for every row. In the T5 1.1 small of
`prompt-tuning import`, one channel of the last norm is 45 times the median, and
its row of the kernel is small. With scales for columns, rounding this row
caused nearly all of the change of the logits.
"""

from collections.abc import Collection
import dataclasses
from typing import Any

import jax
import ml_dtypes
import numpy as np

from t5x.formats import stored_arrays
from t5x.formats.base_checkpoints import BaseCheckpoint
from t5x.formats.stored_arrays import StoredArray

_MATRICES = ("/kernel", "/embedding")
_OF_ROWS = ("/embedding", "logits_dense/kernel")
_SCALE = "_scale"


def names(base: BaseCheckpoint, are_int8: bool) -> list[str]:
  """Returns a model's names with all matrices in int8, or with none."""
  floats = [x for x in base.arrays if not x.endswith(_SCALE)]
  return [*floats, *filter(None, map(_scale_of, floats if are_int8 else ()))]


def is_used(params: Any) -> bool:
  """Returns whether some of a tree's arrays are in int8."""
  return any(x.dtype == np.int8 for x in jax.tree.leaves(params))


def held_by(
  base: BaseCheckpoint, parameters: Collection[str]
) -> BaseCheckpoint:
  """Returns a checkpoint with its matrices in the form that a model holds.

  Args:
    base: The checkpoint, in floats or in int8.
    parameters: The names of the model's parameters in the checkpoint.

  Returns:
    The checkpoint with matrices in int8 if the model has their scales, else in
    float32. The fingerprint stays the same: prompts work with both.
  """
  arrays = {}
  for name, array in base.arrays.items():
    scale = _scale_of(name)
    if scale in parameters and scale not in base.arrays:
      arrays |= {name: _int8(name, array), scale: _int8(name, array, True)}
    elif scale and scale in base.arrays and scale not in parameters:
      arrays[name] = _float32(name, array, base.arrays[scale])
    elif not name.endswith(_SCALE) or name in parameters:
      arrays[name] = array
  if arrays.keys() == base.arrays.keys():
    return base
  metadata = {**base.metadata, "fingerprint": base.fingerprint}
  return dataclasses.replace(base, arrays=arrays, metadata=metadata)


def quantized(matrix: np.ndarray, channels: int) -> tuple[np.ndarray, Any]:
  """Rounds a matrix to int8.

  Args:
    matrix: Floats.
    channels: The axis of the channels that have scales.

  Returns:
    The integers, from -127 to 127, and the scale of every channel, float32 but
    exact in bfloat16 as well.

  Raises:
    ValueError: if a value is not finite.
  """
  matrix = np.asarray(matrix, np.float32)
  largest = np.abs(matrix).max(axis=1 - channels, keepdims=True, initial=0)
  if not np.isfinite(largest).all():
    raise ValueError("expected finite weights to round to int8, got others.")
  # Rounded up a little, so that no value exceeds the largest integer.
  scale = (largest / 127 * (1 + 2**-8)).astype(ml_dtypes.bfloat16)
  scale = np.where(scale == 0, 1, scale).astype(np.float32)
  return np.rint(matrix / scale).astype(np.int8), scale.reshape(-1)


def _scale_of(name: str) -> str | None:
  return f"{name}{_SCALE}" if name.endswith(_MATRICES) else None


def _channels(name: str) -> int:
  """Returns the axis of a matrix's channels that have scales."""
  return 0 if name.endswith(_OF_ROWS) else 1


def _int8(name: str, array: StoredArray, of_scale: bool = False) -> StoredArray:
  """Returns a matrix in int8, or its scales; the two are read together."""
  axis = _channels(name)

  def open_part(shared: dict[Any, Any] | None = None) -> stored_arrays.Reader:
    shared = {} if shared is None else shared
    read = array.open(*[shared] * (array.stack is not None))

    def of_channels(part: slice) -> tuple[np.ndarray, Any]:
      start, stop, _ = part.indices(array.shape[axis])
      key = "int8", name, start, stop
      if key not in shared:
        whole = [slice(0, size) for size in array.shape]
        whole[axis] = slice(start, stop)
        shared[key] = quantized(read(tuple(whole)), axis)
      return shared[key]

    if of_scale:
      return lambda index: of_channels(index[0])[1]

    def read_values(index: stored_arrays.Index) -> np.ndarray:
      rest = list(index)
      rest[axis] = slice(None)
      return of_channels(index[axis])[0][tuple(rest)]

    return read_values

  stack = name if array.stack is None else array.stack
  if of_scale:
    shape = array.shape[axis : axis + 1]
    return StoredArray(shape, np.dtype(np.float32), open_part, stack)
  return StoredArray(array.shape, np.dtype(np.int8), open_part, stack)


def _float32(name: str, array: StoredArray, scale: StoredArray) -> StoredArray:
  """Returns a matrix that is stored in int8, in float32."""
  axis = _channels(name)

  def open_both() -> stored_arrays.Reader:
    values, scales = array.open(), scale.open()

    def read(index: stored_arrays.Index) -> np.ndarray:
      factors = np.asarray(scales((index[axis],)), np.float32)
      return values(index) * np.expand_dims(factors, 1 - axis)

    return read

  return StoredArray(array.shape, np.dtype(np.float32), open_both)
