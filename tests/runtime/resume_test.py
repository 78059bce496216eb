"""Tests that a run resumes in its folder only with its own settings."""

import dataclasses
import functools
import shutil

import pytest
import tiny

from t5x.configuration import identity
from t5x.runs import resume, run_data

STEPS = 3
SETTINGS = {
  "train.random_seed": 0,
  "train.relative_steps": STEPS,
  "train.eval_period": STEPS,
  "train/t5x.DatasetConfig.batch_size": 8,
  "train/t5x.DatasetConfig.task_feature_lengths": {"inputs": 8, "targets": 4},
  "t5x.create_learning_rate_scheduler.base_learning_rate": 0.3,
}


def told(**changed):
  settings = SETTINGS | {k.replace("__", "."): v for k, v in changed.items()}
  return identity.RunConfiguration.from_settings("train", settings)


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory):
  folder = tmp_path_factory.mktemp("runs") / "run"
  train(folder, base, told())
  return folder


def train(folder, base, configuration, steps=STEPS, **overrides):
  return tiny.train(
    folder,
    base,
    configuration=configuration,
    relative_steps=steps,
    eval_period=STEPS,
    **overrides,
  )


def test_same_settings_are_over_already_and_named(finished, base):
  assert tiny.record(finished)["configuration"]["hash"] == told().hash
  assert identity.read(str(finished)) == (told(), [])
  assert train(finished, base, told()).was_over


@pytest.mark.parametrize(
  ("name", "value"),
  [
    ("t5x.create_learning_rate_scheduler.base_learning_rate", 0.1),
    ("train.random_seed", 1),
    ("train/t5x.DatasetConfig.batch_size", 16),
    (
      "train/t5x.DatasetConfig.task_feature_lengths",
      {"inputs": 9, "targets": 4},
    ),
  ],
)
@pytest.mark.parametrize("status", ["finished", "interrupted", "running"])
def test_another_setting_is_refused(
  finished, base, status, name, value, caplog
):
  record = tiny.record(finished)
  tiny.edit_record(finished, status=status)
  with pytest.raises(ValueError, match="a run with other settings") as error:
    train(finished, base, told(**{name: value}))
  assert f"{name}: {SETTINGS[name]!r} -> {value!r}" in str(error.value)
  assert identity.read(str(finished)) == (told(), [])
  # The refusal still corrects the status of a killed run.
  left = "interrupted" if status == "running" else status
  assert tiny.record(finished) == record | {"status": left}
  assert ("its process is gone" in caplog.text) == (status == "running")
  tiny.edit_record(finished, **record)


def test_settings_that_are_damaged_can_be_removed(finished, base, tmp_path):
  run = shutil.copytree(finished, tmp_path / "run")
  (run / "configuration.json").write_text("{")
  with pytest.raises(ValueError, match="remove the file if the settings"):
    train(run, base, told())
  (run / "configuration.json").unlink()
  assert train(run, base, told()).was_over


def test_run_that_saved_nothing_is_taken_over(finished, base, tmp_path):
  for name in ("record.json", "configuration.json"):
    shutil.copy(finished / name, tmp_path)
  (tmp_path / "checkpoint_8.orbax-checkpoint-tmp-1").mkdir()
  other = told(train__random_seed=1)
  plan = tiny.make_plan(tmp_path, base, configuration=other)
  assert resume.Earlier(plan, tiny.record(tmp_path)).write_settings(5) == []
  assert identity.read(str(tmp_path)) == (other, [])
  plan = tiny.make_plan(finished, base, configuration=other)
  with pytest.raises(ValueError, match=r"or choose another folder\.$"):
    resume.Earlier(plan, {})


def test_another_period_alone_is_not_the_run_that_is_over(finished, base):
  with pytest.raises(ValueError, match=r"is over, finished at step .* 3 -> 1"):
    train(finished, base, told(train__eval_period=1))


def test_fewer_steps_are_refused_before_anything_is_read(finished):
  with pytest.raises(ValueError, match="should end at step 8, but"):
    train(finished, "no such base", told(train__relative_steps=1), 1)


@pytest.mark.parametrize("wrong", ["base", 0, 3])
def test_mistakes_are_told_before_data_are_read(
  base, tmp_path, monkeypatch, wrong
):
  def never(*args, **kwargs):
    raise AssertionError("data were read")

  monkeypatch.setattr(run_data, "read", never)
  if wrong == "base":
    with pytest.raises(ValueError, match="No checkpoint at nowhere: expected"):
      train(tmp_path, "nowhere", told())
    return
  # These microbatches do not divide the batch.
  arguments = tiny.train_arguments(tmp_path, base)
  trainer_cls = functools.partial(
    arguments["trainer_cls"], num_microbatches=wrong
  )
  with pytest.raises(ValueError, match=rf"BATCH_SIZE=\d+, got {wrong}\."):
    train(tmp_path, base, told(), trainer_cls=trainer_cls)
  assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_more_steps_go_on_and_the_record_says_from_where(
  base, finished, tmp_path
):
  shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
  longer = told(train__relative_steps=2 * STEPS)
  outcome = train(tmp_path, base, longer, 2 * STEPS)
  assert outcome.step == tiny.BASE_STEP + 2 * STEPS
  record = tiny.record(tmp_path)
  change = {
    "step": tiny.BASE_STEP + STEPS,
    "name": "train.relative_steps",
    "old": "3",
    "new": "6",
  }
  assert record["changes"] == [change]
  assert record["configuration"]["hash"] == longer.hash
  assert identity.read(str(tmp_path)) == (longer, [change])


def test_facts_that_older_checkpoints_lack_have_their_defaults():
  info = resume.RunInfo("task", 0, None, None, seed=0, shuffle_seed=0)
  resumed = info.resumed({"first_step": 5, "evals": []}, 9)
  assert resumed == dataclasses.replace(info, first_step=5)
