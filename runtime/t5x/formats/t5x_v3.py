"""T5X's checkpoint format 3: a msgpack file, and a zarr folder for each matrix.

The folder `checkpoint_<step>` has a file `checkpoint`, the tree
`{version, optimizer: {target, state: {step, param_states}}}`. A leaf is an
array, or the TensorStore spec of a folder beside the file. The machine that
wrote the spec may have used another path and another driver.
"""

from collections.abc import Mapping
import functools
import posixpath
from typing import Any

from etils import epath
from flax import serialization, traverse_util
import numpy as np
import tensorstore as ts

from t5x.files import parsing, storage
from t5x.formats import stored_arrays
from t5x.formats.stored_arrays import StoredArray

VERSION = 3
_FILE = "checkpoint"
# As in T5X, so that hosts read only their shards and files stay few.
_CHUNK_BYTES = 64 * 2**20


def is_checkpoint(folder: str) -> bool:
  """Returns whether a folder may have this format; Orbax has `_METADATA`."""
  path = epath.Path(folder)
  return (path / _FILE).is_file() and not (path / "_METADATA").exists()


def open_checkpoint(
  folder: str,
) -> tuple[int, dict[str, StoredArray], dict[str, Any]]:
  """Opens a checkpoint without reading its matrices.

  Args:
    folder: `checkpoint_<step>`, local or gs://.

  Returns:
    The step, path of the parameter -> array, and the metadata, if it is ours.

  Raises:
    ValueError: if it has another format or version.
  """
  content = (epath.Path(folder) / _FILE).read_bytes()
  if content.startswith(b"model_checkpoint_path"):
    raise ValueError(
      f"{folder} is a TensorFlow checkpoint of Mesh TensorFlow's T5: expected "
      "one of T5X's. Public models are at gs://t5-data/pretrained_models/t5x."
    )
  what = (
    "a T5X msgpack file: expected a tree with version, optimizer/target and "
    "optimizer/state/step"
  )
  with parsing.of(folder, what):
    tree = serialization.msgpack_restore(content)
    if (version := tree["version"]) != VERSION:
      raise ValueError(
        f"{folder} has T5X's format {version}, expected {VERSION}: restore it "
        "with T5X and save it again."
      )
    target = traverse_util.flatten_dict(
      tree["optimizer"]["target"],
      sep="/",
      is_leaf=lambda _, node: _is_spec(node),
    )
    arrays = {name: _stored(folder, name, x) for name, x in target.items()}
    metadata = dict(tree.get("metadata", {}))
    return int(tree["optimizer"]["state"]["step"]), arrays, metadata


def _is_spec(node: Any) -> bool:
  return isinstance(node, dict) and {"driver", "kvstore"} <= node.keys()


def _stored(folder: str, name: str, leaf: Any) -> StoredArray:
  if not _is_spec(leaf):
    if not isinstance(leaf, np.ndarray | np.generic):
      raise TypeError(f"{type(leaf).__name__} for {name}")
    return stored_arrays.in_memory(np.asarray(leaf))
  # TensorStore before 0.1.14 had the path outside `kvstore`.
  path = leaf["kvstore"].get("path", "") + leaf.get("path", "")
  # Some specs have the path at which the checkpoint was written.
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
  path = posixpath.join(folder, relative)
  kvstore = stored_arrays.kvstore(path)
  # Zarr's name of a dtype, or TensorStore's.
  dtype = metadata.get("dtype", leaf.get("dtype"))
  return StoredArray(
    shape,
    ts.dtype(dtype).numpy_dtype if dtype[0].isalpha() else np.dtype(dtype),
    functools.partial(stored_arrays.open_zarr, shape, path, kvstore),
  )


def write_checkpoint(
  directory: str,
  step: int,
  arrays: Mapping[str, StoredArray],
  metadata: Mapping[str, str] | None = None,
) -> str:
  """Writes a model so that Google's T5X restores it, one array at a time.

  It has no optimizer state, so T5X restores it with
  `fallback_to_scratch = True`, or for inference.

  Args:
    directory: The folder to put `checkpoint_<step>` into.
    step: Pretraining steps.
    arrays: Path of the parameter -> array.
    metadata: More facts to keep, which T5X does not read.

  Returns:
    The path of the checkpoint. It appears when it is complete.

  Raises:
    ValueError: if it exists.
  """
  final = epath.Path(directory) / f"checkpoint_{step}"
  if final.exists():
    raise ValueError(f"{final} already exists: delete it, or choose another.")
  folder = final.with_name(final.name + ".tmp")
  if folder.exists():
    folder.rmtree()
  folder.mkdir(parents=True)
  try:
    target = {
      tuple(name.split("/")): stored_arrays.read(array)
      if len(array.shape) < 2
      else _write_zarr(folder, name, array)
      for name, array in arrays.items()
    }
  except BaseException:
    folder.rmtree()
    raise
  tree = {
    "version": VERSION,
    "optimizer": {
      "target": traverse_util.unflatten_dict(target),
      # No param_states: T5X would take an empty one for a parameter's.
      "state": {"step": np.asarray(step, np.int32)},
    },
  }
  if metadata:
    tree["metadata"] = dict(metadata)
  (folder / _FILE).write_bytes(serialization.msgpack_serialize(tree))
  storage.rename(folder, final)
  return str(final)


def _write_zarr(
  folder: epath.Path, name: str, array: StoredArray
) -> dict[str, Any]:
  """Writes a matrix, and returns its spec for the msgpack file."""
  relative = "target." + name.replace("/", ".")
  dtype = array.dtype.str if array.dtype.isbuiltin == 1 else array.dtype.name
  chunk = {"elements": max(1, _CHUNK_BYTES // array.dtype.itemsize)}
  store = ts.open(
    {
      "driver": "zarr",
      "kvstore": stored_arrays.kvstore(str(folder / relative)),
      "metadata": {
        "shape": list(array.shape),
        "compressor": {"id": "gzip", "level": 1},
        "dtype": dtype,
      },
      "schema": {"chunk_layout": {"chunk": chunk}},
    },
    create=True,
  ).result()
  store.write(stored_arrays.read(array)).result()
  return {
    "driver": "zarr",
    "kvstore": {"driver": "file", "path": relative},
    "metadata": store.spec().to_json()["metadata"],
  }
