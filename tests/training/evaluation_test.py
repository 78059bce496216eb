"""The evaluator: the SuperGLUE average, and when metrics are computed."""

import json

import pytest
import seqio
import tensorflow as tf

from prompt_tuning.data import metrics
from prompt_tuning.training import evaluation

VOCABULARY = seqio.ByteVocabulary()
# The one answer is right in this many percent of the rows.
RIGHT = {
  name: 10.0 * i for i, name in enumerate((*metrics.SUPER_GLUE, "other"))
}


def _dataset(name):
  rights = int(RIGHT[name] / 10)
  targets = ["yes"] * rights + ["no"] * (10 - rights)
  return lambda split, shuffle_files=False, seed=None: (
    tf.data.Dataset.from_tensor_slices(
      {"inputs": ["a"] * len(targets), "targets": targets}
    )
  )


for _name in RIGHT:
  seqio.TaskRegistry.add(
    f"averaged_{_name}",
    seqio.FunctionDataSource(_dataset(_name), splits=["validation"]),
    preprocessors=[
      seqio.preprocessors.tokenize,
      seqio.preprocessors.append_eos,
    ],
    output_features={
      feature: seqio.Feature(VOCABULARY) for feature in ("inputs", "targets")
    },
    metric_fns=[metrics.accuracy],
  )
seqio.MixtureRegistry.add(
  "averaged", [f"averaged_{name}" for name in RIGHT], default_rate=1
)


def _evaluate(name, folder):
  evaluator = evaluation.Evaluator(
    name,
    seqio.EncDecFeatureConverter(pack=False),
    logger_cls=[seqio.JSONLogger],
    log_dir=str(folder),
  )
  answer = [*VOCABULARY.encode("yes"), 1]
  computed, _ = evaluator.evaluate(
    compute_metrics=True,
    step=3,
    predict_fn=lambda rows: [(int(i), answer) for i, _ in rows],
  )
  evaluator.close()
  return computed


def test_average_of_the_eight_is_a_metric_of_the_mixture(tmp_path):
  # Neither Google's T5X nor seqio's JSON logger makes the folder.
  folder = tmp_path / "new" / "inference_eval"
  result = _evaluate("averaged", folder).result()
  assert result["averaged_cb"] == {"accuracy": 10.0}
  assert result["averaged"] == {"super_glue_average": 35.0}
  line = (folder / "averaged-metrics.jsonl").read_text()
  assert json.loads(line) == {"step": 3, "super_glue_average": 35.0}


def test_there_is_no_average_of_less(tmp_path):
  assert set(_evaluate("averaged_cb", tmp_path).result()) == {"averaged_cb"}
  names = metrics.SUPER_GLUE[:7]
  assert not metrics.is_super_glue([f"averaged_{x}" for x in names])


def test_failure_reaches_who_waits(tmp_path, monkeypatch):
  def fail(metrics_by_task):
    raise ArithmeticError("no average")

  monkeypatch.setattr(metrics, "is_super_glue", fail)
  with pytest.raises(ArithmeticError, match="no average"):
    _evaluate("averaged_cb", tmp_path).result()
