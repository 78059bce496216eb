"""Tests of base models in the formats of Google's T5X; we write two."""

import os
import pathlib
import shutil
from unittest import mock

from damages import DAMAGES
from flax import traverse_util
import jax
from jax.sharding import SingleDeviceSharding
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
import t5x_folders
import tiny

from prompt_tuning.inference import base_models
from t5x import checkpoints
from t5x.files import digests, storage
from t5x.formats import base_checkpoints, orbax, stored_arrays, t5x_v3

STEP = 1_100_000
EMBEDDING = "token_embedder/embedding"


@pytest.fixture(scope="module")
def flat(base):
  """The parameters of a tiny model, by name; one of them is bfloat16."""
  flat = _arrays(checkpoints.open_checkpoint(base))
  return {**flat, EMBEDDING: flat[EMBEDDING].astype(ml_dtypes.bfloat16)}


def _by_name(params):
  return traverse_util.flatten_dict(jax.device_get(params), sep="/")


def _arrays(checkpoint):
  return {k: stored_arrays.read(x) for k, x in checkpoint.arrays.items()}


def _write(kind, folder, flat):
  if kind == "orbax":
    return t5x_folders.write_orbax(folder, STEP, flat)
  return t5x_folders.write_v3(folder, STEP, flat, kind)


@pytest.mark.parametrize("kind", ["gfile", "old", "orbax"])
def test_prompt_tuning_begins_with_a_checkpoint_of_t5x(tmp_path, flat, kind):
  _write(kind, tmp_path / "written", flat)
  moved = shutil.move(tmp_path / "written", tmp_path / "elsewhere")
  for dtype in (None, "float32"):
    state, base = tiny.restore(moved, dtype=dtype)
    assert int(state.step) == base.step == STEP
    t5x_folders.assert_same(
      _by_name(state.frozen),
      {k: v.astype(dtype or v.dtype) for k, v in flat.items()},
    )
  assert list(state.trainable) == ["encoder"]
  # The identity of a model does not depend on how it was stored.
  own = checkpoints.fingerprint(traverse_util.unflatten_dict(flat, sep="/"))
  there = checkpoints.open_checkpoint(moved)
  assert there.fingerprint == checkpoints.fingerprint(state.frozen) == own
  # Restoring records it, which saves a second read of the weights.
  assert base.metadata["fingerprint"] == own


def test_model_with_a_prompt_in_it_is_the_model_to_its_prompts(tmp_path, flat):
  prompt = {"encoder/prompt/prompt": np.zeros((4, tiny.WIDTH), np.float32)}
  merged = _write("gfile", tmp_path / "merged", {**flat, **prompt})
  alone = checkpoints.open_checkpoint(_write("gfile", tmp_path / "alone", flat))
  # Training another prompt on it freezes the model without the old prompt.
  state, base = tiny.restore(merged)
  found = base_models.base_fingerprint(base)
  assert found == checkpoints.fingerprint(state.frozen)
  assert found == alone.fingerprint != base.fingerprint


@pytest.mark.parametrize("kind", ["gfile", "orbax"])
def test_base_model_is_read_inside_a_trace(tmp_path, flat, kind):
  """Gin may make an initialiser, which reads weights, during a trace."""
  path = _write(kind, tmp_path / "written", flat)

  def embedding():
    device = SingleDeviceSharding(jax.devices()[0])
    base = checkpoints.open_checkpoint(str(path))
    target = jax.ShapeDtypeStruct(
      flat[EMBEDDING].shape, np.float32, sharding=device
    )
    assert base.fingerprint
    return base.read({EMBEDDING: target})[EMBEDDING]

  np.testing.assert_array_equal(
    jax.jit(embedding)(), flat[EMBEDDING].astype(np.float32)
  )


@pytest.mark.parametrize("kind", ["gfile", "orbax"])
def test_fingerprint_reads_corners_only(tmp_path, flat, kind):
  base = checkpoints.open_checkpoint(_write(kind, tmp_path, flat))
  with mock.patch.object(
    base_checkpoints, "_digest", wraps=base_checkpoints._digest
  ) as digest:
    assert base.fingerprint
  _, corners = digest.call_args.args
  assert {k: v.shape for k, v in corners.items()} == {
    k: tuple(min(size, 16) for size in v.shape) for k, v in flat.items()
  }


def test_prompt_may_be_read_from_another_name(tmp_path, flat):
  prompt = np.full((4, tiny.WIDTH), 2, np.float32)
  # Upstream stores the prompt under this name.
  path = _write(
    "gfile", tmp_path, {**flat, "encoder/prompt/prompt/prompt": prompt}
  )
  upstream = (r"(target/encoder/prompt/prompt)", r"\1/prompt")
  state, _ = tiny.restore(path, assignment_map=(upstream,))
  np.testing.assert_array_equal(
    state.trainable["encoder"]["prompt"]["prompt"], prompt
  )


def test_part_that_is_missing_is_not_taken_for_zeros(tmp_path, flat):
  path = pathlib.Path(_write("gfile", tmp_path, flat))
  (path / "target.token_embedder.embedding" / "1.0").unlink()
  with pytest.raises(
    ValueError,
    match=r"token_embedder\.embedding is not an array that .*read.*1\.0",
  ):
    tiny.restore(path)
  shutil.rmtree(path / "target.token_embedder.embedding")
  with pytest.raises(ValueError, match=r"can be opened: .* Copy the"):
    tiny.restore(path)


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("checkpoint", b"model_checkpoint_path: 'm-1'", "of Mesh TensorFlow"),
    # Version 2 in msgpack.
    ("checkpoint", b"\x81\xa7version\x02", "format 2, expected 3"),
    ("", None, "not a base checkpoint: expected a T5X"),
  ],
)
def test_other_formats_are_refused(tmp_path, name, content, message):
  folder = tmp_path / "checkpoint_5"
  folder.mkdir()
  if content is not None:
    (folder / name).write_bytes(content)
  with pytest.raises(ValueError, match=message):
    checkpoints.open_checkpoint(str(tmp_path))


