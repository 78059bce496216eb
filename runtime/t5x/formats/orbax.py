"""Models in Orbax folders: T5X's, ours, and those of runs.

`checkpoint_<step>/state/` has the tree `{target, state: {step, ...}}`, as T5X's
checkpoint manager writes it. T5X's earlier checkpoints have the tree in
`checkpoint_<step>/` itself; they can be read too.

A run's `state/` has the parameters that it trained, under flat names, and their
optimizer state; `run/` names the base model. `t5x.checkpoints` writes them.
"""

import functools
import json
import logging
from typing import Any

from etils import epath
from flax import traverse_util
import numpy as np
import orbax.checkpoint as ocp
import pydantic
import tensorstore as ts

from t5x.files import digests, parsing
from t5x.formats import stored_arrays
from t5x.formats.stored_arrays import StoredArray

# T5X's name for the item with the model, and our name for a run's facts.
ITEM, RUN = "state", "run"
# The prefix of the names of trained parameters.
_TRAINABLE = "trainable/"
_METADATA_FILE = "_CHECKPOINT_METADATA"
# Bytes of the OCDBT index to keep in memory while a folder is read.
_CACHE_BYTES = 2**26


class _Evaluation(pydantic.BaseModel):
  """An evaluation of a run, or one execution of its actions."""

  step: int
  metrics: dict[str, dict[str, float]] = {}


# The facts of a run that are read; older runs lack some.
_FACTS = {
  "evals": list[_Evaluation],
  "acted": (dict[str, list[_Evaluation]], {}),
  "base": (dict[str, str] | None, None),
  "base_fingerprint": (str | None, None),
  "task": (str, ""),
  "first_step": (int, 0),
  "is_stopped": (bool, False),
  "seconds": (float, 0.0),
}


def open_arrays(folder: str) -> dict[tuple[str, ...], StoredArray]:
  """Opens an Orbax folder without reading an array.

  TensorStore reads the arrays, because Orbax's own reader makes all processes
  wait for each other at each call.

  Args:
    folder: The folder of the tree, local or gs://.

  Returns:
    Place in the tree -> array.

  Raises:
    ValueError: if its metadata is malformed.
  """
  path = epath.Path(folder)
  with parsing.of(folder, "an Orbax checkpoint"):
    tree = ocp.PyTreeCheckpointHandler().metadata(path).tree
    settings = json.loads((path / "_METADATA").read_text())
    is_ocdbt = (path / "manifest.ocdbt").exists()
    spec = {
      "driver": "zarr3" if settings.get("use_zarr3") else "zarr",
      "recheck_cached_data": False,
      # Old releases omitted chunks of zeros.
      "fill_missing_data_reads": not settings.get(
        "store_array_data_equal_to_fill_value"
      ),
    }
    caches = {"cache_pool": {"total_bytes_limit": _CACHE_BYTES}}
    context = ts.Context(caches) if is_ocdbt else None

    def stored(array: Any) -> StoredArray:
      kvstore = stored_arrays.kvstore(f"{folder}/{array.name}/")
      if is_ocdbt:
        base = stored_arrays.kvstore(f"{folder}/")
        kvstore = {"driver": "ocdbt", "base": base, "path": f"{array.name}/"}
      shape, name = tuple(array.shape), f"{folder}/{array.name}"
      opener = functools.partial(
        stored_arrays.open_zarr, shape, name, kvstore, context, **spec
      )
      return StoredArray(shape, np.dtype(array.dtype), opener)

    return {
      keys: stored(leaf)
      for keys, leaf in traverse_util.flatten_dict(tree).items()
      if hasattr(leaf, "shape")
    }


def open_checkpoint(
  folder: str,
) -> tuple[int, dict[str, StoredArray], dict[str, Any]]:
  """Opens a checkpoint without reading its parameters.

  Args:
    folder: `checkpoint_<step>`, local or gs://.

  Returns:
    The step, path of the parameter -> array, and the metadata given to
    `save_base_checkpoint`; T5X writes none.

  Raises:
    ValueError: if it has another format.
  """
  nested = epath.Path(folder) / ITEM
  inside = str(nested) if nested.is_dir() else folder
  what = (
    "a base checkpoint: expected a T5X checkpoint, or an Orbax folder with "
    "target and state/step, as save_base_checkpoint writes it"
  )
  with parsing.of(folder, what):
    if not epath.Path(f"{inside}/_METADATA").exists():
      raise KeyError("_METADATA")  # Another program wrote it, or an old one.
    arrays = open_arrays(inside)
    step = int(stored_arrays.read(arrays[ITEM, "step"]))
  file = epath.Path(folder) / _METADATA_FILE
  metadata: dict[str, Any] = {}
  if file.exists():
    keys = {"custom_metadata": (dict[str, Any] | None, None)}
    metadata = parsing.json_file(file, "metadata", keys)
  target = {
    "/".join(keys[1:]): array
    for keys, array in arrays.items()
    if keys[0] == "target"
  }
  return step, target, metadata.get("custom_metadata") or {}


def is_run(folder: str) -> bool:
  """Returns whether a run wrote a folder `checkpoint_<step>`."""
  return (epath.Path(folder) / RUN).is_dir()


def read_run_info(folder: str) -> dict[str, Any]:
  """Reads the facts that `t5x.checkpoints` saved beside the state.

  Raises:
    ValueError: if they are malformed.
  """
  path = epath.Path(folder) / RUN / "metadata"
  return parsing.json_file(path, "the facts of a run", _FACTS)


def trained_arrays(folder: str) -> dict[str, StoredArray]:
  """Returns the parameters that a run trained: path -> array."""
  return {
    keys[0].removeprefix(_TRAINABLE): array
    for keys, array in open_arrays(f"{folder}/{ITEM}").items()
    if keys[0].startswith(_TRAINABLE)
  }


class WithDigests(ocp.CompositeCheckpointHandler):
  """A handler that adds digests before a run's checkpoint gets its name."""

  def finalize(self, directory) -> None:
    super().finalize(directory)
    # Orbax later writes the time into its own file, which is not read here.
    digests.write(directory, leave_out={_METADATA_FILE})


@ocp.args.register_with_handler(WithDigests, for_save=True, for_restore=True)
class RunItems(ocp.args.Composite):
  """The arguments of `WithDigests`."""


def is_news(record: logging.LogRecord) -> bool:
  """Returns whether to log a record; False if Orbax raises the error too."""
  return record.levelno < logging.ERROR or "orbax" not in record.pathname
