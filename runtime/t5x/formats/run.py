"""A run's checkpoint, read as a model: its base with the run's changes.

`checkpoint_<step>/state/` has the trained parameters, under flat names, and
their optimizer state; `checkpoint_<step>/run/` names the base model.
`t5x.checkpoints` writes them.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

from etils import epath
import orbax.checkpoint as ocp

from t5x.formats import orbax
from t5x.formats.stored_arrays import StoredArray

# The prefix of the names of trained parameters.
_TRAINABLE = "trainable/"
ITEM = "run"


def is_checkpoint(folder: str) -> bool:
  """Returns whether a folder `checkpoint_<step>` is a run's."""
  return (epath.Path(folder) / ITEM).is_dir()


def open_checkpoint(
  folder: str, open_base: Callable[[str], Any]
) -> tuple[int, dict[str, StoredArray], dict[str, Any]]:
  """Opens a run's checkpoint and its base model without reading parameters.

  Args:
    folder: `checkpoint_<step>`.
    open_base: Opens the base model by its path; returns an object with `arrays`
      and `fingerprint`.

  Returns:
    The step, path of the parameter -> array, and metadata: the
    `base_fingerprint` of the frozen parameters, or None, and the names that
    `trained`.

  Raises:
    ValueError: if the base model is missing, or another one has replaced it.
  """
  info = read_info(folder)
  trained = trained_arrays(folder)
  base: Mapping[str, StoredArray] = {}
  # If nothing is frozen, the run holds all of the model.
  if info["base_fingerprint"] is not None and info["base"]:
    base = _base_arrays(folder, open_base, **info["base"])
  return (
    int(epath.Path(folder).name.removeprefix("checkpoint_")),
    {**base, **trained},
    {"base_fingerprint": info["base_fingerprint"], "trained": sorted(trained)},
  )


def read_info(folder: str) -> dict[str, Any]:
  """Reads the facts that `t5x.checkpoints` saved beside the state."""
  with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
    return cast(dict[str, Any], checkpointer.restore(epath.Path(folder) / ITEM))


def trained_arrays(folder: str) -> dict[str, StoredArray]:
  """Returns the parameters that a run trained: path -> array."""
  state = str(epath.Path(folder) / orbax.ITEM)
  return {
    name.removeprefix(_TRAINABLE): orbax.OrbaxArray(
      state, (name,), x.shape, x.dtype
    )
    for name, x in orbax.read_shapes(state).items()
    if name.startswith(_TRAINABLE)
  }


def _base_arrays(
  folder: str, open_base: Callable[[str], Any], path: str, fingerprint: str
) -> Mapping[str, StoredArray]:
  """Opens the base model of a run, and refuses another one in its place."""
  try:
    base = open_base(path)
  except ValueError as e:
    raise ValueError(f"{folder} needs its base model. {e}") from e
  if base.fingerprint != fingerprint:
    raise ValueError(
      f"{folder} needs its base model, {fingerprint}; at {path} there is "
      f"{base.fingerprint} now."
    )
  return base.arrays
