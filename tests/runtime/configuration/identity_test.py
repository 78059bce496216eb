"""Which settings make a run, and with which it may go on."""

import json
import socket
import subprocess
import sys

import pytest

from t5x.configuration import run_configuration

SETTINGS = {
  "train.model_dir": "here",
  "train.random_seed": 0,
  "train.eval_period": 50,
  "train/t5x.DatasetConfig.batch_size": 32,
}


def configuration(**changed):
  settings = SETTINGS | {k.replace("__", "."): v for k, v in changed.items()}
  return run_configuration.of_settings("train", settings)


def test_hash_is_of_the_settings_without_places():
  assert configuration(train__model_dir="there").hash == configuration().hash
  assert configuration(train__random_seed=1).hash != configuration().hash
  other = run_configuration.of_settings("eval", SETTINGS)
  assert other.hash != configuration().hash


def test_going_on_with_another_setting_is_refused():
  with pytest.raises(
    ValueError, match=r"folder has .* train\.random_seed: 0 -> 1\. A resumed"
  ):
    run_configuration.check_same_run(
      configuration(),
      configuration(train__random_seed=1, train__eval_period=10),
      "folder",
    )


def test_going_on_with_another_period_is_not():
  (changed,) = run_configuration.check_same_run(
    configuration(), configuration(train__eval_period=10), "folder"
  )
  assert (changed.old, changed.new) == ("50", "10")


@pytest.mark.parametrize(
  "name", ["trainer.Trainer.num_microbatches", "network.T5Config.scan_layers"]
)
def test_going_on_in_other_parts_is_not(name):
  now = run_configuration.of_settings("train", {**SETTINGS, name: 4})
  assert run_configuration.check_same_run(configuration(), now, "folder")


def test_a_base_model_elsewhere_may_be_the_same():
  name = "prompt_tuning.checkpoint.path"
  before, now = (
    run_configuration.of_settings("train", {**SETTINGS, name: path})
    for path in ("base", "/mnt/base")
  )
  assert run_configuration.check_same_run(before, now, "folder")


@pytest.mark.parametrize(
  "name",
  [
    "t5x.SaveBestCheckpointer.metric_name_to_monitor",
    "prompt_tuning.SaveBestPrompt.metric",
    "infer_eval/t5x.DatasetConfig.task_feature_lengths",
  ],
)
def test_what_an_evaluation_failed_of_may_be_mended(name):
  now = run_configuration.of_settings("train", {**SETTINGS, name: 4})
  assert run_configuration.check_same_run(
    configuration(), now, "folder", is_evaluated=False
  )
  with pytest.raises(ValueError, match="has a run of other settings"):
    run_configuration.check_same_run(configuration(), now, "folder")


def test_settings_of_the_code_are_compared():
  now = configuration()
  settings = {x: y for x, y in now.settings.items() if x != "code.data_order"}
  before = run_configuration.RunConfiguration("train", settings)
  assert before.hash != now.hash
  with pytest.raises(ValueError, match=r"code\.data_order: none -> .seqio's"):
    run_configuration.check_same_run(before, now, "folder")


@pytest.mark.parametrize(
  ("name", "is_measured"),
  [
    ("prompt_tuning.assignment_map.injections", False),
    ("prompt_tuning.has_initialised.assignment_map", False),
    ("t5x.RestoreCheckpointConfig.assignment_map", False),
    ("t5x.RestoreCheckpointConfig.fallback_to_scratch", False),
    ("prompt_tuning.Evaluator.logger_cls", False),
    ("prompt_tuning.prompt_factory.length", True),
    ("SEED", True),  # A macro of a program that gin does not bind.
  ],
)
def test_wiring_that_changes_no_number_is_not_hashed(name, is_measured):
  now = run_configuration.of_settings("train", {**SETTINGS, name: 4})
  assert (now.hash != configuration().hash) == is_measured
  # It is recorded all the same, and a run does not go on with another.
  with pytest.raises(ValueError, match=name):
    run_configuration.check_same_run(configuration(), now, "folder")


def test_file_is_read_again(tmp_path):
  assert run_configuration.read(str(tmp_path)) is None
  changes = [{"step": 1, "name": "a", "old": None, "new": "1"}]
  text = run_configuration.dump(configuration(), changes)
  (tmp_path / "configuration.json").write_text(text)
  read = run_configuration.read(str(tmp_path))
  assert read == (configuration(), changes)


@pytest.mark.parametrize("damage", ["", "{}", "[]", "hash", "[" * 100_000])
def test_damaged_file_is_named(tmp_path, damage):
  path = tmp_path / "configuration.json"
  fields = json.loads(run_configuration.dump(configuration(), []))
  fields["settings"]["train.random_seed"] = "1"
  path.write_text(json.dumps(fields) if damage == "hash" else damage)
  with pytest.raises(ValueError, match=r"configuration\.json is damaged"):
    run_configuration.read(str(tmp_path))


def test_one_macro_is_one_difference():
  text = (
    "import __main__ as train_script\nfrom t5x import utils\n"
    "BATCH = {}\ntrain_script.train.a = @utils.f()\n"
    "train_script.train.batch = %BATCH\nutils.f.batch = %BATCH\n"
  )
  old, new = (
    run_configuration.of_gin("train", text.format(x)) for x in (16, 32)
  )
  assert len(old.differences(new)) == 2
  assert (
    run_configuration.describe(old.differences(new))
    == "BATCH (t5x.f.batch): 16 -> 32"
  )


_TOLD_IN_TWO_PROCESSES = """
import json, sys
import jax
address, index = sys.argv[1:]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(address, 2, int(index))
from t5x.configuration import run_configuration
told = [
  ({"train.random_seed": 0}, "runs/a"),
  ({"train.random_seed": index}, "runs/a"),
  ({"train.random_seed": 0, "RestoreCheckpointConfig.path": index}, "runs/a"),
  ({"train.random_seed": 0}, f"runs/{index}"),
]
said = []
for settings, folder in told:
  try:
    run_configuration.check_same_everywhere(
      run_configuration.of_settings("train", settings), folder
    )
    said.append(None)
  except ValueError as error:
    said.append(str(error))
print(json.dumps(said))
"""


@pytest.mark.slow
def test_all_processes_refuse_what_one_was_told_otherwise():
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
  processes = [
    subprocess.Popen(
      [sys.executable, "-c", _TOLD_IN_TWO_PROCESSES, address, str(index)],
      stdout=subprocess.PIPE,
      text=True,
    )
    for index in range(2)
  ]
  first, other = (
    json.loads(process.communicate(timeout=300)[0].splitlines()[-1])
    for process in processes
  )
  assert [x is None for x in first] == [True, False, True, False]
  assert [x is None for x in other] == [True, False, True, False]
  assert "no difference here" in first[1]
  assert "this one's: train.random_seed: '0' -> '1'." in other[1]
  assert "folder: runs/0 -> runs/1." in other[3]


def test_one_process_is_told_what_it_is_told():
  run_configuration.check_same_everywhere(configuration(), "here")
  run_configuration.check_same_everywhere(None, "here")
