"""Base checkpoints: a model on disk, in any format that a run may begin with.

T5X's format 3    `checkpoint_<step>/checkpoint`, see `t5x_v3`
T5X's Orbax       `checkpoint_<step>/state/`
our own           `checkpoint_<step>/`, Orbax, with the model's fingerprint
of a run of ours  `checkpoint_<step>/{run,state}/`, what it changed of another
"""

from collections.abc import Mapping
from concurrent import futures
import dataclasses
import functools
import hashlib
import os
import re
from typing import Any, cast

from etils import epath
from flax import traverse_util
import jax
from jax.sharding import NamedSharding, PartitionSpec
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp

from t5x import stored_arrays, t5x_v3
from t5x.stored_arrays import StoredArray
from t5x.train_state import Params

_STEP_FOLDER = re.compile(r"checkpoint_(\d+)")
# Values of each axis that a fingerprint looks at.
_FINGERPRINT_BLOCK = 16
# How a run checkpoint names the parameters that it holds.
_TRAINABLE = "trainable/"
# Parameters that are read at the same time.
_READERS = 8


def absolute(path: str) -> str:
  """Returns a path that means the same from any working directory."""
  return path if "://" in path else os.path.abspath(path)


def find_checkpoint(path: str, step: int | None = None) -> str:
  """Finds a checkpoint folder.

  Args:
    path: A folder `checkpoint_<step>`, or the folder that holds some.
    step: Which of them; the newest by default.

  Returns:
    The path of the folder `checkpoint_<step>`.

  Raises:
    ValueError: if there is none.
  """
  folder = epath.Path(path)
  if not folder.is_dir():
    parent = folder.parent
    there = sorted(p.name for p in parent.iterdir()) if parent.is_dir() else []
    raise ValueError(
      f"No checkpoint at {path}: expected a folder checkpoint_<step> or one "
      f"that holds such folders. In {parent}: {', '.join(there) or 'nothing'}."
    )
  if step is None and _STEP_FOLDER.fullmatch(folder.name):
    return str(folder)
  steps = {
    int(match[1]): child
    for child in folder.iterdir()
    if (match := _STEP_FOLDER.fullmatch(child.name))
  }
  if not steps or (step is not None and step not in steps):
    way_out = (
      " It is a Hugging Face folder: convert it with "
      "scripts/convert_checkpoint.py."
      if (folder / "config.json").exists()
      else ""
    )
    raise ValueError(
      f"No checkpoint_{'<step>' if step is None else step} in {path}; steps "
      f"there: {sorted(steps) or 'none'}.{way_out}"
    )
  return str(steps[max(steps) if step is None else step])


def fingerprint(params: Params) -> str:
  """Identifies a model by values of every parameter, rounded to bfloat16.

  Args:
    params: Nested dictionary of arrays, of whatever dtype and sharding.

  Returns:
    32 hexadecimal digits.
  """
  flat: dict[str, Any] = traverse_util.flatten_dict(params, sep="/")
  blocks = {
    name: array[_corner(array.shape)]
    for name, array in flat.items()
    if not isinstance(array, jax.Array)
  }
  on_devices = {k: v for k, v in flat.items() if isinstance(v, jax.Array)}
  if on_devices:
    some = next(iter(on_devices.values())).sharding
    blocks |= jax.device_get(
      jax.jit(
        lambda arrays: {
          name: array[_corner(array.shape)] for name, array in arrays.items()
        },
        out_shardings=NamedSharding(some.mesh, PartitionSpec())
        if isinstance(some, NamedSharding)
        else None,
      )(on_devices)
    )
  return _digest({k: v.shape for k, v in flat.items()}, blocks)


def _corner(shape: tuple[int, ...]) -> stored_arrays.Index:
  """Returns the index of the values that a fingerprint looks at."""
  return tuple(slice(0, min(size, _FINGERPRINT_BLOCK)) for size in shape)


def _digest(
  shapes: Mapping[str, tuple[int, ...]], corners: Mapping[str, np.ndarray]
) -> str:
  digest = hashlib.sha256()
  for name in sorted(shapes):
    digest.update(f"{name} {shapes[name]}\n".encode())
    digest.update(np.asarray(corners[name], ml_dtypes.bfloat16).tobytes())
  return digest.hexdigest()[:32]


