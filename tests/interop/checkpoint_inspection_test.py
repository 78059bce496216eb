"""What is in a checkpoint, and where two of them differ."""

import ml_dtypes
import numpy as np
import pytest

from prompt_tuning.commands import console
from prompt_tuning.interop import checkpoint_inspection
from t5x.formats import base_checkpoints, stored_arrays, t5x_v3


def _model(path="a", step=7, **changes):
  arrays = {
    "encoder/layers_0/mlp/wo/kernel": np.ones((4, 3), np.float32),
    "encoder/encoder_norm/scale": np.full(3, 2, np.float32),
    **{name.replace("__", "/"): array for name, array in changes.items()},
  }
  return base_checkpoints.BaseCheckpoint(
    path,
    path,
    step,
    {
      name: stored_arrays.in_memory(array)
      for name, array in arrays.items()
      if array is not None
    },
  )


def _lines(text):
  return [" ".join(line.split()) for line in text.splitlines() if line]


def test_describes_each_parameter():
  model = _model(
    step=1_100_000, a__kernel=np.ones((1000, 300), ml_dtypes.bfloat16)
  )
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
  first = _model(
    left__scale=np.ones(2),
    cast__scale=np.ones(2, np.float32),
    cut__scale=np.ones(2),
  )
  second = _model(
    "b",
    8,
    right__scale=np.ones(2),
    cast__scale=np.ones(2, ml_dtypes.bfloat16),
    cut__scale=np.ones(3),
    encoder__layers_0__mlp__wo__kernel=kernel,
  )
  assert _lines(checkpoint_inspection.compare(first, second)) == [
    "step 7, then 8",
    "only in a: left/scale [2]",
    "only in b: right/scale [2]",
    "parameter shape, dtype largest relative values",
    "cast/scale [2] float32, then [2] bfloat16 0 0 0%",
    "cut/scale [2] float64, then [3] float64",
    # Of 12 values one, of norm 2; the norm of all is the root of 12.
    "encoder/layers_0/mlp/wo/kernel [4, 3] float32 2 0.577 8.33%",
    "1 arrays are the same, 3 differ.",
  ]


@pytest.mark.parametrize("block", [2**23, 8])
def test_difference_counts_values_that_are_no_numbers(monkeypatch, block):
  monkeypatch.setattr(checkpoint_inspection, "_BLOCK", block)
  a, b = np.ones((5, 4)), np.ones((5, 4))
  a[0, 0] = b[0, 0] = np.nan
  same = checkpoint_inspection.difference(
    stored_arrays.in_memory(a), stored_arrays.in_memory(b)
  )
  assert same == (0.0, 0.0, 0.0)
  b[3, 3] = np.nan
  largest, _, share = checkpoint_inspection.difference(
    stored_arrays.in_memory(a), stored_arrays.in_memory(b)
  )
  assert np.isnan(largest)
  assert share == 1 / 20


def test_command_line(tmp_path, monkeypatch, capsys):
  for name, model in (("a", _model()), ("b", _model(step=9))):
    t5x_v3.write_checkpoint(str(tmp_path / name), model.step, model.arrays)
  monkeypatch.chdir(tmp_path)

  def inspect(*words):
    status = console.main(["inspect", *words])
    return status, *capsys.readouterr()

  status, output, error = inspect("a")
  assert "a: step 7, 2 arrays, 15 parameters" in output
  assert (status, error) == (0, "")
  assert _lines(inspect("a", "b")[1]) == [
    "step 7, then 9",
    "2 arrays are the same, 0 differ.",
  ]
  status, _, error = inspect("nothing")
  assert status == 1
  assert error.startswith("Error: No checkpoint at nothing")
