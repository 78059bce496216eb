"""Tests of early stopping, of norms of weights, and of slow imports."""

import types

import jax
import numpy as np
import pytest
import started

from t5x import trainer

STATE = types.SimpleNamespace(step=3)


def _metrics(value):
  return {"task": {"accuracy": value}}


@pytest.mark.parametrize(
  ("mode", "values", "stops"),
  [
    ("max", [1.0, 2.0, 2.0, 1.0], [False, False, False, True]),
    ("max", [1.0, 1.0, 3.0, 3.0], [False, False, False, False]),
    ("min", [3.0, 2.0, 2.0, 2.5], [False, False, False, True]),
  ],
)
def test_early_stopping_waits_for_its_patience(mode, values, stops):
  """A restart before the last value makes no difference."""
  for before in (0, 3):
    action = trainer.EarlyStoppingAction(("task", "accuracy"), mode, patience=2)
    action.resume([_metrics(x) for x in values[:before]])
    found = [action.run(STATE, _metrics(x)) for x in values[before:]]
    assert found == stops[before:]


def test_early_stopping_refuses_what_it_cannot_watch():
  with pytest.raises(ValueError, match=r"Expected metric .* Expected mode"):
    trainer.EarlyStoppingAction("accuracy", "best")
  with pytest.raises(ValueError, match=r"expression, got 'task/\('"):
    trainer.EarlyStoppingAction(("task", "("), "max")
  action = trainer.EarlyStoppingAction(("task", "loss"), "min")
  with pytest.raises(ValueError, match="the metrics are task/accuracy"):
    action.run(STATE, _metrics(1.0))


def test_weight_metrics_are_norms():
  before = {"a": np.array([3.0, 0.0]), "b": np.array([[0.0]])}
  after = {"a": np.array([3.0, 0.0]), "b": np.array([[4.0]])}
  grads = {"a": np.array([0.0, 2.0]), "b": np.array([[0.0]])}
  metrics = jax.jit(trainer.WeightMetricsComputer().compute)(
    grads, before, after
  )
  assert {name: float(x) for name, x in metrics.items()} == {
    "weights/gradient_norm": 2.0,
    "weights/norm": 5.0,
    "weights/update_norm": 4.0,
  }


@pytest.mark.slow
def test_what_takes_seconds_to_import_is_imported_by_who_needs_it(tmp_path):
  program = """
import gc
import sys
import types
from t5x import by_length, trainer
from prompt_tuning.inference import ranking
from prompt_tuning.models.t5 import network
print(*sys.modules)
from prompt_tuning import load, tasks
from t5x import train
from t5x.runs import metric_log
metric_log.MetricLog(sys.argv[1], 0, []).close()
print(*sys.modules)
from tensorflow_text.python.keras import layers
print(layers.ToDense.__name__, gc.isenabled())
"""
  done = started.python("-c", program, tmp_path)
  by_step, by_run, there_all_the_same = done.stdout.splitlines()
  by_step, by_run = set(by_step.split()), set(by_run.split())
  assert "t5x.models" in by_step
  # These take 0.7 GB and seconds.
  assert not {"seqio", "tensorflow"} & by_step
  assert {"seqio", "tensorflow", "tensorboardX"} <= by_run
  assert not {"keras", "sklearn", "torch"} & by_run
  assert there_all_the_same == "ToDense True"
