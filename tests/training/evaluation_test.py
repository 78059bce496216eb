"""Tests of the SuperGLUE average, and of the prompts that are written."""

import dataclasses
import json
import types

import numpy as np
import pytest
import seqio

from prompt_tuning import prompt_files, prompts, tasks  # noqa: F401
from prompt_tuning.data import metrics, vocabulary
from prompt_tuning.injections import Injections
from prompt_tuning.methods import lora
from prompt_tuning.training import actions, evaluation

METRIC = ".*/(?!invalid).*"


def _action(tmp_path, **overrides):
  return actions.SaveBestPrompt(
    str(tmp_path), "task", METRIC, seqio.ByteVocabulary(), **overrides
  )


def _checkpointer(*others, metric=METRIC):
  """Returns a checkpointer that ranks evaluations but has no checkpoint."""
  return types.SimpleNamespace(
    metric=metric,
    metric_mode="max",
    trained={"encoder/prompt/prompt", *others},
    best=lambda evals: max(evals, key=lambda e: e["score"], default=None),
    read_trained=lambda step: None,
  )


def _written(monkeypatch, action, scores, evals=None):
  """Returns the steps whose prompts are written."""
  written = []
  monkeypatch.setattr(action, "save", lambda state: written.append(state.step))
  for step, score in enumerate(scores):
    if evals is not None:
      evals.append({"step": step, "metrics": {}, "score": score})
    metrics = {"task": {"f1": score, "invalid": 9.0}}
    assert action.run(types.SimpleNamespace(step=step), metrics) is False
  return written


def test_each_better_prompt_is_written(tmp_path, monkeypatch):
  """A prompt is written only if its score beats all earlier ones."""
  scores = [2.0, 1.0, 3.0, 3.0, 0.0]
  for mode, written in (("max", [0, 2]), ("min", [0, 1, 4])):
    action = _action(tmp_path, mode=mode)
    assert _written(monkeypatch, action, scores) == written


def test_another_metric_than_the_checkpointers_is_refused(tmp_path):
  for mode, metric in (("min", METRIC), ("max", ".*")):
    with pytest.raises(ValueError, match="to the same metric and mode"):
      _action(tmp_path, mode=mode).attach([], _checkpointer(metric=metric))


@pytest.mark.parametrize(
  ("metrics", "score"),
  [
    ({"f1": float("nan")}, "nan"),
    ({"f1": float("inf"), "accuracy": 50.0}, "inf"),
    ({"invalid": 0.0}, "None"),
  ],
)
def test_score_that_ranks_nothing_is_refused(tmp_path, metrics, score):
  """A score that is missing, NaN or infinite cannot rank prompts."""
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
  """No prompt is written if the run also trains or injects something else."""
  action, evals = _action(tmp_path, injections=method), []
  action.attach(evals, _checkpointer(*others))
  assert _written(monkeypatch, action, [2.0, 1.0, 3.0], evals) == written


def test_prompt_that_is_missing_is_missed_unless_another_parameter_trains(
  tmp_path,
):
  evals = [{"step": 50, "score": 80.0}]
  with pytest.raises(ValueError, match="is missing"):
    _action(tmp_path).attach(evals, _checkpointer())
  _action(tmp_path).attach(evals, _checkpointer("encoder/encoder_norm/scale"))


@pytest.mark.parametrize("step", [50, 150, 80])
def test_prompt_of_an_evaluation_that_is_done_again_is_kept(tmp_path, step):
  """A prompt that is the best, or newer than all evaluations, is kept."""
  action = _action(tmp_path)
  evals = [{"step": 50, "score": 80.0}, {"step": 100, "score": 70.0}]
  metadata = dataclasses.replace(
    action._metadata(prompt_files.UNKNOWN, step, "encoder/prompt/prompt"),
    score=90.0 if step == 150 else 80.0,
  )
  prompt_files.save_prompt(action._path, np.ones((2, 4), np.float32), metadata)
  if step == 80:
    with pytest.raises(ValueError, match="is not the best prompt"):
      action.attach(evals, _checkpointer())
  else:
    action.attach(evals, _checkpointer())


def _evaluate(name, folder):
  """Evaluates the same answer to ten examples of each task."""
  answer = vocabulary.of_model(seqio.ByteVocabulary()).encode("True")
  evaluator = evaluation.Evaluator(
    name,
    seqio.EncDecFeatureConverter(pack=False),
    num_examples=10,
    logger_cls=[seqio.JSONLogger],
    log_dir=str(folder),
  )
  computed, _ = evaluator.evaluate(
    compute_metrics=True,
    step=3,
    predict_fn=lambda rows: [(int(i), [*answer, 1]) for i, _ in rows],
  )
  evaluator.close()
  return computed


def test_average_of_the_eight_is_a_metric_of_the_mixture(tmp_path):
  # Neither Google's T5X nor seqio's JSON logger makes the folder.
  folder = tmp_path / "new" / "inference_eval"
  result = _evaluate("mini_super_glue", folder).result()
  average = result.pop("mini_super_glue")
  assert average == metrics.averages(result)
  assert 0 < average["super_glue_average"] < 100
  line = (folder / "mini_super_glue-metrics.jsonl").read_text()
  assert json.loads(line) == {"step": 3, **average}


def test_lengths_that_fit_and_missing_loggers_are_no_warnings(caplog):
  vocabulary.of_model(seqio.ByteVocabulary())
  converter = seqio.EncDecFeatureConverter(pack=False)
  of_seqio = seqio.Evaluator("mini_cb", converter)
  assert "'logger_cls' is empty" in caplog.text
  shapes = of_seqio.model_feature_shapes
  of_seqio.close()
  (inputs,), (targets,) = (
    shapes[x] for x in ("encoder_input_tokens", "decoder_target_tokens")
  )
  caplog.clear()
  for length in (inputs, inputs + 1):
    lengths = {"inputs": length, "targets": targets}
    evaluation.Evaluator("mini_cb", converter, sequence_length=lengths).close()
  assert not caplog.text


def test_there_is_no_average_of_less(tmp_path):
  assert set(_evaluate("mini_cb", tmp_path).result()) == {"mini_cb"}


def test_failure_reaches_who_waits(tmp_path, monkeypatch):
  def fail(metrics_by_task):
    raise ArithmeticError("no average")

  monkeypatch.setattr(metrics, "averages", fail)
  with pytest.raises(ArithmeticError, match="no average"):
    _evaluate("mini_cb", tmp_path)
