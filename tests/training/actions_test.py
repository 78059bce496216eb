"""Which prompts are written; `runtime/train_test.py` trains with the action."""

import dataclasses
import types

import numpy as np
import pytest
import seqio

from prompt_tuning import prompt_files, prompts
from prompt_tuning.injections import Injections
from prompt_tuning.methods import lora
from prompt_tuning.training import actions

METRIC = ".*/(?!invalid).*"


def _action(tmp_path, **overrides):
  return actions.SaveBestPrompt(
    str(tmp_path), "task", METRIC, seqio.ByteVocabulary(), **overrides
  )


class _Checkpointer:
  """Ranks evaluations, and has no checkpoint of the best."""

  metric, metric_mode = METRIC, "max"

  def __init__(self, *others):
    self.trained = {"encoder/prompt/prompt", *others}

  def best(self, evals):
    return max(evals, key=lambda e: e["score"], default=None)

  def read_trained(self, step):
    return None


def _written(monkeypatch, action, scores, evals=None):
  """The steps whose prompts are written."""
  written = []
  monkeypatch.setattr(action, "save", lambda state: written.append(state.step))
  for step, score in enumerate(scores):
    if evals is not None:
      evals.append({"step": step, "metrics": {}, "score": score})
    metrics = {"task": {"f1": score, "invalid": 9.0}}
    assert action.run(types.SimpleNamespace(step=step), metrics) is False
  return written


@pytest.mark.parametrize(
  ("mode", "written"), [("max", [0, 2]), ("min", [0, 1, 4])]
)
def test_each_better_prompt_is_written(tmp_path, monkeypatch, mode, written):
  """A prompt that is as good as another is not better."""
  scores = [2.0, 1.0, 3.0, 3.0, 0.0]
  action = _action(tmp_path, mode=mode)
  assert _written(monkeypatch, action, scores) == written


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
    _action(tmp_path).run(types.SimpleNamespace(step=1), {"task": metrics})


@pytest.mark.parametrize(
  ("others", "method", "written"),
  [
    ([], None, [0, 2]),
    (["encoder/encoder_norm/scale"], None, []),
    ([], Injections(prompt=prompts.Prompt, delta=lora.LowRankDelta), []),
  ],
)
def test_the_checkpointers_best_is_written_if_it_is_a_prompt_alone(
  tmp_path, monkeypatch, others, method, written
):
  """Another file would claim to be a prompt of the base model."""
  action, evals = _action(tmp_path, injections=method), []
  action.attach(evals, _Checkpointer(*others))
  assert _written(monkeypatch, action, [2.0, 1.0, 3.0], evals) == written


def test_no_prompt_is_missed_where_other_parameters_train(tmp_path):
  action = _action(tmp_path)
  evals = [{"step": 50, "score": 80.0}]
  with pytest.raises(ValueError, match="is missing"):
    action.attach(evals, _Checkpointer())
  action.attach(evals, _Checkpointer("encoder/encoder_norm/scale"))


@pytest.mark.parametrize("step", [50, 150, 80])
def test_prompt_of_an_evaluation_that_is_done_again_is_kept(tmp_path, step):
  """It was better than those up to the last checkpoint, of step 100."""
  action = _action(tmp_path)
  evals = [{"step": 50, "score": 80.0}, {"step": 100, "score": 70.0}]
  metadata = dataclasses.replace(
    action._metadata(prompt_files.UNKNOWN, step),
    score=90.0 if step == 150 else 80.0,
  )
  prompt_files.save_prompt(action._path, np.ones((2, 4), np.float32), metadata)
  if step == 80:
    with pytest.raises(ValueError, match="is not the best prompt"):
      action.attach(evals, _Checkpointer())
  else:
    action.attach(evals, _Checkpointer())