def save_base_checkpoint(
  directory: str, step: int, params: Params, metadata: Mapping[str, Any]
) -> str:
  """Writes a model, with its fingerprint.

  Args:
    directory: The folder to put `checkpoint_<step>` into.
    step: Pretraining steps.
    params: Nested dictionary of arrays.
    metadata: What else to keep; JSON.

  Returns:
    The path of the checkpoint.
  """
  path = epath.Path(directory).resolve() / f"checkpoint_{step}"
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
    checkpointer.save(
      path,
      args=ocp.args.PyTreeSave(
        {"target": params, "state": {"step": np.int32(step)}}
      ),
      custom_metadata={**metadata, "fingerprint": fingerprint(params)},
      force=True,
    )
  return str(path)


@dataclasses.dataclass(frozen=True)
class OrbaxArray:
  """A parameter in an Orbax folder.

  Attributes:
    folder: Where it lies.
    keys: Where it is in the folder's tree.
    shape: Its shape.
    dtype: Its dtype.
  """

  folder: str
  keys: tuple[str, ...]
  shape: tuple[int, ...]
  dtype: np.dtype

  def open(self) -> stored_arrays.Reader:
    """Reads all of it."""
    return np.asarray(self._read(self.shape)).__getitem__

  def corner(self) -> np.ndarray:
    """Reads what a fingerprint looks at."""
    return np.asarray(
      self._read(tuple(index.stop for index in _corner(self.shape)))
    )

  def _read(self, shape: tuple[int, ...]) -> jax.Array:
    host = jax.sharding.SingleDeviceSharding(
      jax.local_devices(backend="cpu")[0]
    )
    args = ocp.ArrayRestoreArgs(
      sharding=host, global_shape=shape, dtype=self.dtype, strict=False
    )
    item = jax.ShapeDtypeStruct(shape, self.dtype, sharding=host)
    restored = _restore(
      self.folder,
      traverse_util.unflatten_dict({self.keys: item}),
      traverse_util.unflatten_dict({self.keys: args}),
    )
    return cast(jax.Array, traverse_util.flatten_dict(restored)[self.keys])


@dataclasses.dataclass(frozen=True)
class BaseCheckpoint:
  """A model on disk, read parameter by parameter.

  Attributes:
    path: As the user gave it.
    step: Steps, counted from pretraining step 0.
    arrays: What it holds: path of the parameter -> array.
    metadata: What `save_base_checkpoint` was given, and the fingerprint.
  """

  path: str
  step: int
  arrays: Mapping[str, StoredArray]
  metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Path of the parameter -> shape and dtype."""
    return {
      name: jax.ShapeDtypeStruct(array.shape, array.dtype)
      for name, array in self.arrays.items()
    }

  @functools.cached_property
  def fingerprint(self) -> str:
    """Identity of the weights, the same in every format."""
    if "fingerprint" in self.metadata:
      return self.metadata["fingerprint"]
    with futures.ThreadPoolExecutor(_READERS) as pool:
      corners = pool.map(_read_corner, self.arrays.values())
      return _digest(
        {name: array.shape for name, array in self.arrays.items()},
        dict(zip(self.arrays, corners, strict=True)),
      )

  def read(
    self, targets: Mapping[str, jax.ShapeDtypeStruct]
  ) -> dict[str, jax.Array]:
    """Reads some parameters to where they belong.

    Args:
      targets: Path of the parameter -> dtype and sharding to give it.

    Returns:
      Path of the parameter -> array. Each host reads its shards only.

    Raises:
      ValueError: if a part is missing.
    """
    arrays: dict[str, Any] = {}
    folders: dict[str, dict[str, tuple[str, ...]]] = {}
    others = []
    for name in targets:
      array = self.arrays[name]
      if isinstance(array, OrbaxArray):
        folders.setdefault(array.folder, {})[name] = array.keys
      else:
        others.append(name)
    with futures.ThreadPoolExecutor(_READERS) as pool:
      read = pool.map(
        lambda name: _read_shards(self.arrays[name], targets[name]), others
      )
      arrays |= zip(others, read, strict=True)
    for folder, keys in folders.items():
      restored = traverse_util.flatten_dict(
        _restore(
          folder,
          traverse_util.unflatten_dict(
            {key: targets[name] for name, key in keys.items()}
          ),
        )
      )
      arrays |= {name: restored[key] for name, key in keys.items()}
    return arrays


def _read_corner(array: StoredArray) -> np.ndarray:
  if isinstance(array, OrbaxArray):
    return array.corner()
  return array.open()(_corner(array.shape))


def _read_shards(array: StoredArray, target: jax.ShapeDtypeStruct) -> jax.Array:
  """Reads this host's shards, each once."""
  read = array.open()
  shards: dict[Any, np.ndarray] = {}

  def shard(index: stored_arrays.Index | None) -> np.ndarray:
    assert index is not None, "this host has shards"
    index = tuple(
      slice(*part.indices(size)[:2])
      for part, size in zip(index, array.shape, strict=True)
    )
    key = tuple((part.start, part.stop) for part in index)
    if key not in shards:
      shards[key] = np.asarray(read(index)).astype(target.dtype, copy=False)
    return shards[key]

  assert target.sharding is not None, "read() is told where to put it"
  return jax.make_array_from_callback(array.shape, target.sharding, shard)


