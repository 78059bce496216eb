"""Runs that ended, well or not, and what the next one in the folder does."""

import contextlib
import functools
import json
import shutil
from unittest import mock

import jax
from jax.experimental import multihost_utils
import numpy as np
import pytest
import tiny

from t5x import adafactor, checkpoints, trainer
from t5x.configuration import identity
from t5x.runs import command_line, events, records, resume, run_data

SETTINGS = {
  "train.random_seed": 0,
  "train.relative_steps": 6,
  "train.eval_period": 3,
}


def told(**changed):
  settings = SETTINGS | {k.replace("__", "."): v for k, v in changed.items()}
  return identity.RunConfiguration.from_settings("train", settings)


@pytest.fixture
def finished(copy):
  """A run that is over, with its settings."""
  (copy / identity.FILE).write_text(identity.dump(told(), []))
  return copy


@pytest.mark.parametrize("status", ["finished", "interrupted", "running"])
def test_another_setting_is_refused(finished, base, status, caplog):
  record = tiny.record(finished)
  tiny.edit_record(finished, status=status)
  with pytest.raises(ValueError, match=r"other settings, .*_seed: 0 -> 1\."):
    tiny.train(finished, base, configuration=told(train__random_seed=1))
  assert identity.read(str(finished)) == (told(), [])
  # That of a killed run is corrected, whatever follows.
  left = "interrupted" if status == "running" else status
  assert tiny.record(finished) == record | {"status": left}
  assert ("its process is gone" in caplog.text) == (status == "running")


def test_run_that_saved_nothing_is_said_to_be_no_loss(finished, base, tmp_path):
  for name in ("record.json", "configuration.json"):
    shutil.copy(finished / name, tmp_path)
  other = told(train__random_seed=1)
  for folder, message in (
    (tmp_path, "you can delete the folder"),
    (finished, r"or choose another folder\.$"),
  ):
    plan = tiny.make_plan(folder, base, configuration=other)
    with pytest.raises(ValueError, match=message):
      resume.Earlier(plan, {})


def test_another_period_alone_is_not_the_run_that_is_over(finished, base):
  with pytest.raises(ValueError, match=r"is over, finished at step .* 3 -> 1"):
    tiny.train(finished, base, configuration=told(train__eval_period=1))


def test_fewer_steps_are_refused_before_anything_is_read(finished):
  with pytest.raises(ValueError, match="is to end at step 8, but"):
    tiny.train(
      finished,
      "no such base",
      relative_steps=1,
      configuration=told(train__relative_steps=1),
    )


@pytest.mark.parametrize(
  ("path", "microbatches", "message"),
  [
    ("nowhere", None, "No checkpoint at nowhere: expected"),
    (None, 0, "BATCH_SIZE=8, got 0"),
    (None, 3, "BATCH_SIZE=8, got 3"),
  ],
)
def test_mistakes_are_told_before_data_are_read(
  base, tmp_path, monkeypatch, path, microbatches, message
):
  monkeypatch.setattr(run_data, "read", None)
  trainer_cls = functools.partial(
    trainer.Trainer, learning_rate_fn=None, num_microbatches=microbatches
  )
  with pytest.raises(ValueError, match=message):
    tiny.train(tmp_path, path or base, trainer_cls=trainer_cls)
  assert list(tmp_path.iterdir()) == []


def test_more_steps_go_on_and_the_record_says_from_where(base, finished):
  longer = told(train__relative_steps=9)
  outcome = tiny.train(finished, base, configuration=longer, relative_steps=9)
  assert outcome.step == tiny.BASE_STEP + 9
  record = tiny.record(finished)
  name = "train.relative_steps"
  change = {"step": 13, "name": name, "old": "6", "new": "9"}
  assert record["changes"] == [change]
  assert record["configuration"]["hash"] == longer.hash
  assert identity.read(str(finished)) == (longer, [change])


@pytest.mark.slow
def test_killed_run_knows_its_seeds_its_beginning_and_its_actions(
  tmp_path, base
):
  """Also of an evaluation of the loss alone, which is done again."""

  def kill(event):
    if event.step == 12:
      raise KeyboardInterrupt

  seeds, start = [], "2026-01-01T00:00:00+00:00"
  for on_event, status in ((kill, "interrupted"), (events.ignore, "finished")):
    actions = {
      mode: mock.Mock(**{"run.return_value": False})
      for mode in ("TRAIN", "TRAIN_EVAL")
    }
    with contextlib.suppress(KeyboardInterrupt):
      tiny.train(
        tmp_path,
        base,
        random_seed=None,
        train_dataset_cfg=tiny.dataset_config(seed=None),
        infer_eval_dataset_cfg=None,
        stats_period=1,
        actions={mode: [action] for mode, action in actions.items()},
        on_event=on_event,
      )
    record = tiny.record(tmp_path)
    assert record["status"] == status
    seeds.append((record["seed"], record["data"]["shuffle_seed"]))
    if on_event is kill:
      tiny.edit_record(tmp_path, started=start)
  assert seeds[0] == seeds[1]
  assert record["started"] == start
  for mode, calls in (("TRAIN", 6), ("TRAIN_EVAL", 2)):
    (history,) = actions[mode].resume.call_args.args
    assert all("loss" in x for metrics in history for x in metrics.values())
    assert len(history) + actions[mode].run.call_count == calls
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
    model = tiny.make_model(adafactor.Adafactor())
    return tiny.train(tmp_path / "run", path, model, relative_steps=steps)

  assert train(base, 3).step == tiny.BASE_STEP + 3
  assert train(moved, 4).step == tiny.BASE_STEP + 4
  with pytest.raises(ValueError, match="was trained on the base model"):
    train(other, 5)


def test_record_says_how_a_run_ended(tmp_path):
  for error, status in (KeyboardInterrupt, "interrupted"), (OSError, "failed"):
    with pytest.raises(error), records.RunRecord(str(tmp_path), "eval"):
      raise error
    assert tiny.record(tmp_path)["status"] == status


def test_several_processes_that_agreed_to_stop_stay_agreed(monkeypatch):
  """JAX says it for one call alone."""
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(
    multihost_utils, "reached_preemption_sync_point", lambda n: n == 2
  )
  signals = command_line.StopSignals()
  assert [signals.should_stop() for _ in range(4)] == [False, True, True, True]


def test_base_model_stays_the_one_that_was_read(tmp_path):
  """Also if its folder has a newer checkpoint by the time that it is saved."""
  folder, params = str(tmp_path), {"x": np.ones(2, np.float32)}
  checkpoints.save_base_checkpoint(folder, 7, params, {})
  opened = checkpoints.open_checkpoint(folder)
  checkpoints.save_base_checkpoint(folder, 8, params, {})
  assert opened.found == str(tmp_path / "checkpoint_7")


def test_to_keep_no_best_checkpoint_is_refused(tmp_path):
  with pytest.raises(ValueError, match="at least 1 checkpoint, got 0"):
    checkpoints.SaveBestCheckpointer(
      None,
      tiny.make_partitioner(),
      str(tmp_path),
      keep=0,
      metric_name_to_monitor=".*",
    )
