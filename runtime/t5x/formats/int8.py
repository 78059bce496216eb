"""Frozen matrices in int8, with a scale for every channel.

The matrix `X` is held as `X`, in int8, and `X_scale`, a vector. A kernel,
[in, out], has a scale for every column; an embedding, which may be the output
head as well, has one for every row, after a division of its columns by their
largest values, `X_column_scale`. A model that has `X_scale` holds `X` in this
way, whatever its checkpoint does.

In SmolLM2 135M, the largest column of the embedding is eight times as large as
the smallest. With tuned prompts and without scales for columns, rounding the
embedding changed log likelihoods more than rounding all kernels did.

The kernel of an output head has a scale for every row. In the T5 1.1 small of
`prompt-tuning import`, one channel of the last norm is 45 times the median, and
its row of the kernel is small. With scales for columns, rounding this row
caused nearly all of the change of the logits.
"""

from collections.abc import Collection, Iterable
import dataclasses
import functools
from typing import Any

import jax
import ml_dtypes
import numpy as np

from t5x.formats import stored_arrays
from t5x.formats.base_checkpoints import BaseCheckpoint
from t5x.formats.stored_arrays import StoredArray

_OF_ROWS = ("/embedding", "logits_dense/kernel")
_SCALE = "_scale"
# Rows of an embedding to read at once for the scales of its columns.
_ROWS = 2**14


def names(base: BaseCheckpoint, are_int8: bool) -> list[str]:
  """Returns a model's names with all matrices in int8, or with none."""
  scales = _scales_of_all(base.arrays)
  floats = [x for x in base.arrays if x not in scales]
  return [*floats, *(_scales_of_all(floats) if are_int8 else ())]


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
  arrays: dict[str, StoredArray] = {}
  all_scales = _scales_of_all(base.arrays)
  for name, array in base.arrays.items():
    scales = set(_scales_of(name))
    there, wanted = scales & base.arrays.keys(), scales & {*parameters}
    if wanted and not there:
      arrays |= _int8(name, array)
    elif there and not wanted:
      arrays[name] = _float32(name, base)
    elif name not in all_scales or name in parameters:
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


def _scales_of(name: str) -> tuple[str, ...]:
  """Returns the names of a matrix's scales, the one of its channels first."""
  if name.endswith("/embedding"):
    return f"{name}{_SCALE}", f"{name}_column{_SCALE}"
  return (f"{name}{_SCALE}",) if name.endswith("/kernel") else ()


def _scales_of_all(names: Iterable[str]) -> dict[str, None]:
  """Returns the names of the scales of all matrices, in order."""
  return dict.fromkeys(x for name in names for x in _scales_of(name))


def _channels(name: str) -> int:
  """Returns the axis of a matrix's channels that have scales."""
  return 0 if name.endswith(_OF_ROWS) else 1


def _column_scales(array: StoredArray, read: stored_arrays.Reader) -> Any:
  """Returns the largest values of the columns, exact in bfloat16."""
  rows, columns = array.shape
  largest = np.zeros(columns, np.float32)
  for start in range(0, rows, _ROWS):
    part = slice(start, min(start + _ROWS, rows)), slice(0, columns)
    largest = np.maximum(largest, np.abs(read(part)).max(axis=0))
  largest = np.where(largest == 0, 1, largest)
  return largest.astype(ml_dtypes.bfloat16).astype(np.float32)


def _int8(name: str, array: StoredArray) -> dict[str, StoredArray]:
  """Returns a matrix in int8 and its scales, which are read together."""
  axis, scales = _channels(name), _scales_of(name)

  def open_part(
    part: str, shared: dict[Any, Any] | None = None
  ) -> stored_arrays.Reader:
    shared = {} if shared is None else shared
    read = array.open(*[shared] * (array.stack is not None))

    def of_columns() -> np.ndarray:
      key = "int8", name
      if key not in shared:
        shared[key] = _column_scales(array, read)
      return shared[key]

    def of_channels(channels: slice) -> tuple[np.ndarray, Any]:
      start, stop, _ = channels.indices(array.shape[axis])
      key = "int8", name, start, stop
      if key not in shared:
        whole = [slice(0, size) for size in array.shape]
        whole[axis] = slice(start, stop)
        values = read(tuple(whole))
        if scales[1:]:
          values = values / of_columns()
        shared[key] = quantized(values, axis)
      return shared[key]

    def read_values(index: stored_arrays.Index) -> np.ndarray:
      rest = list(index)
      rest[axis] = slice(None)
      return of_channels(index[axis])[0][tuple(rest)]

    if part == name:
      return read_values
    if part == scales[0]:
      return lambda index: of_channels(index[0])[1]
    return lambda index: of_columns()[index]

  stack = name if array.stack is None else array.stack
  sizes = array.shape[axis], array.shape[1 - axis]
  shapes = {name: array.shape} | {
    scale: (size,) for scale, size in zip(scales, sizes, strict=False)
  }
  return {
    part: StoredArray(
      shape,
      np.dtype(np.int8 if part == name else np.float32),
      functools.partial(open_part, part),
      stack,
    )
    for part, shape in shapes.items()
  }


def _float32(name: str, base: BaseCheckpoint) -> StoredArray:
  """Returns a matrix that is stored in int8, in float32."""
  array, scales = base.arrays[name], _scales_of(name)
  axes = _channels(name), 1 - _channels(name)

  def open_all() -> stored_arrays.Reader:
    values, factors = array.open(), [base.arrays[x].open() for x in scales]

    def read(index: stored_arrays.Index) -> np.ndarray:
      found = values(index)
      for axis, factor in zip(axes, factors, strict=False):
        own = np.asarray(factor((index[axis],)), np.float32)
        found = found * np.expand_dims(own, 1 - axis)
      return found

    return read

  return StoredArray(array.shape, np.dtype(np.float32), open_all)
