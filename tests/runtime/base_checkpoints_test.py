"""Base models in the formats of Google's T5X, of which we write two."""

import os
import pathlib
import shutil
import subprocess
import sys

from damages import DAMAGES
from flax import serialization, traverse_util
import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
import started
import t5x_folders
import tiny

from prompt_tuning.inference import frozen_model
from t5x import checkpoints
from t5x.files import digests, storage
from t5x.formats import base_checkpoints, orbax, stored_arrays, t5x_v3

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
  frozen = traverse_util.flatten_dict(jax.device_get(state.frozen), sep="/")
  t5x_folders.assert_same(frozen, flat)
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


def test_prompt_may_be_read_from_another_name(tmp_path, flat):
  prompt = np.full((4, tiny.WIDTH), 2, np.float32)  # As upstream names it.
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


def _msgpack(**tree):
  return serialization.msgpack_serialize(tree)


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("checkpoint", b"model_checkpoint_path: 'm-1'", "of Mesh TensorFlow"),
    ("checkpoint", b"\x93NUMPY", "no msgpack file of T5X's"),
    ("checkpoint", _msgpack(version=2), "format 2, expected 3"),
    ("checkpoint", _msgpack(params={}), "no msgpack file of T5X"),
    ("", None, "not a base checkpoint: expected a T5X"),
    # Of Hugging Face.
    ("../config.json", b"{}", "prompt-tuning convert checkpoint"),
  ],
)
def test_other_formats_are_refused(tmp_path, name, content, message):
  folder = tmp_path / "checkpoint_5"
  folder.mkdir()
  if content is not None:
    (folder / name).write_bytes(content)
  if name.startswith(".."):
    folder.rmdir()
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
  address = started.free_address()
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
  read = traverse_util.flatten_dict(jax.device_get(state["target"]), sep="/")
  t5x_folders.assert_same(read, flat)


@pytest.mark.parametrize("is_flat", [False, True])
def test_every_layout_is_read_with_its_metadata(tmp_path, flat, is_flat):
  """The layout without an item is older."""
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
  t5x_folders.assert_same(
    {k: stored_arrays.read(x) for k, x in checkpoint.arrays.items()}, flat
  )


RNG = np.random.default_rng(0)
MANY_DTYPES = {
  "token_embedder/embedding": RNG.normal(size=(40, 6)).astype(np.float32),
  "decoder/logits_dense/kernel": RNG.normal(size=(6, 40)).astype(
    ml_dtypes.bfloat16
  ),
  "encoder/encoder_norm/scale": RNG.normal(size=6).astype(np.float32),
  "encoder/zeros/kernel": np.zeros((3, 4), np.float16),
}


def _write_v3(folder, flat, step=1_100_000):
  return t5x_v3.write_checkpoint(
    str(folder),
    step,
    {k: stored_arrays.in_memory(v) for k, v in flat.items()},
  )


@pytest.mark.parametrize("chunk_bytes", [2**26, 64])
def test_t5x_and_we_read_what_we_write_v3(tmp_path, monkeypatch, chunk_bytes):
  monkeypatch.setattr(t5x_v3, "_CHUNK_BYTES", chunk_bytes)
  path = pathlib.Path(_write_v3(tmp_path, MANY_DTYPES))
  assert path.name == "checkpoint_1100000"
  step, read = t5x_folders.read_v3(path)
  assert step == 1_100_000
  t5x_folders.assert_same(read, MANY_DTYPES)
  own = checkpoints.open_checkpoint(str(path))
  t5x_folders.assert_same(
    {k: stored_arrays.read(v) for k, v in own.arrays.items()}, MANY_DTYPES
  )
  assert own.step == step
  chunks = len(list((path / "target.token_embedder.embedding").glob("*.*")))
  assert chunks - 1 == {2**26: 1, 64: 20}[chunk_bytes]  # And .zarray.


def test_checkpoint_appears_when_it_is_whole(tmp_path):
  def full():
    raise OSError("disk full")

  dtype = np.dtype(np.float32)
  arrays = {"a/kernel": stored_arrays.StoredArray((2, 2), dtype, full)}
  with pytest.raises(OSError, match="disk full"):
    t5x_v3.write_checkpoint(str(tmp_path), 5, arrays)
  with pytest.raises(ValueError, match="No checkpoint_<step> in"):
    checkpoints.find_checkpoint(str(tmp_path))
  # What was begun is not in the way.
  _write_v3(tmp_path, MANY_DTYPES, step=5)
  with pytest.raises(ValueError, match="checkpoint_5 exists already"):
    _write_v3(tmp_path, MANY_DTYPES, step=5)
