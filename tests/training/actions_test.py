"""Which evaluation is the best; `runtime/train_test.py` trains with it."""

import types

import pytest
import seqio

from prompt_tuning import prompts
from prompt_tuning.injections import Injections
from prompt_tuning.methods import lora
from prompt_tuning.training import actions


def _action(tmp_path, **overrides):
  return actions.SaveBestPrompt(
    str(tmp_path),
    "task",
    ".*/(?!invalid).*",
    seqio.ByteVocabulary(),
    **overrides,
  )


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_score_that_is_not_finite_is_refused(tmp_path, score):
  """It would stay the best, or let a worse one in."""
  action = _action(tmp_path)
  action.resume([{"task": {"f1": 50.0, "accuracy": 50.0}}])
  with pytest.raises(ValueError, match=f"got task/f1 = {score}"):
    action.run(None, {"task": {"f1": score, "accuracy": 50.0}})
  # What is worse than the first is not written, which needs a state.
  assert action.run(None, {"task": {"f1": 40.0, "accuracy": 40.0}}) is False


def test_a_prompt_beside_another_method_is_not_written(tmp_path):
  """A file would claim to be a prompt of the base model."""
  both = Injections(prompt=prompts.Prompt, delta=lora.LowRankDelta)
  action = actions.SaveBestPrompt(
    str(tmp_path), "task", ".*", seqio.ByteVocabulary(), both
  )
  # What is written needs a state.
  assert action.run(None, {"task": {"accuracy": 50.0}}) is False


def test_the_least_may_be_the_best(tmp_path):
  action = _action(tmp_path, mode="min")
  action.resume([{"task": {"loss": 2.0}}])
  # What is better is written, which needs a state.
  assert action.run(None, {"task": {"loss": 2.0}}) is False
  with pytest.raises(AttributeError):
    action.run(None, {"task": {"loss": 1.0}})
  checkpointer = types.SimpleNamespace(metric_mode="max")
  with pytest.raises(ValueError, match=r"SaveBestPrompt\.mode='max'"):
    action.check_files([], checkpointer)


def test_metric_that_is_not_there_is_refused(tmp_path):
  with pytest.raises(ValueError, match=r"matches none of .*task/invalid"):
    _action(tmp_path).run(None, {"task": {"invalid": 0.0}})
