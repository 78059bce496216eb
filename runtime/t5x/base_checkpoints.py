"""Base checkpoints: a model on disk, in any format that a run may begin with.

T5X's format 3    `checkpoint_<step>/checkpoint`, see `t5x_v3`
T5X's Orbax       `checkpoint_<step>/state/`
our own           `checkpoint_<step>/`, Orbax, with the model's fingerprint
of a run of ours  `checkpoint_<step>/{run,state}/`, what it changed of another
"""

from collections.abc import Callable, Mapping
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

from t5x.formats import stored_arrays, t5x_v3
from t5x.formats.stored_arrays import StoredArray
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


def _corner_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
  """Returns the shape of the corner that a fingerprint looks at."""
  return tuple(min(size, _FINGERPRINT_BLOCK) for size in shape)


def _corner(shape: tuple[int, ...]) -> stored_arrays.Index:
  """Returns its index."""
  return tuple(slice(0, size) for size in _corner_shape(shape))


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
    return _read_on_host({"": self}, tuple)[""].__getitem__


def _by_folder(
  arrays: Mapping[str, StoredArray],
) -> dict[str, dict[str, OrbaxArray]]:
  """Finds those in Orbax folders: folder -> name -> array."""
  folders: dict[str, dict[str, OrbaxArray]] = {}
  for name, array in arrays.items():
    if isinstance(array, OrbaxArray):
      folders.setdefault(array.folder, {})[name] = array
  return folders


def _read_on_host(
  arrays: Mapping[str, StoredArray],
  part: Callable[[tuple[int, ...]], tuple[int, ...]],
) -> dict[str, np.ndarray]:
  """Reads the first corner of what lies in Orbax folders to memory.

  A folder at a time, and not in threads: where there are several processes,
  each call of Orbax waits for all of them.

  Args:
    arrays: Name -> array; others are left out.
    part: Shape of an array -> that of the corner.

  Returns:
    Name -> values.
  """
  host = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
  values = {}
  for folder, inside in _by_folder(arrays).items():
    shapes = {name: part(array.shape) for name, array in inside.items()}
    restored = traverse_util.flatten_dict(
      _restore(
        folder,
        traverse_util.unflatten_dict(
          {
            x.keys: jax.ShapeDtypeStruct(shapes[name], x.dtype, sharding=host)
            for name, x in inside.items()
          }
        ),
        traverse_util.unflatten_dict(
          {
            x.keys: ocp.ArrayRestoreArgs(
              sharding=host,
              global_shape=shapes[name],
              dtype=x.dtype,
              strict=False,
            )
            for name, x in inside.items()
          }
        ),
      )
    )
    values |= {name: np.asarray(restored[x.keys]) for name, x in inside.items()}
  return values


@dataclasses.dataclass(frozen=True)
class BaseCheckpoint:
  """A model on disk, read parameter by parameter.

  Attributes:
    path: As the user gave it.
    step: Steps, counted from pretraining step 0.
    arrays: What it holds: path of the parameter -> array.
    metadata: What `save_base_checkpoint` was given, and the fingerprint; of a
      run's checkpoint, `base_fingerprint`, that of what is frozen, or None.
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
    others = {
      name: array
      for name, array in self.arrays.items()
      if not isinstance(array, OrbaxArray)
    }
    with futures.ThreadPoolExecutor(_READERS) as pool:
      corners = pool.map(lambda x: x.open()(_corner(x.shape)), others.values())
      return _digest(
        {name: array.shape for name, array in self.arrays.items()},
        dict(zip(others, corners, strict=True))
        | _read_on_host(self.arrays, _corner_shape),
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
    wanted = {name: self.arrays[name] for name in targets}
    others = [k for k, x in wanted.items() if not isinstance(x, OrbaxArray)]
    with futures.ThreadPoolExecutor(_READERS) as pool:
      read = pool.map(
        lambda name: _read_shards(wanted[name], targets[name]), others
      )
      arrays |= zip(others, read, strict=True)
    for folder, inside in _by_folder(wanted).items():
      restored = traverse_util.flatten_dict(
        _restore(
          folder,
          traverse_util.unflatten_dict(
            {x.keys: targets[name] for name, x in inside.items()}
          ),
        )
      )
      arrays |= {name: restored[x.keys] for name, x in inside.items()}
    return arrays


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
    run_info = cast(
      dict[str, Any], checkpointer.restore(epath.Path(found) / "run")
    )
  folder = str(epath.Path(found) / "state")
  trained = {
    name.removeprefix(_TRAINABLE): OrbaxArray(folder, (name,), x.shape, x.dtype)
    for name, x in _tree(folder).items()
    if name.startswith(_TRAINABLE)
  }
  base = {}
  # If nothing is frozen, the run holds all of the model.
  if run_info["base_fingerprint"] is not None and run_info["base"]:
    base = _open_base(found, **run_info["base"])
  return BaseCheckpoint(
    path=path,
    step=int(epath.Path(found).name.removeprefix("checkpoint_")),
    arrays={**base, **trained},
    metadata={"base_fingerprint": run_info["base_fingerprint"]},
  )


def _open_base(run: str, path: str, fingerprint: str) -> Mapping[str, Any]:
  """Opens what a run began with, and refuses what lies there by now."""
  try:
    base = open_checkpoint(path)
  except ValueError as e:
    raise ValueError(f"{run} needs its base model. {e}") from e
  if base.fingerprint != fingerprint:
    raise ValueError(
      f"{run} needs its base model, {fingerprint}; at {path} there is "
      f"{base.fingerprint} now."
    )
  return base.arrays
