"""The loop of a run, with stand-ins for the trainer, the disk and the rest."""

import contextlib
import dataclasses
import itertools
import types

import numpy as np
import pytest
import tensorflow as tf

from t5x.files import run_lock
from t5x.runs import events, loop, resume


class _Checkpointer:
  """Keeps the steps that are saved; on a full disk, no write ends."""

  def __init__(self, steps=(), is_full=False):
    self.steps, self._is_full = list(steps), is_full

  def all_steps(self):
    return self.steps

  def score(self, metrics):
    return None

  best = score

  def save_run(self, train_state, run_info):
    if not self._is_full:
      self.steps.append(int(train_state.step))

  def wait(self):
    if self._is_full:
      raise OSError("No space left on device")


class _Trainer:
  """Counts steps; its metrics are given."""

  train_state_axes = None

  def __init__(self, step, loss):
    self._loss = loss
    self.train_state = types.SimpleNamespace(
      step=step, trainable={"prompt": np.ones(2)}
    )

  def train_steps(self, batches, num_steps, on_step):
    for _ in range(num_steps):
      self.train_state.step += 1
      if on_step():
        break
    return {"loss": self._loss}

  def eval(self, batches, after_batch):
    after_batch(1)
    return {"task": {"loss": 1.0}}


class _Evaluator:
  """Takes as good a time as any to fail."""

  def __init__(self, error=None):
    self._error = error

  def evaluate(self, train_state, train_state_axes, after_batch):
    after_batch(1)
    if self._error:
      raise self._error
    return {"task": {"accuracy": 1.0}}


class _Noted:
  """Notes the calls of any method."""

  seconds = 0.0

  def __init__(self):
    self.calls = []

  def __getattr__(self, name):
    return lambda *args, **kwargs: self.calls.append(name)


def _loop(
  step=3,
  loss=1.0,
  checkpointer=None,
  evaluator=None,
  train_evals=(),
  actions=(),
  should_stop=events.never,
):
  """A loop at a step of 6; evaluates and saves after every third."""
  made = loop.Loop(
    plan=types.SimpleNamespace(
      save_cfg=types.SimpleNamespace(period=3),
      eval_period=3,
      stats_period=None,
      gc_period=0,
      run_eval_before_training=False,
      last_step=lambda first_step, step: 6,
      actions_after=lambda mode: list(actions),
      on_event=events.ignore,
      should_stop=should_stop,
    ),
    data=types.SimpleNamespace(
      batches=tf.data.Dataset.range(6),
      train_evals=dict.fromkeys(train_evals, tf.data.Dataset.range(1)),
      evaluator=evaluator,
    ),
    trainer=_Trainer(step, loss),
    checkpointer=checkpointer or _Checkpointer(),
    info=resume.RunInfo("task", 0, None, None, seed=0, shuffle_seed=0),
    lock=_Noted(),
  )
  made.record, made.log = _Noted(), _Noted()
  return made


@pytest.mark.parametrize(
  ("steps", "text"),
  [
    ([], r"finite\. No checkpoint was saved\."),
    ([1, 2], r"finite\. The last good checkpoint is that of step 2\."),
  ],
)
def test_nan_is_reported_where_a_save_failed_too(steps, text, caplog):
  checkpointer = _Checkpointer(steps, is_full=True)
  with pytest.raises(FloatingPointError, match=text):
    _loop(loss=float("nan"), checkpointer=checkpointer)._train()
  assert "could not be written: No space left" in caplog.text


@pytest.mark.parametrize("is_full", [False, True])
def test_steps_before_an_evaluation_that_fails_are_saved(is_full):
  """Its error is not hidden by that of the save."""
  run = _loop(
    checkpointer=_Checkpointer(is_full=is_full),
    evaluator=_Evaluator(ValueError("it is out of memory")),
  )
  with pytest.raises(ValueError, match="out of memory"):
    run.run()
  assert run.checkpointer.steps == ([] if is_full else [3])
  assert run.info.evals == []


def test_evaluation_that_no_record_takes_is_none_of_the_run():
  def refuse(**fields):
    raise ValueError("nan is not a number")

  run = _loop(evaluator=_Evaluator())
  run.record = types.SimpleNamespace(write=refuse, seconds=0.0)
  with pytest.raises(ValueError, match="nan is not"):
    run.run()
  assert run.info.evals == []


@pytest.mark.parametrize(
  "split", [{"train_evals": ["task"]}, {"evaluator": _Evaluator()}]
)
def test_evaluation_that_is_interrupted_is_done_again(split):
  run = _loop(**split, should_stop=lambda: True)
  assert run.run() == "interrupted"
  assert run.checkpointer.steps == [3]
  assert (run.info.evals, run.record.calls) == ([], [])


class _Action:
  """Notes the steps that it runs at."""

  def __init__(self):
    self.steps = []

  def run(self, train_state, metrics_by_task):
    self.steps.append(train_state.step)
    return False


def test_steps_that_an_interruption_cuts_in_two_are_acted_on_once():
  """A patience would run out twice as fast."""
  action = _Action()
  first = _loop(
    step=0, actions=[action], should_stop=itertools.count().__next__
  )
  assert first.run() == "interrupted"
  step = first.step
  assert 0 < step < 3
  assert _loop(step=step, actions=[action]).run() == "finished"
  assert action.steps == [3, 6]


@pytest.mark.parametrize("is_evaluated", [True, False])
def test_actions_forget_an_evaluation_that_is_done_again(is_evaluated):
  """One of the loss alone is."""
  steps = [{"step": 3}, {"step": 6}]
  info = resume.RunInfo("task", 0, None, None, seed=0, shuffle_seed=0)
  saved = dataclasses.asdict(info) | {
    "evals": steps if is_evaluated else [],
    "acted": {"TRAIN_EVAL": steps, "TRAIN": steps},
  }
  acted = info.resumed(saved, 6).acted
  assert acted["TRAIN"] == steps
  assert acted["TRAIN_EVAL"] == (steps if is_evaluated else steps[:1])


@pytest.mark.parametrize("lost_at", ["train", "train_eval", "infer_eval"])
def test_run_that_lost_its_folder_writes_nothing_more(lost_at):
  run = _loop(
    step=0 if lost_at == "train" else 3,
    evaluator=_Evaluator(),
    train_evals=["task"] if lost_at == "train_eval" else (),
  )

  def lost():
    raise run_lock.LockLostError

  run.lock = types.SimpleNamespace(check=lost)
  with contextlib.suppress(run_lock.LockLostError):
    run.run()
  assert (run.log.calls, run.record.calls) == ([], [])
  assert run.checkpointer.steps == []


def test_run_that_stopped_goes_on_if_the_checkpoint_of_its_end_is_lost():
  earlier = resume.Earlier(
    types.SimpleNamespace(model_dir="run", configuration=None),
    {"status": "stopped", "step": 300},
  )
  for step, is_stopped, ending in (
    (300, True, ("stopped", True)),
    (200, False, (None, False)),
  ):
    assert earlier.ending(step, is_stopped, 400, is_done=False) == ending
