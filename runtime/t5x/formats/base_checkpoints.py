"""Base checkpoints: models on disk, in every format that a run may start from.

T5X's format 3         `formats.t5x_v3`
T5X's Orbax, and ours  `formats.orbax`
a run of ours          `formats.run`
"""

from collections.abc import Callable, Mapping
from concurrent import futures
import dataclasses
import functools
import hashlib
from typing import Any, TypeVar

from etils import epath
from flax import traverse_util
import jax
from jax.sharding import NamedSharding, PartitionSpec
import ml_dtypes
import numpy as np

from t5x.files import digests, storage
from t5x.formats import (
  checkpoint_folder,
  orbax,
  run,
  scanned,
  stacking,
  stored_arrays,
  t5x_v3,
)
from t5x.formats.stored_arrays import StoredArray

_T = TypeVar("_T")
# The number of values along each axis that a fingerprint covers.
_FINGERPRINT_BLOCK = 16
# Parameters to read at the same time.
_READERS = 8


def find_checkpoint(path: str, step: int | None = None) -> str:
  """Finds a checkpoint folder.

  Args:
    path: A folder `checkpoint_<step>`, or one that holds such folders.
    step: The step; that of the newest by default.

  Returns:
    The path of the folder `checkpoint_<step>`.

  Raises:
    ValueError: if there is no such folder.
  """
  folder = epath.Path(path)
  if not folder.is_dir():
    storage.check_readable(path)
    parent = folder.parent
    there = sorted(p.name for p in parent.iterdir()) if parent.is_dir() else []
    raise ValueError(
      f"No checkpoint at {path}: expected a folder checkpoint_<step> or one "
      f"that holds such folders. In {parent}: {', '.join(there) or 'nothing'}."
    )
  if step is None and checkpoint_folder.STEP_FOLDER.fullmatch(folder.name):
    return str(folder)
  found = checkpoint_folder.CheckpointFolder(folder)
  steps = found.steps()
  if not steps or (step is not None and step not in steps):
    way_out = (
      " It is a Hugging Face folder: convert it with "
      "prompt-tuning convert checkpoint."
      if (folder / "config.json").exists()
      else ""
    )
    others = sorted(p.name for p in folder.iterdir() if p.is_dir())
    there = steps or f"none; folders there: {', '.join(others)}"
    raise ValueError(
      f"No checkpoint_{'<step>' if step is None else step} in {path}; steps "
      f"there: {there}.{way_out}"
    )
  return str(found.checkpoint(steps[-1] if step is None else step))


def fingerprint(params: Mapping[str, Any]) -> str:
  """Returns the identity of a model, from some values of every parameter.

  Args:
    params: Nested dictionary of arrays, of any dtype and sharding. Values are
      rounded to bfloat16.

  Returns:
    32 hexadecimal digits.
  """
  flat: dict[str, Any] = traverse_util.flatten_dict(params, sep="/")
  blocks = {
    name: array[_corner_in_memory(name, array.shape)]
    for name, array in flat.items()
    if not isinstance(array, jax.Array)
  }
  on_devices = {k: v for k, v in flat.items() if isinstance(v, jax.Array)}
  if on_devices:
    some = next(iter(on_devices.values())).sharding
    blocks |= jax.device_get(
      jax.jit(
        lambda arrays: {
          name: array[_corner_in_memory(name, array.shape)]
          for name, array in arrays.items()
        },
        out_shardings=NamedSharding(some.mesh, PartitionSpec())
        if isinstance(some, NamedSharding)
        else None,
      )(on_devices)
    )
  shapes = stacking.shapes_apart(
    {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in flat.items()}
  )
  return _digest(
    {name: x.shape for name, x in shapes.items()}, stacking.take_apart(blocks)
  )


def _corner_in_memory(name: str, shape: tuple[int, ...]) -> stored_arrays.Index:
  """Returns the index of a parameter's corner, in every layer of a stack."""
  if stacking.is_stacked(name):
    return (slice(None), *_corner(shape[1:]))
  return _corner(shape)


def _corner_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
  """Returns the shape of the corner that a fingerprint covers."""
  return tuple(min(size, _FINGERPRINT_BLOCK) for size in shape)


def _corner(shape: tuple[int, ...]) -> stored_arrays.Index:
  """Returns the index of that corner."""
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
  directory: str,
  step: int,
  params: Mapping[str, Any],
  metadata: Mapping[str, Any],
) -> str:
  """Writes a model, with its fingerprint.

  Args:
    directory: The folder to put `checkpoint_<step>` into.
    step: Pretraining steps.
    params: Nested dictionary of arrays.
    metadata: More to keep, as JSON.

  Returns:
    The path of the checkpoint.
  """
  apart = stacking.take_apart(traverse_util.flatten_dict(params, sep="/"))
  return orbax.write_checkpoint(
    directory,
    step,
    traverse_util.unflatten_dict(apart, sep="/"),
    {**metadata, "fingerprint": fingerprint(params)},
  )


