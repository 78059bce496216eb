"""Safetensors files, read and written tensor by tensor."""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import json
import pathlib
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from t5x.files import parsing, safe_files
from t5x.formats import stored_arrays
from t5x.formats.stored_arrays import StoredArray

WEIGHTS = "model.safetensors"
_DTYPES = {
  "F32": np.dtype(np.float32),
  "F16": np.dtype(np.float16),
  "BF16": np.dtype(ml_dtypes.bfloat16),
  "I8": np.dtype(np.int8),
}
DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def _open_tensor(file: pathlib.Path, key: str) -> stored_arrays.Reader:
  """Returns a reader of a tensor.

  Each reader opens the file again; closing it frees the memory of its pages.
  """
  weights = _open(file)
  part = weights.get_slice(key)
  # The file stays open as long as there is a reader.
  return lambda index, weights=weights: part[index]


def exchange(array: StoredArray, axis: int, row: int) -> StoredArray:
  """Exchanges the first and another row of an axis; see `exchanged_id`."""

  def open_exchanged(*arguments: Any) -> stored_arrays.Reader:
    read = array.open(*arguments)

    def exchanged(index: stored_arrays.Index) -> np.ndarray:
      block = np.array(read(index))
      start, stop, _ = index[axis].indices(array.shape[axis])
      for here, there in ((0, row), (row, 0)):
        if start <= here < stop:
          one = [*index]
          one[axis] = slice(there, there + 1)
          to = np.moveaxis(block, axis, 0)
          to[here - start] = np.moveaxis(read(tuple(one)), axis, 0)[0]
      return block

    return exchanged

  return dataclasses.replace(array, open=open_exchanged)


def _open(file: pathlib.Path) -> Any:
  with parsing.of(file, "a safetensors file"):
    return safetensors.safe_open(file, framework="numpy")


def find(files: Sequence[pathlib.Path]) -> dict[str, StoredArray]:
  """Finds the tensors in several files.

  A tensor of a dtype that NumPy lacks cannot be read, and has the dtype's name
  instead.

  Raises:
    ValueError: if a file is damaged.
  """
  tensors = {}
  for file in files:
    with _open(file) as weights:
      for key in sorted(weights.keys()):
        part = weights.get_slice(key)
        shape, dtype = tuple(part.get_shape()), part.get_dtype()
        opener = functools.partial(_open_tensor, file, key)
        tensors[key] = StoredArray(shape, _DTYPES.get(dtype, dtype), opener)
  return tensors


def write(file: pathlib.Path, tensors: Mapping[str, StoredArray]) -> None:
  """Writes a safetensors file, one tensor at a time.

  The library of safetensors would need all tensors in memory.

  Args:
    file: The path, where the file appears once it is complete.
    tensors: Hugging Face's name -> array.
  """
  header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
  end = 0
  for key, array in sorted(tensors.items()):
    start, end = end, end + array.nbytes
    header[key] = {
      "dtype": DTYPE_NAMES[array.dtype],
      "shape": list(array.shape),
      "data_offsets": [start, end],
    }
  encoded = json.dumps(header, separators=(",", ":")).encode()
  encoded += b" " * (-len(encoded) % 8)
  with safe_files.replacing(file) as out:
    out.write(len(encoded).to_bytes(8, "little"))
    out.write(encoded)
    for _, array in sorted(tensors.items()):
      np.ascontiguousarray(stored_arrays.read(array)).tofile(out)
