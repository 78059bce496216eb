"""The contents of a checkpoint, and the differences between two of them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from t5x.formats import stored_arrays
from t5x.formats.base_checkpoints import BaseCheckpoint
from t5x.formats.stored_arrays import StoredArray

# Values that are compared at once.
_BLOCK = 2**23


def describe(model: BaseCheckpoint) -> str:
  """Lists parameters, shapes, dtypes and sizes, and sums them up."""
  rows = [
    (name, _shape(array), str(array.dtype), f"{array.nbytes:,}")
    for name, array in sorted(model.arrays.items())
  ]
  count = sum(array.size for array in model.arrays.values())
  size = sum(array.nbytes for array in model.arrays.values())
  total = (
    f"{model.path}: step {model.step:,}, {len(rows)} arrays, {count:,} "
    f"parameters, {size / 1e6:,.1f} MB, fingerprint {model.fingerprint}"
  )
  header = ("parameter", "shape", "dtype", "bytes")
  return f"{_table(rows, header)}\n\n{total}"


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
    largest, relative, share = difference(a, b)
    if not share and kinds[0] == kinds[1]:
      same += 1
      continue
    values = f"{100 * share:.3g}%"
    rows.append((name, kind, f"{largest:.3g}", f"{relative:.3g}", values))
  if rows:
    header = ("parameter", "shape, dtype", "largest", "relative", "values")
    lines.append(_table(rows, header))
  lines.append(f"{same} arrays are the same, {len(rows)} differ.")
  return "\n\n".join(lines)


def difference(
  first: StoredArray, second: StoredArray
) -> tuple[float, float, float]:
  """Compares two arrays of the same shape, in float64.

  Returns:
    The largest absolute difference, NaN if one array has a NaN where the other
    has another value; the norm of the difference over the norm of the first;
    the share of the values that differ, in [0, 1].
  """
  whole = [stored_arrays.read(x).reshape(-1) for x in (first, second)]
  largest = squares = norm = differing = 0.0
  for start in range(0, first.size, _BLOCK):
    a, b = (x[start : start + _BLOCK].astype(np.float64) for x in whole)
    unequal = ~((a == b) | (np.isnan(a) & np.isnan(b)))
    delta = np.abs(a - b, where=unequal, out=np.zeros_like(a))
    differing += int(unequal.sum())
    # np.maximum keeps a NaN.
    largest = float(np.maximum(largest, delta.max(initial=0.0)))
    squares += float(np.square(delta).sum())
    norm += float(np.nansum(np.square(a)))
  relative = np.sqrt(squares / norm) if norm else np.inf if squares else 0.0
  return largest, float(relative), differing / max(first.size, 1)


def _table(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
  return pd.DataFrame(rows, columns=list(header)).to_string(index=False)


def _shape(array: StoredArray) -> str:
  return f"[{', '.join(map(str, array.shape))}]"