@dataclasses.dataclass(frozen=True)
class BaseCheckpoint:
  """A model on disk, read parameter by parameter.

  Attributes:
    path: As the user gave it.
    found: The checkpoint's own absolute path: the newest one in `path`, if that
      has several.
    step: Steps, counted from pretraining step 0.
    arrays: Path of the parameter -> array.
    metadata: The metadata given to `save_base_checkpoint`, and the fingerprint;
      of a run's checkpoint, the `base_fingerprint` of its frozen parameters, or
      None, and the names that `trained`.
  """

  path: str
  found: str
  step: int
  arrays: Mapping[str, StoredArray]
  metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @functools.cached_property
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
    corners = _map_readers(
      self.arrays, lambda name, read: read(_corner(self.arrays[name].shape))
    )
    return _digest(
      {name: array.shape for name, array in self.arrays.items()},
      corners | orbax.read_corners(self.arrays, _corner_shape),
    )

  def identified_by(self, params: Mapping[str, Any]) -> "BaseCheckpoint":
    """Returns the checkpoint with its fingerprint, to save reading it again.

    In T5X's format 3, reading a corner means reading a whole chunk.

    Args:
      params: All of its parameters.
    """
    if "fingerprint" in self.metadata:
      return self
    found = {"fingerprint": fingerprint(params)}
    return dataclasses.replace(self, metadata={**self.metadata, **found})

  def read(
    self, targets: Mapping[str, jax.ShapeDtypeStruct]
  ) -> dict[str, jax.Array]:
    """Reads some parameters to their devices.

    Args:
      targets: Path of the parameter -> dtype and sharding to give it.

    Returns:
      Path of the parameter -> array. Each host reads its shards only.

    Raises:
      ValueError: if a part is missing.
    """
    wanted = {name: self.arrays[name] for name in targets}
    arrays = _map_readers(
      wanted,
      lambda name, read: _read_shards(read, wanted[name].shape, targets[name]),
    )
    return arrays | orbax.read_sharded(wanted, targets)


def _map_readers(
  arrays: Mapping[str, StoredArray],
  fn: Callable[[str, stored_arrays.Reader], _T],
) -> dict[str, _T]:
  """Applies a function to the reader of each array that Orbax does not read."""
  alone, stacks = [], {}
  for name, array in arrays.items():
    if isinstance(array, scanned.Layer):
      stacks.setdefault(id(array.stack), []).append((name, array))
    elif not isinstance(array, orbax.OrbaxArray):
      alone.append(name)

  def of_stack(layers: list[tuple[str, scanned.Layer]]) -> dict[str, _T]:
    reader_of = layers[0][1].stack.open()
    return {name: fn(name, reader_of(x.index)) for name, x in layers}

  with futures.ThreadPoolExecutor(_READERS) as pool:
    results = pool.map(lambda name: fn(name, arrays[name].open()), alone)
    read = dict(zip(alone, results, strict=True))
    by_orbax, others = [], []
    for layers in stacks.values():
      is_orbax = isinstance(layers[0][1].stack.array, orbax.OrbaxArray)
      (by_orbax if is_orbax else others).append(layers)
    # Orbax calls for all processes at once, in one order.
    for found in (*pool.map(of_stack, others), *map(of_stack, by_orbax)):
      read |= found
  return read


def _read_shards(
  read: stored_arrays.Reader,
  shape: tuple[int, ...],
  target: jax.ShapeDtypeStruct,
) -> jax.Array:
  """Reads this host's shards, each once."""
  shards: dict[Any, np.ndarray] = {}

  def shard(index: stored_arrays.Index | None) -> np.ndarray:
    assert index is not None, "this host has shards"
    index = tuple(
      slice(*part.indices(size)[:2])
      for part, size in zip(index, shape, strict=True)
    )
    key = tuple((part.start, part.stop) for part in index)
    if key not in shards:
      shards[key] = np.asarray(read(index)).astype(target.dtype, copy=False)
    return shards[key]

  assert target.sharding is not None, "read() is told where to put it"
  return jax.make_array_from_callback(shape, target.sharding, shard)


def open_checkpoint(path: str) -> BaseCheckpoint:
  """Opens a model in any format, without reading its parameters.

  Args:
    path: As for `find_checkpoint`. The checkpoint of a run stands for its base
      model with the run's changes.

  Raises:
    ValueError: if there is no checkpoint, its format is unknown, or it differs
      from its digests.
  """
  found = str(storage.absolute(find_checkpoint(path)))
  if digests.are_in(found):
    _refuse_damage(found, digests.text(found))
  if run.is_checkpoint(found):
    return BaseCheckpoint(
      path, found, *run.open_checkpoint(found, open_checkpoint)
    )
  if t5x_v3.is_checkpoint(found):
    step, arrays = t5x_v3.open_checkpoint(found)
    return BaseCheckpoint(path, found, step, scanned.take_apart(arrays))
  step, arrays, metadata = orbax.open_checkpoint(found)
  return BaseCheckpoint(path, found, step, scanned.take_apart(arrays), metadata)


@functools.lru_cache(maxsize=64)
def _refuse_damage(folder: str, written: str) -> None:
  """Reads a checkpoint once to compare it with its digests.

  Args:
    folder: `checkpoint_<step>`.
    written: Its digests, which tell checkpoints in the same place apart.
  """
  del written
  if damage := digests.damage(folder):
    raise ValueError(
      f"{folder} is damaged: {damage}. Get another copy. If it is a run's, the "
      "run itself resumes from the one before."
    )
