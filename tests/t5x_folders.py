"""Checkpoints in the formats of Google's T5X, written without the runtime."""

import pathlib
from typing import Any

from flax import serialization, traverse_util
import numpy as np
import orbax.checkpoint as ocp
import tensorstore


def _state(flat: dict[str, np.ndarray], step: int) -> dict[str, Any]:
  adafactor = {name: np.zeros(1, np.float32) for name in ("m", "v_row")}
  states = {name: dict(adafactor) for name in flat}
  return {
    "step": np.asarray(step, np.int32),
    "param_states": traverse_util.unflatten_dict(states, sep="/"),
  }


def write_v3(
  directory: pathlib.Path,
  step: int,
  flat: dict[str, np.ndarray],
  driver: str = "gfile",
) -> str:
  """Writes format 3: msgpack, with zarr for the arrays that T5X partitions.

  Args:
    directory: The folder for `checkpoint_<step>`.
    step: The number of pretraining steps.
    flat: The path of each parameter -> its array.
    driver: The form of the arrays' place in the specs: "gfile", "gcs", or
      "old" (TensorStore before 0.1.14).
  """
  folder = directory / f"checkpoint_{step}"
  folder.mkdir(parents=True)
  target = {}
  for name, array in flat.items():
    if array.ndim == 1 or name.endswith("rel_embedding"):
      target[name] = array
      continue
    path = {"path": "target." + name.replace("/", ".")}
    store = tensorstore.open(
      {
        "driver": "zarr",
        "dtype": array.dtype.name,
        "kvstore": {"driver": "file", "path": str(folder / path["path"])},
        "metadata": {
          "chunks": [array.shape[0] // 2, *array.shape[1:]],
          "compressor": {"id": "gzip", "level": 1},
          "shape": list(array.shape),
        },
      },
      create=True,
    ).result()
    store.write(array).result()
    gcs = {"driver": "gcs", "bucket": "t5x-dummy-bucket"}
    place = {
      "gfile": {"kvstore": {"driver": "gfile", **path}},
      "gcs": {"kvstore": gcs | path},
      "old": {"kvstore": gcs, **path},
    }[driver]
    kept = store.spec().to_json()["metadata"]
    target[name] = {"driver": "zarr", "metadata": kept, **place}
  tree = {
    "version": 3,
    "optimizer": {
      "target": traverse_util.unflatten_dict(target, sep="/"),
      "state": _state(flat, step),
    },
  }
  (folder / "checkpoint").write_bytes(serialization.msgpack_serialize(tree))
  return str(folder)


def write_orbax(
  directory: pathlib.Path, step: int, flat: dict[str, np.ndarray]
) -> str:
  """Writes an item "state" without OCDBT, like T5X's CheckpointManager."""
  tree = {
    "target": traverse_util.unflatten_dict(flat, sep="/"),
    "state": _state(flat, step),
  }
  with ocp.CheckpointManager(
    directory.absolute(),
    item_handlers={"state": ocp.PyTreeCheckpointHandler(use_ocdbt=False)},
    options=ocp.CheckpointManagerOptions(step_prefix="checkpoint"),
  ) as manager:
    state = ocp.args.PyTreeSave(tree)
    manager.save(step, args=ocp.args.Composite(state=state))
  return str(directory / f"checkpoint_{step}")


def read_v3(folder: pathlib.Path) -> tuple[int, dict[str, np.ndarray]]:
  """Reads format 3 as T5X does: it puts the path into a spec and opens it."""
  tree = serialization.msgpack_restore((folder / "checkpoint").read_bytes())
  assert tree["version"] == 3
  # An empty state of the parameters breaks T5X's `load_t5x_checkpoint`.
  state = tree["optimizer"]["state"]
  assert state.keys() == {"step"}
  target = traverse_util.flatten_dict(
    tree["optimizer"]["target"],
    sep="/",
    is_leaf=lambda _, node: "kvstore" in node,
  )
  flat = {}
  for name, leaf in target.items():
    if isinstance(leaf, dict):
      # T5X assumes that a shape and these two exist, but does not need the two.
      assert leaf["metadata"]["shape"]
      del leaf["metadata"]["chunks"], leaf["metadata"]["compressor"]
      assert leaf["kvstore"]["driver"] == "file"
      leaf["kvstore"]["path"] = str(folder / leaf["kvstore"]["path"])
      leaf = tensorstore.open(leaf, open=True).result().read().result()
    flat[name] = leaf
  return int(state["step"]), flat


def assert_same(
  found: dict[str, np.ndarray], expected: dict[str, np.ndarray]
) -> None:
  """Compares names, dtypes, shapes and bits."""
  assert found.keys() == expected.keys()
  for name, array in expected.items():
    assert found[name].dtype == array.dtype, name
    assert found[name].shape == array.shape, name
    assert found[name].tobytes() == array.tobytes(), name
