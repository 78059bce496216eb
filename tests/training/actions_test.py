"""Which prompts are written; `runtime/train_test.py` trains with the action."""

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


class _Checkpointer:
  """Ranks evaluations as the one of a run does."""

  metric, metric_mode = ".*/(?!invalid).*", "max"

  def best(self, evals):
    return max(evals, key=lambda e: e["score"], default=None)


def _state(step, *trained):
  encoder = {name: {name: 0.0} for name in trained or ("prompt",)}
  return types.SimpleNamespace(step=step, trainable={"encoder": encoder})


def _written(monkeypatch, action, scores):
  """The steps whose prompts are written."""
  written = []
  monkeypatch.setattr(action, "save", lambda state: written.append(state.step))
  for step, score in enumerate(scores):
    metrics = {"task": {"f1": score, "invalid": 9.0}}
    assert action.run(_state(step), metrics) is False
  return written


@pytest.mark.parametrize(
  ("mode", "written"), [("max", [0, 2]), ("min", [0, 1, 4])]
)
def test_each_better_prompt_is_written(tmp_path, monkeypatch, mode, written):
  """A prompt that is as good as another is not better."""
  scores = [2.0, 1.0, 3.0, 3.0, 0.0]
  action = _action(tmp_path, mode=mode)
  assert _written(monkeypatch, action, scores) == written


def test_the_checkpointer_of_a_run_says_which_prompt_is_the_best(
  tmp_path, monkeypatch
):
  action, evals = _action(tmp_path), []
  action.attach(evals, _Checkpointer())
  written = []
  monkeypatch.setattr(action, "save", lambda state: written.append(state.step))
  for step, score in enumerate([2.0, 1.0, 3.0]):
    evals.append({"step": step, "metrics": {}, "score": score})
    action.run(_state(step), {})
  assert written == [0, 2]


@pytest.mark.parametrize("mode", ["max", "min"])
def test_another_metric_than_the_checkpointers_is_refused(tmp_path, mode):
  action = _action(tmp_path, mode=mode)
  checkpointer = _Checkpointer()
  checkpointer.metric = ".*" if mode == "max" else checkpointer.metric
  with pytest.raises(ValueError, match="to the same metric and mode"):
    action.attach([], checkpointer)


@pytest.mark.parametrize(
  ("metrics", "score"),
  [
    ({"f1": float("nan")}, "nan"),
    ({"f1": float("inf"), "accuracy": 50.0}, "inf"),
    ({"invalid": 0.0}, "None"),
  ],
)
def test_score_that_ranks_nothing_is_refused(tmp_path, metrics, score):
  """It would stay the best, or let a worse one in."""
  with pytest.raises(ValueError, match=f"make the score {score}"):
    _action(tmp_path).run(_state(1), {"task": metrics})


@pytest.mark.parametrize(
  ("trained", "written"), [(["prompt"], [1]), (["prompt", "norm"], [])]
)
def test_a_prompt_that_trains_alone_is_written(
  tmp_path, monkeypatch, trained, written
):
  action, saved = _action(tmp_path), []
  monkeypatch.setattr(action, "save", lambda state: saved.append(state.step))
  action.run(_state(1, *trained), {"task": {"f1": 1.0}})
  assert saved == written


def test_a_prompt_beside_another_method_is_not_written(tmp_path, monkeypatch):
  """A file would claim to be a prompt of the base model."""
  both = Injections(prompt=prompts.Prompt, delta=lora.LowRankDelta)
  action = _action(tmp_path, injections=both)
  assert _written(monkeypatch, action, [50.0]) == []
