"""Tests of runs that end too early and of the same command afterwards."""

import contextlib
import shutil

import jax
from jax.experimental import multihost_utils
import numpy as np
import pytest
import tiny

from t5x import adafactor, checkpoints, trainer
from t5x.files import run_lock
from t5x.runs import command_line, evaluation, events, records


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
    record = tiny.record(tmp_path)
    found.append((record["seed"], record["data"]["shuffle_seed"]))
    if stops:
      tiny.edit_record(tmp_path, started="2026-01-01T00:00:00+00:00")
  assert found[0] == found[1]
  assert record["started"] == "2026-01-01T00:00:00+00:00"


class _Memory(trainer.BaseAction):
  """An action that counts its calls, past ones too, and may end the run."""

  def __init__(self, error=None):
    self.calls, self._error = 0, error

  def resume(self, history):
    assert all("loss" in x for metrics in history for x in metrics.values())
    self.calls += len(history)

  def run(self, train_state, metrics_by_task):
    self.calls += 1
    if self._error and int(train_state.step) == 12:
      raise self._error
    return False


@pytest.mark.slow
def test_actions_know_what_they_saw_before_a_kill(tmp_path, base):
  """An evaluation of the loss that is done again counts once."""
  settings = {"stats_period": 1, "infer_eval_dataset_cfg": None}
  for error in (KeyboardInterrupt(), None):
    train, evaluation = _Memory(error), _Memory()
    actions = {"TRAIN": [train], "TRAIN_EVAL": [evaluation]}
    with contextlib.suppress(KeyboardInterrupt):
      tiny.train(tmp_path, base, **settings, actions=actions)
    status = "interrupted" if error else "finished"
    assert tiny.record(tmp_path)["status"] == status
  assert (train.calls, evaluation.calls) == (6, 2)
  # The evaluation that is done again is logged once.
  lines = tiny.lines(tmp_path / "metrics.jsonl")
  name = f"training_eval/{tiny.TASK}/loss"
  assert [line["step"] for line in lines if name in line] == [10, 13]


@pytest.mark.slow
def test_whole_model_goes_on_from_its_own_base_alone(tmp_path, base):
  other = tiny.save_base(tmp_path / "other", seed=1)
  moved = str(tmp_path / f"moved/checkpoint_{tiny.BASE_STEP}")
  shutil.copytree(base, moved)

  def train(path, steps):
    model = tiny.make_model(adafactor.Adafactor())
    return tiny.train(tmp_path / "run", path, model, relative_steps=steps)

  assert train(base, 3).step == tiny.BASE_STEP + 3
  assert train(moved, 4).step == tiny.BASE_STEP + 4
  with pytest.raises(ValueError, match="was trained on the base model"):
    train(other, 5)


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
  assert tiny.record(tmp_path)["status"] == status


def test_record_of_a_folder_that_another_run_took_is_left_alone(tmp_path):
  """Another error of the run does not make it write its record."""
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
    tiny.train_prompt(tmp_path, base)
  assert {path.read_text() for path in theirs.values()} == {"theirs"}
  assert not (tmp_path / "prompt.safetensors").exists()


def test_several_processes_that_agreed_to_stop_stay_agreed(monkeypatch):
  """JAX reports the agreement for one call only."""
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(
    multihost_utils, "reached_preemption_sync_point", lambda n: n == 2
  )
  signals = command_line.StopSignals()
  assert [signals.should_stop() for _ in range(4)] == [False, True, True, True]


def test_base_model_stays_the_one_that_was_read(tmp_path):
  """A newer checkpoint in the folder does not replace the opened one."""
  folder, params = str(tmp_path), {"x": np.ones(2, np.float32)}
  checkpoints.save_base_checkpoint(folder, 7, params, {})
  opened = checkpoints.open_checkpoint(folder)
  checkpoints.save_base_checkpoint(folder, 8, params, {})
  assert opened.found == str(tmp_path / "checkpoint_7")
