"""Base models in the formats of Google's T5X, as T5X leaves them on disk."""

import os
import pathlib
import shutil
import socket
import subprocess
import sys

from damages import DAMAGES
from flax import serialization, traverse_util
import jax
import ml_dtypes
import numpy as np
import pytest
import t5x_folders
import tiny

from prompt_tuning.inference import frozen_model
from t5x import checkpoints
from t5x.files import digests, storage
from t5x.formats import base_checkpoints, stored_arrays

STEP = 1_100_000
EMBEDDING = "token_embedder/embedding"


@pytest.fixture(scope="module")
def flat():
  """The parameters of a tiny model, by name."""
  variables = tiny.make_model(with_prompt=False).get_initial_variables(
    jax.random.key(3), tiny.input_shapes()
  )
  return traverse_util.flatten_dict(
    jax.device_get(variables["params"]), sep="/"
  )


def _write(kind, folder, flat):
  if kind == "orbax":
    return t5x_folders.write_orbax(folder, STEP, flat)
  return t5x_folders.write_v3(folder, STEP, flat, kind)


@pytest.mark.parametrize("kind", ["gfile", "old", "orbax"])
def test_prompt_tuning_begins_with_a_checkpoint_of_t5x(tmp_path, flat, kind):
  _write(kind, tmp_path / "written", flat)
  moved = shutil.move(tmp_path / "written", tmp_path / "elsewhere")
  state, base = tiny.restore(moved)
  assert int(state.step) == base.step == STEP
  frozen = traverse_util.flatten_dict(state.frozen, sep="/")
  assert frozen.keys() == flat.keys()
  for name, array in flat.items():
    np.testing.assert_array_equal(frozen[name], array, err_msg=name)
  assert list(state.trainable) == ["encoder"]
  # The identity of a model does not depend on how it was stored.
  own = checkpoints.fingerprint(traverse_util.unflatten_dict(flat, sep="/"))
  there = checkpoints.open_checkpoint(moved)
  assert there.fingerprint == checkpoints.fingerprint(state.frozen) == own
  # Nor is it read again, as what was read tells it.
  assert base.metadata["fingerprint"] == own


def test_model_with_a_prompt_in_it_is_the_model_to_its_prompts(tmp_path, flat):
  prompt = {"encoder/prompt/prompt": np.zeros((4, tiny.WIDTH), np.float32)}
  merged = _write("gfile", tmp_path / "merged", {**flat, **prompt})
  alone = checkpoints.open_checkpoint(_write("gfile", tmp_path / "alone", flat))
  # Another prompt is trained on it: what is frozen is the model alone.
  state, base = tiny.restore(merged)
  assert frozen_model.base_fingerprint(base) == checkpoints.fingerprint(
    state.frozen
  )
  assert (
    frozen_model.base_fingerprint(base) == alone.fingerprint != base.fingerprint
  )


@pytest.mark.parametrize("kind", ["gfile", "orbax"])
def test_fingerprint_reads_corners_only(tmp_path, flat, kind, monkeypatch):
  base = checkpoints.open_checkpoint(_write(kind, tmp_path, flat))
  read = []
  digest = base_checkpoints._digest
  monkeypatch.setattr(
    base_checkpoints,
    "_digest",
    lambda shapes, corners: (
      read.extend(corners.values()) or digest(shapes, corners)
    ),
  )
  assert base.fingerprint
  assert len(read) == len(flat)
  assert max(max(x.shape) for x in read) == 16 < max(flat[EMBEDDING].shape)


@pytest.mark.parametrize("kind", ["gfile", "orbax"])
def test_bfloat16_stays_or_becomes_what_is_asked_for(tmp_path, flat, kind):
  half = {k: v.astype(ml_dtypes.bfloat16) for k, v in flat.items()}
  path = _write(kind, tmp_path, half)
  for dtype, expected in ((None, "bfloat16"), ("float32", "float32")):
    state, _ = tiny.restore(path, dtype=dtype)
    array = state.frozen["token_embedder"]["embedding"]
    assert str(array.dtype) == expected
    np.testing.assert_array_equal(array, half[EMBEDDING].astype(expected))


