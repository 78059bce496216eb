"""Which checkpoints of a run are kept."""

import os

import jax.numpy as jnp
import pytest
import tiny

from t5x import checkpoints, optimizers, train_state


def _state(step):
  return train_state.TrainState(
    {"prompt": jnp.full(2, float(step))},
    {},
    optimizers.OptimizerState(jnp.int32(step), ()),
    None,
  )


def _open(folder, **overrides):
  return checkpoints.SaveBestCheckpointer(
    **{
      "train_state": _state(0),
      "partitioner": tiny.make_partitioner(),
      "checkpoints_dir": str(folder),
      "metric_name_to_monitor": ".*/f1",
      **overrides,
    }
  )


def _save(checkpointer, evals):
  checkpointer.save_run(
    _state(evals[-1][0]),
    {"evals": [{"step": step, "score": score} for step, score in evals]},
  )
  checkpointer.wait()


def _kept(folder):
  return {int(name.removeprefix("checkpoint_")) for name in os.listdir(folder)}


@pytest.mark.parametrize(
  ("mode", "kept"), [("max", {20, 50}), ("min", {40, 50})]
)
def test_best_is_kept_when_the_run_was_stopped_meanwhile(tmp_path, mode, kept):
  evals = [(10, 50.0), (20, 90.0), (30, 60.0), (40, 40.0), (50, 70.0)]
  for begin, end in ((0, 3), (3, 5)):
    checkpointer = _open(tmp_path, metric_mode=mode)
    for i in range(begin, end):
      _save(checkpointer, evals[: i + 1])
    checkpointer.close()
  assert _kept(tmp_path) == kept


def test_of_equals_the_earlier_is_best(tmp_path):
  checkpointer = _open(tmp_path)
  _save(checkpointer, [(10, 50.0)])
  _save(checkpointer, [(10, 50.0), (20, 50.0)])
  _save(checkpointer, [(10, 50.0), (20, 50.0), (30, 40.0)])
  checkpointer.close()
  assert _kept(tmp_path) == {10, 30}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_score_that_chooses_nothing_is_refused(tmp_path, value):
  metrics = {"cb": {"accuracy": 1.0} if value is None else {"f1": value}}
  with pytest.raises(ValueError, match=r"'\.\*/f1' .*The metrics are cb/"):
    _open(tmp_path).score(metrics)
