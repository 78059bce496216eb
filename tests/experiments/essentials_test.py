"""Configurations of other wirings, and of other numbers."""

import pytest

from prompt_tuning.experiments import essentials
from t5x.run_configuration import RunConfiguration

# As prompt tuning was wired at first, and as it is since.
BEFORE = {
  "prompt_tuning.Injections.prompt": "@prompt_tuning.Prompt",
  "prompt_tuning.Prompt.length": "20",
  "prompt_tuning.matches_any.patterns": "['.*/prompt/.*']",
  "prompt_tuning.sampled_vocab.embeddings": "@prompt_tuning.token_embedding",
  "prompt_tuning.sampled_vocab.population_size": "5000",
  "t5x.RestoreCheckpointConfig.assignment_map": "(('^.*prompt.*$', None),)",
  "t5x.RestoreCheckpointConfig.mode": "'latest'",
  "t5x.RestoreCheckpointConfig.path": "'checkpoints/ladder_s/lm_100'",
}
SINCE = {
  "prompt/gin.singleton.constructor": "@prompt_tuning.prompt_factory",
  "prompt_tuning.Injections.prompt": "@prompt/gin.singleton()",
  "prompt_tuning.assignment_map.injections": "@prompt_tuning.Injections()",
  "prompt_tuning.checkpoint.path": (
    "'checkpoints/ladder_s/lm_100/checkpoint_2500'"
  ),
  "prompt_tuning.matches_any.patterns": "@prompt_tuning.parameter_patterns()",
  "prompt_tuning.most_frequent.at_most": "5000",
  "prompt_tuning.prompt_factory.length": "20",
  "prompt_tuning.sampled_vocab.embeddings": "@prompt_tuning.token_embedding()",
  "prompt_tuning.sampled_vocab.population_size": (
    "@prompt_tuning.most_frequent()"
  ),
  "t5x.RestoreCheckpointConfig.assignment_map": (
    "@prompt_tuning.assignment_map()"
  ),
  "t5x.RestoreCheckpointConfig.mode": "'specific'",
  "t5x.RestoreCheckpointConfig.path": "@prompt_tuning.checkpoint()",
}


def of(settings):
  return essentials.of(RunConfiguration("train", settings))


def test_other_wiring_is_the_same():
  assert of(BEFORE) == of(SINCE)
  assert of(BEFORE).hash == of(SINCE).hash


@pytest.mark.parametrize(
  ("name", "value"),
  [
    ("prompt_tuning.prompt_factory.length", "5"),
    ("prompt_tuning.prompt_factory.prefixes", "['a']"),
    ("prompt_tuning.matches_any.patterns", "['.*/query/.*']"),
    ("prompt_tuning.most_frequent.at_most", "260"),
    ("prompt_tuning.checkpoint.path", "'checkpoints/ladder_s/lm_50'"),
    ("prompt_tuning.checkpoint.path", "'runs/x/checkpoint_2500'"),
  ],
)
def test_other_values_are_not(name, value):
  assert of(BEFORE).differences(of(SINCE | {name: value}))


def test_where_a_method_goes_had_one_name():
  before = {"prompt_tuning.Injections.where": "'.*/query/delta'"}
  since = {"prompt_tuning.Injections.delta_targets": "'.*/query/delta'"}
  assert of(before) == of(since)


def test_macros_of_a_program_without_gin_stay():
  assert of({"SEED": "1"}).settings == {"SEED": "1"}
