"""The contents of a checkpoint, and the differences between two of them."""

from collections.abc import Sequence
import dataclasses

import numpy as np
import pandas as pd

from prompt_tuning.interop import hugging_face
from t5x.formats import base_checkpoints, stored_arrays
from t5x.formats.base_checkpoints import BaseCheckpoint
from t5x.formats.stored_arrays import StoredArray

# Bytes of an array that are compared at once.
_BLOCK_BYTES = 64 * 2**20


def open_model(path: str) -> BaseCheckpoint:
  """Opens a model of any format, without reading a parameter yet.

  Args:
    path: A checkpoint that `INITIAL_CHECKPOINT_PATH` takes, or the folder of a
      Hugging Face T5 1.1.

  Raises:
    ValueError: if it is neither.
  """
  if hugging_face.is_folder(path):
    return hugging_face.open_folder(path)
  return base_checkpoints.open_checkpoint(path)


def describe(model: BaseCheckpoint) -> str:
  """Lists parameters, shapes, dtypes and sizes, and sums them up."""
  rows = [
    (name, _shape(array), str(array.dtype), f"{_bytes(array):,}")
    for name, array in sorted(model.arrays.items())
  ]
  count = sum(_size(array) for array in model.arrays.values())
  size = sum(_bytes(array) for array in model.arrays.values())
  total = (
    f"{model.path}: step {model.step:,}, {len(rows)} arrays, {count:,} "
    f"parameters, {size / 1e6:,.1f} MB, fingerprint {model.fingerprint}"
  )
  header = ("parameter", "shape", "dtype", "bytes")
  return f"{_table(rows, header)}\n\n{total}"


@dataclasses.dataclass(frozen=True)
class Difference:
  """The distance between two versions of a parameter.

  Attributes:
    largest: The largest absolute difference; NaN if one version has a NaN where
      the other has another value.
    relative: Norm of the difference over the norm of the first version.
    share: Share of the values that differ, in [0, 1].
  """

  largest: float
  relative: float
  share: float


def compare(first: BaseCheckpoint, second: BaseCheckpoint) -> str:
  """Lists where two models differ: steps, names, shapes, dtypes, values."""
  lines = []
  if first.step != second.step:
    lines.append(f"step {first.step:,}, then {second.step:,}")
  for model, other in ((first, second), (second, first)):
    lines += [
      f"only in {model.path}: {name} {_shape(model.arrays[name])}"
      for name in sorted(model.arrays.keys() - other.arrays.keys())
    ]
  rows = []
  same = 0
  for name in sorted(first.arrays.keys() & second.arrays.keys()):
    a, b = first.arrays[name], second.arrays[name]
    kinds = [f"{_shape(array)} {array.dtype}" for array in (a, b)]
    kind = ", then ".join(dict.fromkeys(kinds))
    if a.shape != b.shape:
      rows.append((name, kind, "", "", ""))
      continue
    d = difference(a, b)
    if not d.share and kinds[0] == kinds[1]:
      same += 1
      continue
    rows.append(
      (
        name,
        kind,
        f"{d.largest:.3g}",
        f"{d.relative:.3g}",
        f"{100 * d.share:.3g}%",
      )
    )
  if rows:
    header = ("parameter", "shape, dtype", "largest", "relative", "values")
    lines.append(_table(rows, header))
  lines.append(f"{same} arrays are the same, {len(rows)} differ.")
  return "\n\n".join(lines)


def difference(first: StoredArray, second: StoredArray) -> Difference:
  """Compares two arrays of the same shape, block by block, in float64."""
  block = stored_arrays.block_shape(
    first.shape, np.dtype(np.float64), _BLOCK_BYTES
  )
  readers = first.open(), second.open()
  largest = squares = norm = differing = 0.0
  for index in stored_arrays.blocks(first.shape, block):
    a, b = (np.asarray(read(index), np.float64) for read in readers)
    unequal = ~((a == b) | (np.isnan(a) & np.isnan(b)))
    delta = np.abs(a - b, where=unequal, out=np.zeros_like(a))
    differing += int(unequal.sum())
    # np.maximum keeps a NaN.
    largest = float(np.maximum(largest, delta.max(initial=0.0)))
    squares += float(np.square(delta).sum())
    norm += float(np.nansum(np.square(a)))
  return Difference(
    largest,
    float(np.sqrt(squares / norm)) if norm else (np.inf if squares else 0.0),
    differing / max(_size(first), 1),
  )


def _table(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
  return pd.DataFrame(rows, columns=list(header)).to_string(index=False)


def _size(array: StoredArray) -> int:
  return int(np.prod(array.shape))


def _bytes(array: StoredArray) -> int:
  return _size(array) * array.dtype.itemsize


def _shape(array: StoredArray) -> str:
  return f"[{', '.join(map(str, array.shape))}]"
