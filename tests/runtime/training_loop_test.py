"""The loop of a run, between stand-ins for all that it moves."""

import dataclasses
import types

import numpy as np
import pytest

from t5x.runs import events, training_loop


class _FullDisk:
  """A checkpointer whose last write failed."""

  def __init__(self, steps):
    self._steps = steps

  def all_steps(self):
    return self._steps

  def save_run(self, train_state, run_info):
    """Only begins."""

  def wait(self):
    raise OSError("No space left on device")

  latest_step = wait


def _nothing(*args):
  pass


def _out_of_memory(*args):
  raise ValueError("it is out of memory")


def _loop(steps):
  """A loop at step 3 of 6, where an evaluation is due, on a full disk."""
  fields = dict.fromkeys(
    field.name for field in dataclasses.fields(training_loop.Loop) if field.init
  )
  return training_loop.Loop(
    **fields
    | {
      "trainer": types.SimpleNamespace(
        train_state=types.SimpleNamespace(trainable={"prompt": np.ones(2)}),
        train_steps=lambda *_: {"loss": float("nan")},
      ),
      "evaluator": types.SimpleNamespace(evaluate=_out_of_memory),
      "checkpointer": _FullDisk(steps),
      "record": types.SimpleNamespace(
        seconds=0.0, fields={"seed": 0, "data": {"shuffle_seed": 0}}
      ),
      "log": types.SimpleNamespace(write=_nothing),
      "lock": types.SimpleNamespace(check=_nothing),
      "step": 3,
      "first_step": 0,
      "last_step": 6,
      "eval_period": 3,
      "stats_period": 3,
      "save_period": 3,
      "on_event": events.ignore,
      "should_stop": events.never,
    }
  )


@pytest.mark.parametrize(
  ("steps", "text"),
  [
    ([], r"finite\. No checkpoint was saved\."),
    ([1, 2], r"finite\. The last good checkpoint is that of step 2\."),
  ],
)
def test_nan_is_told_of_where_a_save_failed_too(steps, text, caplog):
  with pytest.raises(FloatingPointError, match=text):
    _loop(steps)._train()
  assert "could not be written: No space left" in caplog.text


def test_error_of_an_evaluation_is_not_hidden_by_that_of_a_save():
  with pytest.raises(ValueError, match="out of memory"):
    _loop([]).run()