def test_buckets_are_read_where_they_are():
  path = "gs://bucket/a/checkpoint_1"
  assert stored_arrays.kvstore(f"{path}/target.b") == {
    "driver": "gcs",
    "bucket": "bucket",
    "path": "a/checkpoint_1/target.b",
  }
  assert str(storage.absolute(path)) == path
  assert str(storage.absolute("a")) == os.path.abspath("a")


def test_host_reads_its_shards_only(tmp_path, flat, monkeypatch):
  """Another host's chunk is missing, so reading it would be an error."""
  path = pathlib.Path(_write("gfile", tmp_path, flat))
  (path / "target.token_embedder.embedding" / "1.0").unlink()
  shape, one = flat[EMBEDDING].shape, SingleDeviceSharding(jax.devices()[0])
  half = slice(0, shape[0] // 2)
  # JAX asks a host that has the first half for these rows.
  monkeypatch.setattr(
    jax,
    "make_array_from_callback",
    lambda shape, _, read: read((half, slice(None))),
  )
  target = jax.ShapeDtypeStruct(shape, np.float32, sharding=one)
  read = checkpoints.open_checkpoint(str(path)).read({EMBEDDING: target})
  np.testing.assert_array_equal(
    read[EMBEDDING], flat[EMBEDDING][half].astype(np.float32)
  )


def _save(directory, flat) -> pathlib.Path:
  return pathlib.Path(
    checkpoints.save_base_checkpoint(
      str(directory),
      7,
      traverse_util.unflatten_dict(flat, sep="/"),
      {"name": "tiny"},
    )
  )


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_base_model_is_refused_by_name(tmp_path, damage):
  path = _save(tmp_path, {"a/kernel": np.ones((64, 64), np.float32)})
  assert checkpoints.open_checkpoint(str(path)).step == 7
  for file in [file for file in path.rglob("*") if file.is_file()]:
    if file.name == digests.NAME and damage == "deleted":
      continue  # Checkpoints of T5X have no digests either.
    content = file.read_bytes()
    DAMAGES[damage](file)
    base_checkpoints._refuse_damage.cache_clear()
    with pytest.raises(ValueError, match="checkpoint_7 is damaged: "):
      checkpoints.open_checkpoint(str(path))
    file.write_bytes(content)


def test_googles_t5x_finds_the_item_that_it_restores(
  tmp_path, monkeypatch, flat
):
  monkeypatch.chdir(tmp_path)
  path = _save("relative", flat)
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
  t5x_folders.assert_same(_by_name(state["target"]), flat)


@pytest.mark.parametrize("is_flat", [False, True])
def test_every_layout_is_read_with_its_metadata(tmp_path, flat, is_flat):
  """The older layout has no folder for the item."""
  path = _save(tmp_path, flat)
  if is_flat:
    shutil.move(path / "_CHECKPOINT_METADATA", path / orbax.ITEM)
    shutil.move(path / orbax.ITEM, tmp_path / "item")
    shutil.rmtree(path)
    shutil.move(tmp_path / "item", path)
  checkpoint = checkpoints.open_checkpoint(str(path))
  assert checkpoint.step == 7
  assert checkpoint.metadata == {
    "name": "tiny",
    "fingerprint": checkpoints.fingerprint(
      traverse_util.unflatten_dict(flat, sep="/")
    ),
  }
  t5x_folders.assert_same(_arrays(checkpoint), flat)


def _write_v3(folder, flat, step=STEP):
  return t5x_v3.write_checkpoint(
    str(folder),
    step,
    {k: stored_arrays.in_memory(v) for k, v in flat.items()},
  )


@pytest.mark.parametrize(("chunk_bytes", "chunks"), [(2**26, 1), (1024, 12)])
def test_t5x_and_we_read_what_we_write_v3(
  tmp_path, monkeypatch, flat, chunk_bytes, chunks
):
  """Both readers find every array, even after a write to a relative path."""
  (tmp_path / "here").mkdir()
  monkeypatch.chdir(tmp_path / "here")
  monkeypatch.setattr(t5x_v3, "_CHUNK_BYTES", chunk_bytes)
  flat = {**flat, "encoder/zeros/kernel": np.zeros((3, 4), np.float16)}
  path = pathlib.Path(_write_v3("../there", flat)).resolve()
  assert path.name == f"checkpoint_{STEP}"
  step, read = t5x_folders.read_v3(path)
  own = checkpoints.open_checkpoint(str(path))
  assert step == own.step == STEP
  t5x_folders.assert_same(read, flat)
  t5x_folders.assert_same(_arrays(own), flat)
  parts = (path / "target.token_embedder.embedding").glob("*.*")
  assert len(list(parts)) == chunks + 1  # The other file is .zarray.


def test_checkpoint_appears_when_it_is_whole(tmp_path, flat):
  full = mock.Mock(side_effect=OSError("disk full"))
  array = stored_arrays.StoredArray((2, 2), np.dtype(np.float32), full)
  with pytest.raises(OSError, match="disk full"):
    t5x_v3.write_checkpoint(str(tmp_path), 5, {"a/kernel": array})
  assert os.listdir(tmp_path) == []
  with pytest.raises(ValueError, match="No checkpoint_<step> in"):
    checkpoints.find_checkpoint(str(tmp_path))
  # The failed write does not block another one.
  _write_v3(tmp_path, flat, step=5)
  with pytest.raises(ValueError, match="checkpoint_5 already exists"):
    _write_v3(tmp_path, flat, step=5)
