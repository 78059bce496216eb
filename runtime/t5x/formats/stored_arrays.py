"""Arrays on disk, in any format, which can be read in parts."""

from collections.abc import Callable, Mapping
from concurrent import futures
import ctypes
import dataclasses
import math
import os
from typing import Any, TypeVar

import jax
import numpy as np
import tensorstore as ts

from t5x.files import failures, parsing

Index = tuple[slice, ...]
Reader = Callable[[Index], np.ndarray]
_T = TypeVar("_T")
# Arrays to read at the same time.
_READERS = 8
# Bytes of an array's chunks to keep in memory while its shards are read. Else
# each chunk would be decompressed for every shard. T5X's chunks have 64 MiB.
_CHUNK_BYTES = 2**27


@dataclasses.dataclass(frozen=True)
class StoredArray:
  """An array that has not been read yet.

  Attributes:
    shape: Its shape.
    dtype: Its dtype, on disk.
    open: Returns a reader of parts, which keeps files open while it exists.
    stack: The stack that the array belongs to, or None. Arrays of one stack are
      best read together: `open` then takes a dictionary that they share.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  open: Callable[..., Reader]
  stack: Any = None

  @property
  def size(self) -> int:
    """The number of values."""
    return math.prod(self.shape)

  @property
  def nbytes(self) -> int:
    """The size in bytes."""
    return self.size * self.dtype.itemsize


def in_memory(array: np.ndarray) -> StoredArray:
  """Returns an array that has been read already."""
  return StoredArray(array.shape, array.dtype, lambda: array.__getitem__)


def read(stored: StoredArray) -> np.ndarray:
  """Reads all of an array."""
  return stored.open()(tuple(slice(0, size) for size in stored.shape))


def return_freed_memory() -> None:
  """Returns freed memory to the system, which glibc would keep."""
  if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
    trim(0)


def map_readers(
  arrays: Mapping[str, StoredArray], fn: Callable[[str, Reader], _T]
) -> dict[str, _T]:
  """Applies a function to the name and the reader of each array, in threads."""
  stacks: dict[Any, list[str]] = {}
  for name, array in arrays.items():
    stacks.setdefault(name if array.stack is None else array.stack, []).append(
      name
    )

  def apply(names: list[str]) -> dict[str, _T]:
    shared = [{}] if arrays[names[0]].stack is not None else []
    return {name: fn(name, arrays[name].open(*shared)) for name in names}

  results: dict[str, _T] = {}
  with futures.ThreadPoolExecutor(_READERS) as pool:
    for part in pool.map(apply, stacks.values()):
      results |= part
  return results


def read_sharded(
  arrays: Mapping[str, StoredArray],
  targets: Mapping[str, jax.ShapeDtypeStruct],
) -> dict[str, jax.Array]:
  """Reads arrays to their devices.

  Args:
    arrays: Name -> array.
    targets: Name -> dtype and sharding.

  Returns:
    Name -> array. Each host reads only its shards, each of them once.
  """

  def read_array(name: str, read: Reader) -> jax.Array:
    shape, target = arrays[name].shape, targets[name]
    shards: dict[Any, np.ndarray] = {}

    def shard(index: Index | None) -> np.ndarray:
      assert index is not None, "this host has shards"
      bounds = tuple(
        part.indices(size)[:2] for part, size in zip(index, shape, strict=True)
      )
      if bounds not in shards:
        part = np.asarray(read(tuple(slice(*pair) for pair in bounds)))
        shards[bounds] = part.astype(target.dtype, copy=False)
      return shards[bounds]

    assert target.sharding is not None, "the caller says where to put it"
    # A network may be being traced, as when gin makes an initialiser.
    with jax.ensure_compile_time_eval():
      return jax.make_array_from_callback(shape, target.sharding, shard)

  return map_readers(arrays, read_array)


def open_zarr(
  shape: tuple[int, ...],
  name: str,
  kvstore: Mapping[str, Any],
  context: ts.Context | None = None,
  **spec: Any,
) -> Reader:
  """Opens an array that TensorStore reads.

  Args:
    shape: Its shape.
    name: Its name, for messages.
    kvstore: TensorStore's spec of its files.
    context: TensorStore's caches; by default the array has its own.
    **spec: More of TensorStore's spec.

  Raises:
    ValueError: if it cannot be opened or has another shape. The reader raises
      it if the array cannot be read.
  """

  def result(future: ts.Future, verb: str) -> Any:
    what = f"an array that can be {verb}"
    remedy = "Copy the whole checkpoint again."
    with parsing.of(name, what, remedy), failures.explained(name):
      return future.result()

  if context is None:
    context = ts.Context({"cache_pool": {"total_bytes_limit": _CHUNK_BYTES}})
  # Zarr would read a missing chunk as zeros.
  spec = {"driver": "zarr", "fill_missing_data_reads": False} | spec
  opening = ts.open({**spec, "kvstore": kvstore}, context=context, read=True)
  store = result(opening, "opened")
  chunks = store.chunk_layout.read_chunk.shape or ()  # None for a scalar.
  # Chunks far larger than the shape would make TensorStore end the process.
  if store.shape != shape or any(
    chunk > max(size, 1) for chunk, size in zip(chunks, shape, strict=True)
  ):
    raise ValueError(
      f"{name}: expected shape {shape}, as the checkpoint says, and chunks "
      f"within it, got {store.shape} and chunks {chunks}."
    )
  return lambda index: result(store[index].read(), "read")


def kvstore(path: str) -> dict[str, Any]:
  """Returns TensorStore's spec of a local or a gs:// path."""
  is_dir = path.endswith("/")
  if path.startswith("gs://"):
    bucket, _, path = path.removeprefix("gs://").partition("/")
    return {"driver": "gcs", "bucket": bucket, "path": path}
  # TensorStore refuses paths with "..", and needs the slash of a folder.
  return {"driver": "file", "path": os.path.abspath(path) + "/" * is_dir}
