"""Tests of the layout of a model's arrays, and of sharing them in memory."""

import jax
import numpy as np
import pytest
import seqio

import prompt_tuning as pt
from prompt_tuning.models.layers import TRANSPOSED
from t5x import checkpoints


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_second_process_maps_what_the_first_has_read(
  base, dtype, tmp_path, monkeypatch
):
  def load():
    model = pt.load(base, seqio.ByteVocabulary(), dtype=dtype)
    model.shared_folder = str(tmp_path)
    return model

  alone = pt.load(base, seqio.ByteVocabulary(), dtype=dtype).in_memory.params
  first = load().in_memory.params
  with monkeypatch.context() as patch:
    patch.setattr(checkpoints.BaseCheckpoint, "read", None)
    second = load().in_memory.params
  with open("/proc/self/maps") as file:
    mapped = [x.split()[-1] for x in file if str(tmp_path) in x]
  assert first.keys() == second.keys() == alone.keys()
  for name, array in alone.items():
    assert second[name].dtype == dtype
    for shared in (first[name], second[name]):
      np.testing.assert_array_equal(shared, array)
  # The arrays are the files' pages, not copies of them.
  assert len(mapped) == 2 * len(alone)
  replaced = load()
  replaced.fingerprint = "another"
  with pytest.raises(ValueError, match="restart the server"):
    replaced.in_memory  # noqa: B018


def test_kernels_of_bfloat16_lie_otherwise_and_mean_the_same(base, monkeypatch):
  def load():
    return pt.load(base, seqio.ByteVocabulary(), dtype="bfloat16")

  model, pairs = load(), [("a b", "c"), ("dd", "ef"), ("g", "")]
  scores, answers = model.log_likelihoods(pairs), model.generate(["a b", "dd"])
  with monkeypatch.context() as patch:
    patch.setattr(jax, "default_backend", lambda: "gpu")
    plain = load()
    kernels = plain.in_memory.params
  assert not any(TRANSPOSED in name for name in kernels)
  assert sum(TRANSPOSED in name for name in model.in_memory.params) == sum(
    name.endswith("/kernel") for name in kernels
  )
  np.testing.assert_allclose(plain.log_likelihoods(pairs), scores, atol=0.05)
  assert plain.generate(["a b", "dd"]) == answers
  # Training gets the arrays in the layout of checkpoints.
  targets = {
    name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
    for name, x in kernels.items()
  }
  for name, array in model.in_memory.read(targets).items():
    np.testing.assert_array_equal(array, kernels[name])