@pytest.mark.parametrize("kind", ["gfile", "orbax"])
def test_missing_and_extra_parameters_are_listed(tmp_path, flat, kind):
  prompt = np.full((4, tiny.WIDTH), 2, np.float32)  # As upstream names it.
  other = {**flat, "encoder/prompt/prompt/prompt": prompt}
  other["encoder/extra/kernel"] = other.pop("encoder/encoder_norm/scale")
  path = _write(kind, tmp_path, other)
  with pytest.raises(
    ValueError,
    match=r"3 differences\. encoder/encoder_norm/scale is not in the checkpoint"
    ".*; encoder/extra/kernel of the checkpoint is not in the model",
  ):
    tiny.restore(path)
  state, _ = tiny.restore(
    path,
    assignment_map=(
      (r"(target/encoder/prompt/prompt)", r"\1/prompt"),
      (r"target/encoder/encoder_norm/scale", r"target/encoder/extra/kernel"),
    ),
  )
  np.testing.assert_array_equal(
    state.trainable["encoder"]["prompt"]["prompt"], prompt
  )
  np.testing.assert_array_equal(
    state.frozen["encoder"]["encoder_norm"]["scale"],
    flat["encoder/encoder_norm/scale"],
  )


def test_part_that_is_missing_is_not_taken_for_zeros(tmp_path, flat):
  path = pathlib.Path(_write("gfile", tmp_path, flat))
  (path / "target.token_embedder.embedding" / "1.0").unlink()
  with pytest.raises(
    ValueError,
    match=r"target\.token_embedder\.embedding: cannot be read; copy the.*1\.0",
  ):
    tiny.restore(path)
  shutil.rmtree(path / "target.token_embedder.embedding")
  with pytest.raises(ValueError, match="cannot be opened; copy the checkpoint"):
    tiny.restore(path)
  # Another array than was announced.
  embedding = path / "target.token_embedder.embedding"
  shutil.copytree(path / "target.decoder.logits_dense.kernel", embedding)
  with pytest.raises(
    ValueError, match=r"expected shape \(384, 16\).*got \(16, 384\)"
  ):
    tiny.restore(path)


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"model_checkpoint_path: 'model.ckpt-1'", "checkpoint of Mesh TensorFlow"),
    (b"\x93NUMPY", "no msgpack file of T5X's"),
    (serialization.msgpack_serialize({"version": 2}), "format 2, expected 3"),
    (serialization.msgpack_serialize({"params": {}}), "no msgpack file of T5X"),
  ],
)
def test_other_formats_are_refused(tmp_path, content, message):
  folder = tmp_path / "checkpoint_5"
  folder.mkdir()
  (folder / "checkpoint").write_bytes(content)
  with pytest.raises(ValueError, match=message):
    checkpoints.open_checkpoint(str(folder))


def test_hugging_face_folder_is_told_the_way_out(tmp_path):
  (tmp_path / "config.json").write_text("{}")
  with pytest.raises(ValueError, match=r"prompt-tuning convert checkpoint"):
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


_READ_ON_TWO_HOSTS = """
import sys
import jax, numpy as np
address, index, path = sys.argv[1:]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(address, 2, int(index))
from t5x import checkpoints
mesh = jax.make_mesh((2,), ("model",))
sharding = jax.NamedSharding(mesh, jax.sharding.PartitionSpec("model"))
array = checkpoints.open_checkpoint(path).read({
  "token_embedder/embedding":
    jax.ShapeDtypeStruct((384, 16), np.float32, sharding=sharding)
})["token_embedder/embedding"]
shard, = array.addressable_shards
np.save(path + ".npy", shard.data)
"""


@pytest.mark.slow
def test_host_reads_its_shards_only(tmp_path, flat):
  """Each host finds but the chunks of its own: another would be an error."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
  folders = [
    pathlib.Path(_write("gfile", tmp_path / str(host), flat))
    for host in range(2)
  ]
  for host, folder in enumerate(folders):
    (folder / f"target.token_embedder.embedding/{1 - host}.0").unlink()
  processes = [
    subprocess.Popen(
      [sys.executable, "-c", _READ_ON_TWO_HOSTS, address, str(host), folder],
      stderr=subprocess.PIPE,
      text=True,
    )
    for host, folder in enumerate(folders)
  ]
  for process in processes:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
  halves = [np.load(f"{folder}.npy") for folder in folders]
  np.testing.assert_array_equal(np.concatenate(halves), flat[EMBEDDING])


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_base_model_is_refused_by_name(tmp_path, damage):
  params = {"a": {"kernel": np.ones((64, 64), np.float32)}}
  path = pathlib.Path(
    checkpoints.save_base_checkpoint(str(tmp_path), 7, params, {})
  )
  assert checkpoints.open_checkpoint(str(path)).step == 7
  files = [file for file in path.rglob("*") if file.is_file()]
  for file in files:
    content = file.read_bytes()
    DAMAGES[damage](file)
    if file.name == digests.NAME and damage == "deleted":
      # As T5X's own, it cannot be compared.
      assert checkpoints.open_checkpoint(str(path)).step == 7
    else:
      base_checkpoints._refuse_damage.cache_clear()
      with pytest.raises(ValueError, match="checkpoint_7 is damaged: "):
        checkpoints.open_checkpoint(str(path))
    file.write_bytes(content)
