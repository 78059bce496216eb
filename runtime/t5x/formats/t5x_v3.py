"""T5X's checkpoint format 3: a msgpack file, and a zarr folder for each matrix.

The folder `checkpoint_<step>` has a file `checkpoint`, the tree
`{version, optimizer: {target, state: {step, param_states}}}`. A leaf is an
array, or the TensorStore spec of a folder beside the file. The machine that
wrote the spec may have used another path and another driver.
"""

from collections.abc import Mapping
import dataclasses
import json
import posixpath
from typing import Any

from etils import epath
from flax import serialization, traverse_util
import msgpack
import numpy as np
import tensorstore as ts

from t5x.files import storage
from t5x.formats import stored_arrays
from t5x.formats.stored_arrays import StoredArray

VERSION = 3
_FILE = "checkpoint"
# As in T5X: hosts read only their shards, and there are not too many files.
_CHUNK_BYTES = 64 * 2**20
# The errors that parsers raise for broken content.
_MALFORMED = (
  ValueError,
  KeyError,
  IndexError,
  TypeError,
  AttributeError,
  AssertionError,
  OverflowError,
  RecursionError,
  msgpack.UnpackException,
)


@dataclasses.dataclass(frozen=True)
class ZarrArray:
  """A parameter in a zarr folder.

  Attributes:
    folder: Its present path.
    shape: Its shape.
    dtype: Its dtype.
  """

  folder: str
  shape: tuple[int, ...]
  dtype: np.dtype

  def open(self) -> stored_arrays.Reader:
    """Returns a reader of parts.

    Raises:
      ValueError: if the folder is missing, has another shape, or lacks a chunk,
        which zarr would take for zeros.
    """
    self._check_metadata()
    try:
      store = ts.open(
        {
          "driver": "zarr",
          "kvstore": _kvstore(self.folder),
          "fill_missing_data_reads": False,
        },
        read=True,
      ).result()
    except ValueError as e:
      raise ValueError(
        f"{self.folder}: cannot be opened; copy the checkpoint again, whole "
        f"({_first_sentence(e)})."
      ) from None

    def read(index: stored_arrays.Index) -> np.ndarray:
      try:
        return store[index].read().result()
      except ValueError as e:
        raise ValueError(
          f"{self.folder}: cannot be read; copy the checkpoint again, whole "
          f"({_first_sentence(e)})."
        ) from None

    return read

  def _check_metadata(self) -> None:
    """Refuses metadata that would make TensorStore end the process."""
    file = epath.Path(self.folder) / ".zarray"
    try:
      metadata = json.loads(file.read_text())
      shape, chunks = tuple(metadata["shape"]), tuple(metadata["chunks"])
    except (OSError, *_MALFORMED) as e:
      raise ValueError(
        f"{self.folder}: cannot be opened; copy the checkpoint again, whole "
        f"({e!r:.200})."
      ) from None
    if shape != self.shape:
      raise ValueError(
        f"{self.folder}: expected shape {self.shape}, as the checkpoint's "
        f"msgpack says, got {shape}."
      )
    if len(chunks) != len(shape) or not all(
      type(chunk) is int and 1 <= chunk <= max(size, 1)
      for chunk, size in zip(chunks, shape, strict=True)
    ):
      raise ValueError(
        f"{file}: expected chunks within the shape {shape}, got {chunks}."
      )


def _first_sentence(error: ValueError) -> str:
  return str(error).partition(" [")[0]


def _kvstore(folder: str) -> dict[str, Any]:
  """Returns TensorStore's spec of a local or a gs:// folder."""
  if folder.startswith("gs://"):
    bucket, _, path = folder.removeprefix("gs://").partition("/")
    return {"driver": "gcs", "bucket": bucket, "path": path}
  return {"driver": "file", "path": folder}


def is_checkpoint(folder: str) -> bool:
  """Returns whether a folder may have this format; Orbax has `_METADATA`."""
  path = epath.Path(folder)
  return (path / _FILE).is_file() and not (path / "_METADATA").exists()


