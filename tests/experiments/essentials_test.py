"""Configurations of other wirings, and of other numbers."""

from prompt_tuning.experiments import essentials
from t5x.configuration.run_configuration import RunConfiguration

BEFORE = {
  "prompt_tuning.prompt_factory.length": "20",
  "t5x.RestoreCheckpointConfig.assignment_map": "(('^.*prompt.*$', None),)",
  "t5x.RestoreCheckpointConfig.fallback_to_scratch": "True",
}
SINCE = {
  "prompt_tuning.assignment_map.injections": "@prompt_tuning.Injections()",
  "prompt_tuning.has_initialised.assignment_map": (
    "@prompt_tuning.assignment_map()"
  ),
  "prompt_tuning.prompt_factory.length": "20",
  "t5x.RestoreCheckpointConfig.assignment_map": (
    "@prompt_tuning.assignment_map()"
  ),
  "t5x.RestoreCheckpointConfig.fallback_to_scratch": (
    "@prompt_tuning.has_initialised()"
  ),
}


def of(settings):
  return essentials.of(RunConfiguration("train", settings))


def test_other_wiring_is_the_same():
  assert of(BEFORE) == of(SINCE)
  assert of(BEFORE).hash == of(SINCE).hash


def test_other_values_are_not():
  name = "prompt_tuning.prompt_factory.length"
  [difference] = of(BEFORE).differences(of(SINCE | {name: "5"}))
  assert difference.name == name


def test_macros_of_a_program_without_gin_stay():
  assert of({"SEED": "1"}).settings == {"SEED": "1"}
