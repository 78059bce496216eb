"""Tests of descriptions of one checkpoint and of comparisons of two."""

import ml_dtypes
import numpy as np
import pytest

from prompt_tuning.interop import checkpoint_inspection
from t5x.formats import base_checkpoints, stored_arrays


def _model(changes, path="a", step=7):
  arrays = {
    "encoder/layers_0/mlp/wo/kernel": np.ones((4, 3), np.float32),
    "encoder/encoder_norm/scale": np.full(3, 2, np.float32),
    **changes,
  }
  stored = {x: stored_arrays.in_memory(array) for x, array in arrays.items()}
  return base_checkpoints.BaseCheckpoint(path, path, step, stored)


def _lines(text):
  return [" ".join(line.split()) for line in text.splitlines() if line]


def test_describes_each_parameter():
  large = np.ones((1000, 300), ml_dtypes.bfloat16)
  model = _model({"a/kernel": large}, step=1_100_000)
  assert _lines(checkpoint_inspection.describe(model)) == [
    "parameter shape dtype bytes",
    "a/kernel [1000, 300] bfloat16 600,000",
    "encoder/encoder_norm/scale [3] float32 12",
    "encoder/layers_0/mlp/wo/kernel [4, 3] float32 48",
    "a: step 1,100,000, 3 arrays, 300,015 parameters, 0.6 MB, fingerprint "
    + model.fingerprint,
  ]


def test_every_kind_of_difference():
  kernel = np.ones((4, 3), np.float32)
  kernel[1, 2] = 3.0
  two = np.ones(2, np.float32)
  first = _model({"left/scale": two, "cast/scale": two, "cut/scale": two})
  changes = {
    "right/scale": two,
    "cast/scale": two.astype(ml_dtypes.bfloat16),
    "cut/scale": np.ones(3, np.float32),
    "encoder/layers_0/mlp/wo/kernel": kernel,
  }
  second = _model(changes, "b", 8)
  assert _lines(checkpoint_inspection.compare(first, second)) == [
    "step 7, then 8",
    "only in a: left/scale [2]",
    "only in b: right/scale [2]",
    "parameter shape, dtype largest relative values",
    "cast/scale [2] float32, then [2] bfloat16 0 0 0%",
    "cut/scale [2] float32, then [3] float32",
    # One of 12 values differs, by 2; the norm of all is the root of 12.
    "encoder/layers_0/mlp/wo/kernel [4, 3] float32 2 0.577 8.33%",
    "1 arrays are the same, 3 differ.",
  ]


@pytest.mark.parametrize("block", [2**23, 8])
def test_difference_counts_values_that_are_no_numbers(monkeypatch, block):
  monkeypatch.setattr(checkpoint_inspection, "_BLOCK", block)
  a, b = np.ones((5, 4)), np.ones((5, 4))

  def difference():
    stored = map(stored_arrays.in_memory, (a, b))
    return checkpoint_inspection.difference(*stored)

  a[0, 0] = b[0, 0] = np.nan
  assert difference() == (0.0, 0.0, 0.0)
  b[3, 3] = np.nan
  largest, _, share = difference()
  assert np.isnan(largest)
  assert share == 1 / 20
