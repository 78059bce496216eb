"""Pretraining: biases move faster, and what is kept is what was trained."""

import pathlib
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from prompt_tuning.commands import console
from prompt_tuning.experiments import launching
from prompt_tuning.mini.ladder import pretraining
from t5x import checkpoints

ROOT = pathlib.Path(__file__).parents[3]


def test_biases_move_ten_times_as_far():
  optimizer = pretraining.adam(0.01, steps=10, warmup_steps=1)
  params = {
    "encoder": {
      "relpos_bias": {"rel_embedding": jnp.zeros((2, 4))},
      "mlp": {"kernel": jnp.zeros((2, 4))},
    }
  }
  state = optimizer.init(params)
  gradients = jax.tree.map(lambda x: x + 0.1, params)
  for _ in range(2):  # The warm-up begins at 0.
    updates, state = optimizer.update(gradients, state, params)
  moved = updates["encoder"]
  np.testing.assert_allclose(moved["mlp"]["kernel"], -0.01, rtol=1e-3)
  np.testing.assert_allclose(
    moved["relpos_bias"]["rel_embedding"], -0.1, rtol=1e-3
  )


def test_keeps_the_checkpoints_at_10_50_and_100_percent(tmp_path):
  run, folder = tmp_path / "run", tmp_path / "ladder_xs"
  for step in range(20, 30):
    checkpoints.save_base_checkpoint(
      str(run), step, {"kernel": np.full((2, 3), step / 7, np.float32)}, {}
    )
  (run / "checkpoint_25.damaged").mkdir()  # It was set aside.
  written = list(pretraining.export(run, folder, "lm"))
  assert [path.relative_to(folder).as_posix() for path in written] == [
    "lm_10/checkpoint_20",
    "lm_50/checkpoint_24",
    "lm_100/checkpoint_29",
  ]
  # What lies in git names no machine.
  files = [path for path in folder.rglob("*") if path.is_file()]
  assert not [p for p in files if str(tmp_path).encode() in p.read_bytes()]
  base = checkpoints.open_checkpoint(str(folder / "lm_50"))
  assert base.step == 24
  assert base.metadata["name"] == "ladder_xs lm_50"
  assert base.arrays["kernel"].dtype == ml_dtypes.bfloat16
  # Without a checkpoint at each tenth there is nothing to keep.
  for step in range(20, 29):
    shutil.rmtree(run / f"checkpoint_{step}")
  with pytest.raises(ValueError, match="EVAL_PERIOD of a tenth"):
    list(pretraining.export(run, tmp_path / "kept", "lm"))


def test_what_was_run_elsewhere_is_passed_over_if_it_was_exported(
  tmp_path, monkeypatch, capsys
):
  """As in a fresh clone: records and checkpoints, and no runs."""
  for name in ("configs", "results/ladder"):
    shutil.copytree(ROOT / name, tmp_path / name)
  for name in ("span_corruption", "lm_10", "long_documents", "longer_lm"):
    (tmp_path / "checkpoints" / "ladder_xs" / name / "checkpoint_1").mkdir(
      parents=True
    )

  def launch(*arguments):
    pytest.fail("It would pretrain.")

  monkeypatch.setattr(launching, "run_cell", launch)
  assert console.main(["pretrain", "ladder_xs", f"--root={tmp_path}"]) == 0
  assert not capsys.readouterr().out
