"""Models in Orbax's folders: T5X's, and those that this module writes.

`checkpoint_<step>/state/` has the tree `{target, state: {step, ...}}`, as T5X's
checkpoint manager writes it. T5X's earlier checkpoints have the tree in
`checkpoint_<step>/` itself; they are read too.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from etils import epath
from flax import traverse_util
import jax
import numpy as np
import orbax.checkpoint as ocp

from t5x import partitioning
from t5x.files import digests, storage
from t5x.formats import stored_arrays
from t5x.formats.stored_arrays import StoredArray

# T5X's name of the item that a model is in.
ITEM = "state"
_METADATA_FILE = "_CHECKPOINT_METADATA"


@dataclasses.dataclass(frozen=True)
class OrbaxArray:
  """A parameter in an Orbax folder.

  Attributes:
    folder: The Orbax folder.
    keys: Its place in the folder's tree.
    shape: Its shape.
    dtype: Its dtype.
  """

  folder: str
  keys: tuple[str, ...]
  shape: tuple[int, ...]
  dtype: np.dtype

  def open(self) -> stored_arrays.Reader:
    """Reads the whole array, and returns a reader of it."""
    return read_corners({"": self}, tuple)[""].__getitem__


def restore(folder: str, item: Any, restore_args: Any = None) -> Any:
  """Reads the part of an Orbax folder that `item` names.

  Args:
    folder: The folder of the tree.
    item: A part of the tree, a `jax.ShapeDtypeStruct` or number at each leaf.
    restore_args: Orbax's arguments for reading each leaf; by default, those
      that `item` implies.

  Returns:
    `item` with the values of its leaves.
  """
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
    return checkpointer.restore(
      epath.Path(folder),
      args=ocp.args.PyTreeRestore(
        item=item,
        restore_args=restore_args
        or ocp.checkpoint_utils.construct_restore_args(item),
        partial_restore=True,
      ),
    )


def read_shapes(folder: str) -> Any:
  """Returns shape and dtype of each array in an Orbax folder."""
  return ocp.PyTreeCheckpointHandler().metadata(epath.Path(folder)).tree


def _read_arrays(
  arrays: Mapping[str, StoredArray],
  target: Callable[[str, OrbaxArray], jax.ShapeDtypeStruct],
  restore_args: Callable[[OrbaxArray], ocp.ArrayRestoreArgs] | None = None,
) -> dict[str, jax.Array]:
  """Reads the arrays in Orbax folders, one folder at a time.

  It uses no threads, because with several processes each call of Orbax waits
  for all of them.

  Args:
    arrays: Name -> array; those of other formats are left out.
    target: Returns the shape, dtype and sharding to read an array with.
    restore_args: Returns Orbax's arguments for it.

  Returns:
    Name -> array.
  """
  folders: dict[str, dict[str, OrbaxArray]] = {}
  for name, array in arrays.items():
    if isinstance(array, OrbaxArray):
      folders.setdefault(array.folder, {})[name] = array
  read = {}
  for folder, inside in folders.items():
    item = {x.keys: target(name, x) for name, x in inside.items()}
    args = restore_args and {x.keys: restore_args(x) for x in inside.values()}
    restored = traverse_util.flatten_dict(
      restore(
        folder,
        traverse_util.unflatten_dict(item),
        args and traverse_util.unflatten_dict(args),
      )
    )
    read |= {name: restored[x.keys] for name, x in inside.items()}
  return read


def read_corners(
  arrays: Mapping[str, StoredArray],
  part: Callable[[tuple[int, ...]], tuple[int, ...]],
) -> dict[str, np.ndarray]:
  """Reads the first corner of each array in Orbax folders into memory.

  Args:
    arrays: Name -> array; those of other formats are left out.
    part: Returns the shape of the corner of an array of some shape.

  Returns:
    Name -> values.
  """
  host = partitioning.host_sharding()
  read = _read_arrays(
    arrays,
    lambda _, x: jax.ShapeDtypeStruct(part(x.shape), x.dtype, sharding=host),
    lambda x: ocp.ArrayRestoreArgs(
      sharding=host, global_shape=part(x.shape), dtype=x.dtype, strict=False
    ),
  )
  return {name: np.asarray(values) for name, values in read.items()}


def read_sharded(
  arrays: Mapping[str, StoredArray],
  targets: Mapping[str, jax.ShapeDtypeStruct],
) -> dict[str, jax.Array]:
  """Reads the arrays in Orbax folders to their devices.

  Args:
    arrays: Name -> array; those of other formats are left out.
    targets: Name -> dtype and sharding.

  Returns:
    Name -> array. Each host reads only its shards.
  """
  return _read_arrays(arrays, lambda name, _: targets[name])


def open_checkpoint(
  folder: str,
) -> tuple[int, dict[str, StoredArray], dict[str, Any]]:
  """Opens a checkpoint without reading its parameters.

  Args:
    folder: `checkpoint_<step>`, local or gs://.

  Returns:
    The step, path of the parameter -> array, and the metadata given to
    `write_checkpoint`; T5X writes none.

  Raises:
    ValueError: if it has another format.
  """
  nested = epath.Path(folder) / ITEM
  inside = str(nested) if nested.is_dir() else folder
  try:
    target = traverse_util.flatten_dict(read_shapes(inside)["target"])
    step = restore(inside, {"state": {"step": 0}})["state"]["step"]
  except (OSError, KeyError, AttributeError, TypeError) as e:
    raise ValueError(
      f"{folder} is not a base checkpoint: expected a T5X checkpoint, or an "
      "Orbax folder with target and state/step, as save_base_checkpoint "
      f"writes it ({e})."
    ) from e
  arrays: dict[str, StoredArray] = {
    "/".join(key): OrbaxArray(inside, ("target", *key), x.shape, x.dtype)
    for key, x in target.items()
  }
  return int(step), arrays, _metadata(folder) or _metadata(inside)


def _metadata(folder: str) -> dict[str, Any]:
  """Returns the metadata of a tree or of the item that it is in, if any."""
  if not (epath.Path(folder) / _METADATA_FILE).exists():
    return {}
  handler: Any = ocp.PyTreeCheckpointHandler()
  if (epath.Path(folder) / ITEM).is_dir():
    handler = ocp.CompositeCheckpointHandler(**{ITEM: handler})
  with ocp.Checkpointer(handler) as checkpointer:
    metadata: Any = checkpointer.metadata(epath.Path(folder))
  return metadata.custom_metadata or {}


def write_checkpoint(
  directory: str, step: int, params: Any, metadata: Mapping[str, Any]
) -> str:
  """Writes a model so that Google's T5X restores it.

  Args:
    directory: The folder to put `checkpoint_<step>` into.
    step: Pretraining steps.
    params: Nested dictionary of arrays.
    metadata: JSON, kept beside the item.

  Returns:
    The path of the checkpoint. It appears when it is complete.
  """
  path = storage.absolute(directory) / f"checkpoint_{step}"
  # `CheckpointManager` would delete other files in `directory`.
  handler = ocp.CompositeCheckpointHandler(state=ocp.PyTreeCheckpointHandler())
  tree = {"target": params, "state": {"step": np.int32(step)}}
  with ocp.Checkpointer(handler) as checkpointer:
    checkpointer.save(
      path,
      args=ocp.args.Composite(state=ocp.args.PyTreeSave(tree)),
      custom_metadata=dict(metadata),
      force=True,
    )
  if not storage.is_bucket(directory):
    # They serve object stores only, and contain a path of this machine.
    for mark in (path, path / ITEM):
      (mark / storage.MARK).unlink(missing_ok=True)
    if jax.process_index() == 0:
      digests.write(str(path))
  return str(path)
