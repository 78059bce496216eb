"""Runs that end where they should not, and what the same command finds then."""

import contextlib
import dataclasses
import functools
import json
import shutil
import threading
import types

import jax
from jax.experimental import multihost_utils
import numpy as np
import pytest
import tiny

from prompt_tuning import prompt_files
from t5x import adafactor, checkpoints, trainer, utils
from t5x.files import run_lock
from t5x.runs import command_line, evaluation, events, records, resume

WHOLE_MODEL = adafactor.Adafactor()


def _record(folder):
  return json.loads((folder / "record.json").read_text())


class _Stop(trainer.BaseAction):
  """Does something at a step."""

  def __init__(self, step, error=None):
    self._step, self._error = step, error
    self.is_reached = False

  def run(self, train_state, metrics_by_task):
    if int(train_state.step) == self._step:
      self.is_reached = True
      if self._error:
        raise self._error
    return False


@pytest.mark.slow
def test_resumed_run_keeps_its_seeds_and_its_beginning(tmp_path, base):
  drawn = {
    "random_seed": None,
    "train_dataset_cfg": tiny.dataset_config(seed=None),
    "infer_eval_dataset_cfg": None,
    "stats_period": 1,
  }
  found = []
  for stops in (True, False):
    tiny.train(tmp_path, base, **drawn, should_stop=lambda x=stops: x)
    record = _record(tmp_path)
    found.append((record["seed"], record["data"]["shuffle_seed"]))
    if stops:
      record["started"] = "2026-01-01T00:00:00+00:00"
      (tmp_path / "record.json").write_text(json.dumps(record))
  assert found[0] == found[1]
  assert record["started"] == "2026-01-01T00:00:00+00:00"


class _Memory(trainer.BaseAction):
  """Knows how often it was, and would have been, called."""

  calls = 0

  def resume(self, history):
    assert all("loss" in x for metrics in history for x in metrics.values())
    self.calls += len(history)

  def run(self, train_state, metrics_by_task):
    self.calls += 1
    return False


@pytest.mark.slow
@pytest.mark.parametrize("decodes", [True, False])
def test_actions_know_what_they_saw_before_a_kill(tmp_path, base, decodes):
  """Also of an evaluation of the loss alone, which is done again."""
  settings = {"stats_period": 1}
  if not decodes:
    settings["infer_eval_dataset_cfg"] = None
  for last in (_Stop(12, KeyboardInterrupt()), _Stop(12)):
    train, evaluation = _Memory(), _Memory()
    actions = {"TRAIN": [train, last], "TRAIN_EVAL": [evaluation]}
    with contextlib.suppress(KeyboardInterrupt):
      tiny.train(tmp_path, base, **settings, actions=actions)
      break
    assert _record(tmp_path)["status"] == "interrupted"
  assert (train.calls, evaluation.calls) == (6, 2)
  # The evaluation that is done again is logged once.
  lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
  name = f"training_eval/{tiny.TASK}/loss"
  assert [line["step"] for line in lines if name in line] == [10, 13]


@pytest.mark.slow
def test_whole_model_goes_on_from_its_own_base_alone(tmp_path, base):
  other = tiny.save_base(tmp_path / "other", seed=1)
  moved = str(tmp_path / f"moved/checkpoint_{tiny.BASE_STEP}")
  shutil.copytree(base, moved)

  def train(path, steps):
    model = tiny.make_model(WHOLE_MODEL)
    return tiny.train(tmp_path / "run", path, model, relative_steps=steps)

  assert train(base, 3).step == tiny.BASE_STEP + 3
  assert train(moved, 4).step == tiny.BASE_STEP + 4
  with pytest.raises(ValueError, match="was trained on the base model"):
    train(other, 5)


class _NoCheckpoint:
  """A checkpointer that saved nothing at the best evaluations."""

  metric, metric_mode = ".*", "max"

  def __init__(self, latest=None):
    self._latest = latest

  def best(self, evals):
    return max(evals, key=lambda e: e["score"])

  def latest_step(self):
    return 100

  def read_trained(self, step):
    return (
      ({x: None for x in self._latest}, {})
      if (self._latest and step == 100)
      else None
    )


def test_no_prompt_is_missed_where_other_parameters_train(tmp_path):
  action = tiny.save_best_prompt(tmp_path)
  evals = [{"step": 50, "score": 80.0}]
  with pytest.raises(ValueError, match="is missing"):
    action.attach(evals, _NoCheckpoint(["encoder/prompt/prompt"]))
  trained = ["encoder/prompt/prompt", "encoder/encoder_norm/scale"]
  action.attach(evals, _NoCheckpoint(trained))


@pytest.mark.parametrize("step", [50, 150, 80])
def test_prompt_of_an_evaluation_that_is_done_again_is_kept(tmp_path, step):
  """It was better than those up to the last checkpoint, of step 100."""
  action = tiny.save_best_prompt(tmp_path)
  evals = [{"step": 50, "score": 80.0}, {"step": 100, "score": 70.0}]
  metadata = dataclasses.replace(
    action._metadata(prompt_files.UNKNOWN, step),
    score=90.0 if step == 150 else 80.0,
  )
  prompt_files.save_prompt(action._path, np.ones((2, 4), np.float32), metadata)
  if step == 80:
    with pytest.raises(ValueError, match="is not the best prompt"):
      action.attach(evals, _NoCheckpoint())
  else:
    action.attach(evals, _NoCheckpoint())


