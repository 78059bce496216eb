"""Tests of a run's identity and of settings that may change on resumption."""

import json

import pytest

from t5x import multihost
from t5x.configuration import identity
from t5x.configuration.identity import RunConfiguration
from t5x.configuration.resolution import Bindings

SETTINGS = {
  "train.model_dir": "here",
  "train.random_seed": 0,
  "train.eval_period": 50,
  "train/t5x.DatasetConfig.batch_size": 32,
}
BEGUN = RunConfiguration.from_settings("train", SETTINGS)


def changed(name, value=4):
  return RunConfiguration.from_settings("train", {**SETTINGS, name: value})


def test_hash_covers_program_and_settings_but_no_places():
  assert changed("train.model_dir", "there").hash == BEGUN.hash
  assert RunConfiguration.from_settings("eval", SETTINGS).hash != BEGUN.hash


@pytest.mark.parametrize(
  ("name", "is_measured"),
  [
    ("prompt_tuning.assignment_map.injections", False),
    ("t5x.RestoreCheckpointConfig.fallback_to_scratch", False),
    ("prompt_tuning.Evaluator.logger_cls", False),
    ("prompt_tuning.prompt_factory.length", True),
    ("SEED", True),  # A macro of a program that gin does not bind.
  ],
)
def test_wiring_that_changes_no_number_is_not_hashed(name, is_measured):
  now = changed(name)
  assert identity.is_measured(name) == (now.hash != BEGUN.hash) == is_measured
  # The setting is recorded, and a run does not resume with another value.
  with pytest.raises(ValueError, match=f"{name}: none -> 4"):
    identity.check_same_run(BEGUN, now, "folder")


@pytest.mark.parametrize(
  ("name", "may_change"),
  [
    ("train.eval_period", "always"),
    ("trainer.Trainer.num_microbatches", "always"),
    ("network.T5Config.scan_layers", "always"),
    ("prompt_tuning.checkpoint.path", "always"),
    ("train.random_seed", "never"),
    ("t5x.SaveBestCheckpointer.metric_name_to_monitor", "not evaluated"),
    ("prompt_tuning.SaveBestPrompt.metric", "not evaluated"),
    ("infer_eval/t5x.DatasetConfig.task_feature_lengths", "not evaluated"),
  ],
)
def test_resumed_run_may_change(name, may_change):
  for is_evaluated in (True, False):
    arguments = (BEGUN, changed(name), "folder", is_evaluated)
    if may_change in ("always", is_evaluated or "not evaluated"):
      (difference,) = identity.check_same_run(*arguments)
      assert (difference.name, difference.new) == (name, "4")
    else:
      with pytest.raises(ValueError, match=rf"folder has .* {name}: .* 4\. A"):
        identity.check_same_run(*arguments)


def test_settings_of_the_code_are_compared():
  settings = {x: y for x, y in BEGUN.settings.items() if "data_order" not in x}
  before = RunConfiguration("train", settings)
  assert before.hash != BEGUN.hash
  with pytest.raises(ValueError, match=r"code\.data_order: none -> .seqio's"):
    identity.check_same_run(before, BEGUN, "folder")


@pytest.mark.parametrize("damage", ["", "{}", "[]", "hash", "[" * 100_000])
def test_damaged_file_is_named(tmp_path, damage):
  path = tmp_path / "configuration.json"
  fields = json.loads(identity.dump(BEGUN, []))
  fields["settings"]["train.random_seed"] = "1"
  path.write_text(json.dumps(fields) if damage == "hash" else damage)
  with pytest.raises(ValueError, match=r"configuration\.json is not the"):
    identity.read(str(tmp_path))


def test_one_macro_is_one_difference():
  text = (
    "import __main__ as train_script\nfrom t5x import utils\n"
    "BATCH = {}\ntrain_script.train.a = @utils.f()\n"
    "train_script.train.batch = %BATCH\nutils.f.batch = %BATCH\n"
  )
  old, new = (
    RunConfiguration.from_bindings("train", Bindings(texts=[text.format(x)]))
    for x in (16, 32)
  )
  differences = old.differences(new)
  assert len(differences) == 2
  described = identity.describe(differences)
  assert described == "BATCH (t5x.f.batch): 16 -> 32"


@pytest.mark.parametrize(
  ("name", "folder", "message"),
  [
    ("train.random_seed", "here", "this one: train.random_seed: 4 -> 0"),
    ("train.eval_period", "here", "this one: train.eval_period: 4 -> 50"),
    ("t5x.RestoreCheckpointConfig.path", "here", None),
    ("train.model_dir", "there", "folder: there -> here"),
    ("train.model_dir", "here", None),
  ],
)
def test_processes_with_different_settings_are_refused(
  monkeypatch, name, folder, message
):
  first = {**changed(name).settings, "folder": folder}
  monkeypatch.setattr(multihost, "from_first_process", lambda _: first)
  if message is None:
    identity.check_same_everywhere(BEGUN, "here")
  else:
    with pytest.raises(ValueError, match=message):
      identity.check_same_everywhere(BEGUN, "here")


def test_process_refuses_if_only_another_one_differs(monkeypatch):
  identity.check_same_everywhere(None, "here")
  monkeypatch.setattr(multihost, "is_true_anywhere", lambda _: True)
  with pytest.raises(ValueError, match="no difference here"):
    identity.check_same_everywhere(BEGUN, "here")
