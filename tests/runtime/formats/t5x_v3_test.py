"""Checkpoints of format 3 that we write, read as T5X reads them."""

import pathlib

import ml_dtypes
import numpy as np
import pytest
import t5x_folders

from t5x import checkpoints
from t5x.formats import stored_arrays, t5x_v3

RNG = np.random.default_rng(0)
FLAT = {
  "token_embedder/embedding": RNG.normal(size=(40, 6)).astype(np.float32),
  "decoder/logits_dense/kernel": RNG.normal(size=(6, 40)).astype(
    ml_dtypes.bfloat16
  ),
  "encoder/encoder_norm/scale": RNG.normal(size=6).astype(np.float32),
  "encoder/zeros/kernel": np.zeros((3, 4), np.float16),
}


def _write(folder, flat, step=1_100_000):
  return t5x_v3.write_checkpoint(
    str(folder),
    step,
    {k: stored_arrays.in_memory(v) for k, v in flat.items()},
  )


@pytest.mark.parametrize("chunk_bytes", [2**26, 64])
def test_t5x_and_we_read_what_we_write(tmp_path, monkeypatch, chunk_bytes):
  monkeypatch.setattr(t5x_v3, "_CHUNK_BYTES", chunk_bytes)
  path = pathlib.Path(_write(tmp_path, FLAT))
  assert path.name == "checkpoint_1100000"
  step, read = t5x_folders.read_v3(path)
  assert step == 1_100_000
  t5x_folders.assert_same(read, FLAT)
  own = checkpoints.open_checkpoint(str(path))
  t5x_folders.assert_same(
    {k: stored_arrays.read(v) for k, v in own.arrays.items()}, FLAT
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
  _write(tmp_path, FLAT, step=5)
  with pytest.raises(ValueError, match="checkpoint_5 exists already"):
    _write(tmp_path, FLAT, step=5)