@pytest.mark.slow
@pytest.mark.parametrize(
  ("cls", "name"),
  [(trainer.Trainer, "eval"), (evaluation.InferenceEvaluator, "evaluate")],
)
def test_evaluation_that_is_interrupted_is_done_again(
  tmp_path, base, monkeypatch, cls, name
):
  is_evaluating = threading.Event()
  evaluate = getattr(cls, name)

  def noted(*args):
    is_evaluating.set()
    evaluate(*args)
    raise AssertionError("it came to its end")

  with monkeypatch.context() as patch:
    patch.setattr(cls, name, noted)
    outcome = tiny.train(tmp_path, base, should_stop=is_evaluating.is_set)
  assert (outcome.status, outcome.step) == ("interrupted", tiny.BASE_STEP + 3)
  assert _record(tmp_path)["status"] == "interrupted"
  assert _record(tmp_path)["evals"] == []
  assert (tmp_path / f"checkpoint_{tiny.BASE_STEP + 3}").is_dir()
  assert tiny.train(tmp_path, base).status == "finished"
  steps = [x["step"] - tiny.BASE_STEP for x in _record(tmp_path)["evals"]]
  assert steps == [3, 6]


@pytest.mark.slow
def test_evaluation_that_no_record_takes_fails_the_run(
  tmp_path, base, monkeypatch
):
  monkeypatch.setattr(
    "t5x.runs.evaluation.InferenceEvaluator.evaluate",
    lambda *_: {tiny.TASK: {"accuracy": float("nan")}},
  )
  plain = utils.CheckpointConfig(
    save=utils.SaveCheckpointConfig(
      period=3, checkpointer_cls=checkpoints.Checkpointer
    ),
    restore=tiny.restore_config(base),
  )
  with pytest.raises(ValueError, match="is not the record of a run"):
    tiny.train(tmp_path, base, checkpoint_cfg=plain)
  record = _record(tmp_path)
  assert record["status"] == "failed"
  assert "accuracy" in record["error"]
  assert record["evals"] == []


@pytest.mark.parametrize(
  ("error", "status"),
  [
    (KeyboardInterrupt(), "interrupted"),
    (events.CancelledError(), "interrupted"),
    (OSError("gone"), "failed"),
  ],
)
def test_record_says_how_a_run_ended(tmp_path, error, status):
  with (
    pytest.raises(type(error)),
    records.RunRecord(str(tmp_path), "eval"),
  ):
    raise error
  assert _record(tmp_path)["status"] == status


def test_record_of_a_folder_that_another_run_took_is_left_alone(tmp_path):
  """Whatever the run failed of."""
  with (
    run_lock.RunLock(str(tmp_path), "MODEL_DIR") as lock,
    contextlib.suppress(ValueError),
    records.RunRecord(str(tmp_path), "train", lock=lock),
  ):
    lock._note_loss("it was replaced")
    (tmp_path / "record.json").write_text("theirs")
    raise ValueError("it is gone")
  assert (tmp_path / "record.json").read_text() == "theirs"


@pytest.mark.slow
def test_run_whose_folder_another_took_changes_nothing_there(
  tmp_path, base, monkeypatch
):
  theirs = {x: tmp_path / x for x in ("record.json", "metrics.jsonl")}
  evaluate = evaluation.InferenceEvaluator.evaluate

  def taken(self, *args):
    result = evaluate(self, *args)
    for path in (tmp_path / "run.lock", *theirs.values()):
      path.write_text("theirs")
    return result

  monkeypatch.setattr(evaluation.InferenceEvaluator, "evaluate", taken)
  with pytest.raises(run_lock.LockLostError, match="taken by another run"):
    tiny.train(
      tmp_path, base, actions={"INFER_EVAL": [tiny.save_best_prompt(tmp_path)]}
    )
  assert {path.read_text() for path in theirs.values()} == {"theirs"}
  assert not (tmp_path / "prompt.safetensors").exists()


def test_several_processes_that_agreed_to_stop_stay_agreed(monkeypatch):
  """JAX says it for one call alone."""
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(
    multihost_utils, "reached_preemption_sync_point", lambda n: n == 2
  )
  signals = command_line.StopSignals()
  assert [signals.should_stop() for _ in range(4)] == [False, True, True, True]


def test_run_that_stopped_goes_on_if_the_checkpoint_of_its_end_is_lost(
  tmp_path,
):
  (tmp_path / "record.json").write_text('{"status": "stopped", "step": 300}')
  plan = types.SimpleNamespace(model_dir=str(tmp_path))
  for step, status in ((300, "stopped"), (200, None)):
    start = resume.Start(step, 0, None, None)
    found = resume.Settings(plan, [], []).status_if_over(start, 400, False)
    assert found == status


def test_base_model_stays_the_one_that_was_read(tmp_path):
  """Also if its folder has a newer checkpoint by the time that it is saved."""
  folder, params = str(tmp_path), {"x": np.ones(2, np.float32)}
  checkpoints.save_base_checkpoint(folder, 7, params, {})
  opened = checkpoints.open_checkpoint(folder)
  start = resume.Start(7, 7, opened, None)
  checkpoints.save_base_checkpoint(folder, 8, params, {})
  assert start.base_identity["path"] == str(tmp_path / "checkpoint_7")


def test_to_keep_no_best_checkpoint_is_refused(tmp_path):
  open_checkpointer = functools.partial(
    checkpoints.SaveBestCheckpointer,
    None,
    tiny.make_partitioner(),
    str(tmp_path),
    keep=0,
    metric_name_to_monitor=".*",
  )
  with pytest.raises(ValueError, match="at least 1 checkpoint, got 0"):
    open_checkpointer()
