"""The layout of base models that Orbax writes."""

import pathlib
import shutil

from flax import traverse_util
import numpy as np
import orbax.checkpoint as ocp
import pytest

from t5x.formats import base_checkpoints, orbax, stored_arrays

_FLAT = {
  "token_embedder/embedding": np.arange(12, dtype=np.float32).reshape(4, 3),
  "encoder/encoder_norm/scale": np.ones(3, np.float32),
}


def _save(directory) -> pathlib.Path:
  return pathlib.Path(
    base_checkpoints.save_base_checkpoint(
      str(directory),
      7,
      traverse_util.unflatten_dict(_FLAT, sep="/"),
      {"name": "tiny"},
    )
  )


def test_googles_t5x_finds_the_item_that_it_restores(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  path = _save("relative")
  assert path == tmp_path / "relative" / "checkpoint_7"
  with ocp.CheckpointManager(
    path.parent,
    item_names=("state",),
    options=ocp.CheckpointManagerOptions(
      step_prefix="checkpoint", read_only=True
    ),
  ) as manager:
    assert manager.all_steps() == [7]
    state = manager.restore(
      7, args=ocp.args.Composite(state=ocp.args.PyTreeRestore())
    )["state"]
  assert state["state"]["step"] == 7
  read = traverse_util.flatten_dict(state["target"], sep="/")
  assert read.keys() == _FLAT.keys()
  for name, array in _FLAT.items():
    np.testing.assert_array_equal(read[name], array)


@pytest.mark.parametrize("is_flat", [False, True])
def test_every_layout_is_read_with_its_metadata(tmp_path, is_flat):
  """The layout without an item is older."""
  path = _save(tmp_path)
  if is_flat:
    shutil.move(path / "_CHECKPOINT_METADATA", path / orbax.ITEM)
    shutil.move(path / orbax.ITEM, tmp_path / "item")
    shutil.rmtree(path)
    shutil.move(tmp_path / "item", path)
  checkpoint = base_checkpoints.open_checkpoint(str(path))
  assert checkpoint.step == 7
  assert checkpoint.metadata == {
    "name": "tiny",
    "fingerprint": base_checkpoints.fingerprint(
      traverse_util.unflatten_dict(_FLAT, sep="/")
    ),
  }
  for name, array in _FLAT.items():
    np.testing.assert_array_equal(
      stored_arrays.read(checkpoint.arrays[name]), array
    )


def test_another_folder_is_refused(tmp_path):
  (tmp_path / "checkpoint_3").mkdir()
  with pytest.raises(ValueError, match="not a base checkpoint: expected a T5X"):
    base_checkpoints.open_checkpoint(str(tmp_path))
