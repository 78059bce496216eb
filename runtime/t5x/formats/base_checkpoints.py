"""Base checkpoints: models on disk, in every format that a run may start from.

T5X's format 3                         `formats.t5x_v3`
T5X's Orbax folders, ours, and runs'   `formats.orbax`
others                                 clients: see `configuration.client`
"""

from collections.abc import Mapping
import dataclasses
import functools
import hashlib
import os
from typing import Any

from etils import epath
from flax import traverse_util
import jax
from jax.sharding import NamedSharding, PartitionSpec
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp

from t5x.files import digests, storage
from t5x.formats import (
  orbax,
  scanned,
  stacking,
  stored_arrays,
  t5x_v3,
)
from t5x.formats.checkpoint_folder import find_checkpoint, of_client
from t5x.formats.stored_arrays import StoredArray

# A fingerprint covers this many values along each axis.
_FINGERPRINT_BLOCK = 16


def fingerprint(params: Mapping[str, Any]) -> str:
  """Returns the identity of a model, from some values of every parameter.

  Args:
    params: Nested dictionary of arrays, of any dtype and sharding. Values are
      rounded to bfloat16.

  Returns:
    32 hexadecimal digits.
  """
  flat: dict[str, Any] = traverse_util.flatten_dict(params, sep="/")

  def corners(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the corners of arrays; for a stack, the corner of every layer."""
    found = {}
    for name, array in arrays.items():
      stacks = int(stacking.is_stacked(name))
      layers = (slice(None),) * stacks
      found[name] = array[(*layers, *_corner(array.shape[stacks:]))]
    return found

  on_devices = {k: v for k, v in flat.items() if isinstance(v, jax.Array)}
  blocks = corners({k: v for k, v in flat.items() if k not in on_devices})
  if on_devices:
    some = next(iter(on_devices.values())).sharding
    replicated = None
    if isinstance(some, NamedSharding):
      replicated = NamedSharding(some.mesh, PartitionSpec())
    found = jax.jit(corners, out_shardings=replicated)(on_devices)
    blocks |= jax.device_get(found)
  shapes = stacking.shapes_apart(
    {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in flat.items()}
  )
  return _digest(
    {name: x.shape for name, x in shapes.items()}, stacking.take_apart(blocks)
  )


def _corner(shape: tuple[int, ...]) -> stored_arrays.Index:
  """Returns the index of the corner that a fingerprint covers."""
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
  directory: str,
  step: int,
  params: Mapping[str, Any],
  metadata: Mapping[str, Any],
) -> str:
  """Writes a model, with its fingerprint, so that Google's T5X restores it.

  Args:
    directory: The folder to put `checkpoint_<step>` into.
    step: Pretraining steps.
    params: Nested dictionary of arrays.
    metadata: More JSON facts to keep beside the item.

  Returns:
    The path of the checkpoint. It appears when it is complete.
  """
  path = storage.absolute(directory) / f"checkpoint_{step}"
  apart = stacking.take_apart(traverse_util.flatten_dict(params, sep="/"))
  target = traverse_util.unflatten_dict(apart, sep="/")
  tree = {"target": target, "state": {"step": np.int32(step)}}
  # `CheckpointManager` would delete other files in `directory`.
  handler = ocp.CompositeCheckpointHandler(state=ocp.PyTreeCheckpointHandler())
  with ocp.Checkpointer(handler) as checkpointer:
    checkpointer.save(
      path,
      args=ocp.args.Composite(state=ocp.args.PyTreeSave(tree)),
      custom_metadata={**metadata, "fingerprint": fingerprint(params)},
      force=True,
    )
  if not storage.is_bucket(directory):
    # Marks serve only object stores, and contain a path of this machine.
    for mark in (path, path / orbax.ITEM):
      (mark / storage.MARK).unlink(missing_ok=True)
    if jax.process_index() == 0:
      digests.write(str(path))
  return str(path)


@dataclasses.dataclass(frozen=True)
class BaseCheckpoint:
  """A model on disk, read parameter by parameter.

  Attributes:
    path: The path as the user gave it.
    found: The absolute path of the checkpoint, the newest one if `path` has
      several.
    step: Steps, counted from pretraining step 0.
    arrays: Path of the parameter -> array.
    metadata: The metadata given to `save_base_checkpoint`, and the fingerprint.
      For a run's checkpoint, the `base_fingerprint` of its frozen parameters,
      or None, and the names of its `trained` parameters.
  """

  path: str
  found: str
  step: int
  arrays: Mapping[str, StoredArray]
  metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @functools.cached_property
  def fingerprint(self) -> str:
    """The identity of the weights, the same in every format."""
    if "fingerprint" in self.metadata:
      return self.metadata["fingerprint"]
    shapes = {name: array.shape for name, array in self.arrays.items()}
    corners = stored_arrays.map_readers(
      self.arrays, lambda name, read: read(_corner(shapes[name]))
    )
    return _digest(shapes, corners)

  def read(
    self, targets: Mapping[str, jax.ShapeDtypeStruct]
  ) -> dict[str, jax.Array]:
    """Reads some parameters to their devices.

    Args:
      targets: Path of the parameter -> dtype and sharding to give it.

    Returns:
      Path of the parameter -> array. Each host reads only its shards.

    Raises:
      ValueError: if a part is missing.
    """
    return stored_arrays.read_sharded(
      {name: self.arrays[name] for name in targets}, targets
    )


def open_checkpoint(path: str) -> BaseCheckpoint:
  """Opens a model in any format, without reading its parameters.

  Args:
    path: As for `find_checkpoint`. A run's checkpoint means its base model with
      the run's changes.

  Raises:
    ValueError: if there is no checkpoint, its format is unknown, it differs
      from its digests, or the base model of a run is missing or has changed.
  """
  if (other := of_client(path)) is not None:
    return other
  found = str(storage.absolute(find_checkpoint(path)))
  file = epath.Path(found) / digests.NAME
  if os.path.islink(file) or file.exists():
    _refuse_damage(found, file.read_bytes())
  if orbax.is_run(found):
    info = orbax.read_run_info(found)
    trained, arrays, base = orbax.trained_arrays(found), {}, None
    # If nothing is frozen, the run's checkpoint has the whole model.
    is_needed = info["base_fingerprint"] is not None
    if info["base"]:
      try:
        base = open_checkpoint(info["base"]["path"])
      except ValueError as e:
        if is_needed:
          raise ValueError(f"{found} needs its base model. {e}") from e
    if is_needed and base is not None:
      if base.fingerprint != info["base"]["fingerprint"]:
        raise ValueError(
          f"{found} needs its base model, {info['base']['fingerprint']}, but "
          f"{base.path} now has {base.fingerprint}."
        )
      arrays = base.arrays
    of_base = {} if base is None else base.metadata
    kept = {k: x for k, x in of_base.items() if k in ("config", "folder")}
    kept["base_fingerprint"] = info["base_fingerprint"]
    return BaseCheckpoint(
      path,
      found,
      int(epath.Path(found).name.removeprefix("checkpoint_")),
      {**arrays, **trained},
      {**kept, "trained": sorted(trained)},
    )
  if t5x_v3.is_checkpoint(found):
    step, arrays, metadata = t5x_v3.open_checkpoint(found)
  else:
    step, arrays, metadata = orbax.open_checkpoint(found)
  return BaseCheckpoint(path, found, step, scanned.take_apart(arrays), metadata)


@functools.lru_cache(maxsize=64)
def _refuse_damage(folder: str, written: bytes) -> None:
  """Reads a checkpoint once to compare it with its digests.

  Args:
    folder: `checkpoint_<step>`.
    written: The content of its file of digests, which distinguishes checkpoints
      with the same path.
  """
  del written
  if damage := digests.damage(folder):
    raise ValueError(
      f"{folder} is damaged: {damage}. Get another copy. If a run wrote it, "
      "the run itself resumes from the previous checkpoint."
    )