def _restore(folder: str, item: Any, restore_args: Any = None) -> Any:
  """Reads the part of an Orbax folder that `item` names."""
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


def _tree(folder: str) -> Any:
  """Returns shape and dtype of each array in an Orbax folder."""
  return ocp.PyTreeCheckpointHandler().metadata(epath.Path(folder)).tree


def _custom_metadata(folder: str) -> dict[str, Any]:
  """Returns what `save_base_checkpoint` was given; T5X writes none."""
  if not (epath.Path(folder) / "_CHECKPOINT_METADATA").exists():
    return {}
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
    metadata: Any = checkpointer.metadata(epath.Path(folder))
  return metadata.custom_metadata or {}


def open_checkpoint(path: str) -> BaseCheckpoint:
  """Opens a model, in whatever format; no parameter is read yet.

  Args:
    path: As for `find_checkpoint`. The checkpoint of a run is its base model,
      with what the run changed.

  Raises:
    ValueError: if there is none, or it is of another format.
  """
  found = absolute(find_checkpoint(path))
  if (epath.Path(found) / "run").is_dir():
    return _open_run_checkpoint(path, found)
  if t5x_v3.is_checkpoint(found):
    return BaseCheckpoint(path, *t5x_v3.open_checkpoint(found))
  # Where T5X has a tree of its own for the state of the data.
  nested = epath.Path(found) / "state"
  folder = str(nested) if nested.is_dir() else found
  try:
    target = traverse_util.flatten_dict(_tree(folder)["target"])
    step = _restore(folder, {"state": {"step": 0}})["state"]["step"]
  except (OSError, KeyError, AttributeError, TypeError) as e:
    raise ValueError(
      f"{found} is no base checkpoint: expected a T5X checkpoint, or an Orbax "
      f"folder with target and state/step, as save_base_checkpoint writes it "
      f"({e})."
    ) from e
  return BaseCheckpoint(
    path=path,
    step=int(step),
    arrays={
      "/".join(key): OrbaxArray(folder, ("target", *key), x.shape, x.dtype)
      for key, x in target.items()
    },
    metadata=_custom_metadata(folder),
  )


def _open_run_checkpoint(path: str, found: str) -> BaseCheckpoint:
  with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
    run_info = checkpointer.restore(epath.Path(found) / "run")
  base_path = cast(dict[str, Any], run_info)["base_path"]
  folder = str(epath.Path(found) / "state")
  trained = {
    name.removeprefix(_TRAINABLE): OrbaxArray(folder, (name,), x.shape, x.dtype)
    for name, x in _tree(folder).items()
    if name.startswith(_TRAINABLE)
  }
  base = open_checkpoint(base_path).arrays if base_path else {}
  return BaseCheckpoint(
    path=path,
    step=int(epath.Path(found).name.removeprefix("checkpoint_")),
    arrays={**base, **trained},
  )
