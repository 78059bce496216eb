"""Tests of a run's loop, with stand-ins for everything else."""

import dataclasses
import itertools
import types
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
import tiny

from t5x import trainer
from t5x.files import run_lock
from t5x.runs import events, loop, resume


def _checkpointer(*steps, is_full=False):
  """Makes a stand-in that keeps saved steps, or fails as on a full disk."""
  made = mock.Mock(steps=list(steps))
  made.all_steps.return_value = made.steps
  made.score.return_value = None
  if is_full:
    made.wait.side_effect = OSError("No space left on device")
  else:
    made.save_run.side_effect = lambda state, _: made.steps.append(state.step)
  return made


def _evaluate(error=None):
  """Makes an evaluation, which fails after a batch if an error is given."""

  def evaluate(*arguments):
    *_, after_batch = arguments
    after_batch(1)
    if error:
      raise error
    return {"task": {"loss": 1.0}}

  return evaluate


def _evaluator(error=None):
  return types.SimpleNamespace(evaluate=_evaluate(error), counts={"task": 4})


def _trainer(step, loss, prompt):
  """Makes a stand-in that counts steps and returns the given loss."""
  state = types.SimpleNamespace(
    step=step, trainable={"prompt": np.array([1.0, prompt])}
  )

  def train_steps(batches, num_steps, on_step):
    for _ in range(num_steps):
      state.step += 1
      if on_step():
        break
    return {"loss": loss}

  return mock.Mock(train_state=state, train_steps=train_steps, eval=_evaluate())


def _loop(
  step=3,
  loss=1.0,
  prompt=1.0,
  checkpointer=None,
  evaluator=None,
  train_evals=(),
  action=None,
  should_stop=events.never,
):
  """Makes a loop of 6 steps that evaluates and saves at every third."""
  made = loop.Loop(
    plan=tiny.make_plan(
      "run",
      "base",
      actions={"TRAIN": [action] if action else []},
      should_stop=should_stop,
    ),
    data=types.SimpleNamespace(
      batches=tf.data.Dataset.range(6),
      train_evals=dict.fromkeys(train_evals, tf.data.Dataset.range(1)),
      evaluator=evaluator,
    ),
    trainer=_trainer(step, loss, prompt),
    checkpointer=checkpointer or _checkpointer(),
    info=resume.RunInfo("task", 0, None, None, seed=0, shuffle_seed=0),
    lock=mock.Mock(),
  )
  made.record, made.log = mock.Mock(seconds=0.0), mock.Mock()
  return made


@pytest.mark.parametrize(
  ("steps", "wrong", "text"),
  [
    ([], {"loss": np.nan}, r"is nan, .* are finite\. No checkpoint was saved"),
    # The update after the loss is not finite.
    ([1, 2], {"prompt": np.inf}, r"is 1\.0, .* not finite\. .* of step 2\."),
  ],
)
def test_nan_is_reported_where_a_save_failed_too(steps, wrong, text, caplog):
  run = _loop(step=0, **wrong, checkpointer=_checkpointer(*steps, is_full=True))
  with pytest.raises(FloatingPointError, match=text):
    run.run()
  assert "could not be written: No space left" in caplog.text
  assert run.checkpointer.steps == steps
  run.checkpointer.save_run.assert_not_called()


def test_garbage_is_collected_once_in_a_period():
  run = _loop(step=0)
  run.plan = dataclasses.replace(run.plan, gc_period=2)
  with mock.patch("gc.collect") as collect:
    run.run()
  assert collect.call_count == 3  # In six steps.


@pytest.mark.parametrize(
  ("is_full", "is_refused"), [(False, False), (True, False), (False, True)]
)
def test_steps_before_an_evaluation_that_fails_are_saved(is_full, is_refused):
  """The error of the evaluation or record is raised, not that of the save."""
  error = ValueError("it is out of memory, or nan")
  run = _loop(
    checkpointer=_checkpointer(is_full=is_full),
    evaluator=_evaluator(None if is_refused else error),
  )
  run.record.write.side_effect = error
  with pytest.raises(ValueError, match="out of memory"):
    run.run()
  assert run.checkpointer.steps == ([] if is_full else [3])
  assert run.info.evals == []


def test_process_that_fails_alone_waits_for_no_other(monkeypatch):
  """Saving would wait for the others, which wait for its evaluation."""
  monkeypatch.setattr("jax.process_count", lambda: 2)
  run = _loop(evaluator=_evaluator(ValueError("it fails alone")))
  with pytest.raises(ValueError, match="it fails alone"):
    run.run()
  assert run.checkpointer.method_calls == []


def test_run_that_resumes_does_not_count_as_stopped_any_more():
  """The run saves at once, as it may be killed before its next checkpoint."""
  run = _loop(step=2)
  run.info.is_stopped = True
  assert run.run() == "finished"
  assert run.checkpointer.steps == [2, 3, 6]
  saved = [x.args[1] for x in run.checkpointer.save_run.call_args_list]
  assert not any(info["is_stopped"] for info in saved)


@pytest.mark.parametrize(
  "split", [{"train_evals": ["task"]}, {"evaluator": _evaluator()}]
)
def test_evaluation_that_is_interrupted_is_done_again(split):
  run = _loop(**split, should_stop=lambda: True)
  assert run.run() == "interrupted"
  assert run.checkpointer.steps == [3]
  assert run.info.evals == run.record.method_calls == []


def test_steps_that_an_interruption_cuts_in_two_are_acted_on_once():
  """Otherwise, a patience would run out twice as fast."""
  steps = []

  class Action(trainer.BaseAction):
    def run(self, train_state, metrics_by_task):
      steps.append(train_state.step)

  action = Action()
  first = _loop(step=0, action=action, should_stop=itertools.count().__next__)
  assert first.run() == "interrupted"
  assert 0 < first.step < 3
  assert _loop(step=first.step, action=action).run() == "finished"
  assert steps == [3, 6]


@pytest.mark.parametrize("is_evaluated", [True, False])
def test_actions_forget_an_evaluation_that_is_done_again(is_evaluated):
  """An evaluation of the loss is done again if its metrics were not saved."""
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
    evaluator=_evaluator(),
    train_evals=["task"] if lost_at == "train_eval" else (),
  )
  run.lock.check.side_effect = run_lock.LockLostError
  with pytest.raises(run_lock.LockLostError):
    run.run()
  assert run.log.method_calls == run.record.method_calls == []
  assert run.checkpointer.steps == []


def test_run_that_stopped_goes_on_if_the_checkpoint_of_its_end_is_lost():
  earlier = resume.Earlier(
    types.SimpleNamespace(model_dir="run", configuration=None),
    {"status": "stopped", "step": 300},
  )
  assert earlier.ending(300, True, 400, is_done=False) == ("stopped", True)
  assert earlier.ending(200, False, 400, is_done=False) == (None, False)


@pytest.mark.parametrize("status", ["finished", "interrupted", "failed"])
def test_loss_of_the_last_step_is_computed_unless_the_record_has_the_end(
  status,
):
  """A run that a signal or failure ended at its last step evaluates it."""
  run = _loop(step=6, train_evals=["task"])
  run.trainer.eval = mock.Mock(return_value={"task": {"loss": 1.0}})
  earlier = resume.Earlier(
    types.SimpleNamespace(model_dir="run", configuration=None),
    {"status": status, "step": 6},
  )
  ending = earlier.ending(6, False, 6, run.is_done)
  assert ending == (
    ("finished", True) if status == "finished" else (None, False)
  )
  assert run.run() == "finished"
  run.trainer.eval.assert_called_once()