def open_checkpoint(folder: str) -> tuple[int, dict[str, StoredArray]]:
  """Opens a checkpoint without reading its matrices.

  Args:
    folder: `checkpoint_<step>`, local or gs://.

  Returns:
    The step, and path of the parameter -> array.

  Raises:
    ValueError: if it has another format or version.
  """
  file = epath.Path(folder) / _FILE
  content = file.read_bytes()
  if content.startswith(b"model_checkpoint_path"):
    raise ValueError(
      f"{folder} is a TensorFlow checkpoint of Mesh TensorFlow's T5: expected "
      "one of T5X's. Public models are at gs://t5-data/pretrained_models/t5x."
    )
  try:
    tree = serialization.msgpack_restore(content)
    version = tree["version"]
  except _MALFORMED as e:
    raise ValueError(
      f"{file} is no msgpack file of T5X's: expected a tree with version and "
      f"optimizer ({e!r})."
    ) from None
  if version != VERSION:
    raise ValueError(
      f"{folder} is of T5X's format {version}, expected {VERSION}: restore it "
      "with T5X and save it again."
    )
  try:
    step = int(tree["optimizer"]["state"]["step"])
    target = traverse_util.flatten_dict(
      tree["optimizer"]["target"], is_leaf=lambda _, node: _is_spec(node)
    )
    return step, {
      "/".join(path): _stored(folder, "/".join(path), leaf)
      for path, leaf in target.items()
    }
  except _MALFORMED as e:
    if isinstance(e, ValueError) and str(e).startswith(folder):
      raise
    raise ValueError(
      f"{file}: expected T5X's tree with optimizer/target and "
      f"optimizer/state/step, got {e!r:.200}."
    ) from None


def _is_spec(node: Any) -> bool:
  return isinstance(node, dict) and {"driver", "kvstore"} <= node.keys()


def _stored(folder: str, name: str, leaf: Any) -> StoredArray:
  if not _is_spec(leaf):
    if not isinstance(leaf, np.ndarray | np.generic):
      raise TypeError(f"{type(leaf).__name__} for {name}")
    return stored_arrays.ArrayInMemory(np.asarray(leaf))
  # TensorStore before 0.1.14 had the path outside.
  path = leaf["kvstore"].get("path", "") + leaf.get("path", "")
  # Some specs have the path of that time.
  relative = posixpath.basename(path.rstrip("/"))
  if leaf["driver"] != "zarr" or relative in ("", ".."):
    raise ValueError(
      f"{folder}: expected {name} in a zarr folder beside the msgpack file, "
      f"got driver {leaf['driver']}, path {path!r}."
    )
  metadata = leaf["metadata"]
  shape = tuple(metadata["shape"])
  if not all(type(size) is int and size >= 0 for size in shape):
    raise TypeError(f"the shape {shape} for {name}")
  return ZarrArray(
    posixpath.join(folder, relative),
    shape,
    _dtype(metadata.get("dtype", leaf.get("dtype"))),
  )


def _dtype(name: str) -> np.dtype:
  """Parses zarr's name of a dtype, or TensorStore's."""
  return ts.dtype(name).numpy_dtype if name[0].isalpha() else np.dtype(name)


def write_checkpoint(
  directory: str, step: int, arrays: Mapping[str, StoredArray]
) -> str:
  """Writes a model so that Google's T5X restores it, block by block.

  It has no optimizer state, so T5X restores it with
  `fallback_to_scratch = True`, or for inference.

  Args:
    directory: The folder to put `checkpoint_<step>` into.
    step: Pretraining steps.
    arrays: Path of the parameter -> array.

  Returns:
    The path of the checkpoint. It appears when it is complete.

  Raises:
    ValueError: if it exists.
  """
  final = epath.Path(directory) / f"checkpoint_{step}"
  if final.exists():
    raise ValueError(f"{final} exists already: delete it, or choose another.")
  folder = final.with_name(final.name + ".tmp")
  if folder.exists():
    folder.rmtree()
  folder.mkdir(parents=True)
  target = {
    tuple(name.split("/")): stored_arrays.read(array)
    if len(array.shape) < 2
    else _write_zarr(folder, name, array)
    for name, array in arrays.items()
  }
  tree = {
    "version": VERSION,
    "optimizer": {
      "target": traverse_util.unflatten_dict(target),
      # No param_states: T5X takes an empty one for a parameter's.
      "state": {"step": np.asarray(step, np.int32)},
    },
  }
  (folder / _FILE).write_bytes(serialization.msgpack_serialize(tree))
  storage.rename(folder, final)
  return str(final)


def _write_zarr(
  folder: epath.Path, name: str, array: StoredArray
) -> dict[str, Any]:
  """Writes a matrix, and returns its spec for the msgpack file."""
  relative = "target." + name.replace("/", ".")
  chunks = stored_arrays.block_shape(array.shape, array.dtype, _CHUNK_BYTES)
  dtype = array.dtype.str if array.dtype.isbuiltin == 1 else array.dtype.name
  metadata = {
    "shape": list(array.shape),
    "chunks": list(chunks),
    "compressor": {"id": "gzip", "level": 1},
    "dtype": dtype,
  }
  store = ts.open(
    {
      "driver": "zarr",
      "kvstore": _kvstore(str(folder / relative)),
      "metadata": metadata,
    },
    create=True,
  ).result()
  read = array.open()
  for index in stored_arrays.blocks(array.shape, chunks):
    store[index].write(read(index)).result()
  return {
    "driver": "zarr",
    "kvstore": {"driver": "file", "path": relative},
    "metadata": metadata,
  }
