"""Tests of metrics against reference values, and of the averages."""

import json

from glue_cases import CASES
import pytest
from superglue_reference import REFERENCE, ROWS

from prompt_tuning.data import metrics, task_rows


def evaluate(row, targets, predictions):
  if row.name == "record":  # JSON has no tuples, and groups are hashed.
    targets = [{**x, "group": tuple(x["group"])} for x in targets]
  return {
    name: value
    for metric_fn in row.metric_fns
    for name, value in metric_fn(targets, predictions).items()
  }


@pytest.mark.parametrize(
  "case", REFERENCE["metrics"] + CASES["metrics"], ids=lambda x: x["task"]
)
def test_values_equal_the_reference(case):
  row = (task_rows.ROWS | ROWS)[case["task"]]
  got = evaluate(row, case["targets"], case["predictions"])
  got.pop("invalid", None)
  assert got == pytest.approx(case["metrics"], rel=1e-12)


@pytest.mark.parametrize(
  ("name", "case"),
  [
    (name, case)
    for name, task in REFERENCE["tasks"].items()
    for case in task["evaluation"]
  ],
)
def test_evaluation_equals_the_reference(name, case):
  row = ROWS[name]
  outputs = [
    {**output, "targets_pretokenized": output["targets"]}
    for example in REFERENCE["tasks"][name]["examples"]
    for output in example["outputs"]
  ]
  postprocess = row.postprocess or (lambda text, example, is_target: text)
  targets, predictions = [], []
  for i in case["evaluated_outputs"]:
    example = outputs[i]
    targets.append(postprocess(example["targets"], example, True))
    predictions.append(postprocess(case["predictions"][i], example, False))
  assert json.loads(json.dumps(targets)) == case["targets_postprocessed"]
  assert predictions == case["predictions_postprocessed"]
  got = evaluate(row, targets, predictions)
  for metric, value in case["metrics"].items():
    assert got[metric] == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(("text", "expected"), REFERENCE["normalize_squad"])
def test_squad_normalisation_equals_the_reference(text, expected):
  assert metrics.normalize_squad(text) == expected


def test_invalid_counts_labels_and_multirc_values():
  assert metrics.invalid([0, 1, 1, 0], [-1, 1, 0, 0]) == {"invalid": 25.0}
  predictions = [{"value": -1}, {"value": 1}]
  assert metrics.invalid(predictions, predictions) == {"invalid": 50.0}


@pytest.mark.parametrize(
  ("metric_fn", "targets"),
  [
    (metrics.accuracy, [-1, 1]),
    (metrics.matthews_corrcoef, [-1, 1]),
    (metrics.mean_3class_f1, [-1, 1]),
    (metrics.macro_f1, [-1, 1]),
    (metrics.multirc, [{"value": x, "group": 0} for x in (-1, 1)]),
    (metrics.record, [{"value": x, "group": len(x)} for x in ([], ["a"])]),
    (metrics.squad, ["", "a"]),
    (metrics.qa, [[], ["a"]]),
    (metrics.pearson_corrcoef, [-1.0, 1.0]),
  ],
)
def test_hidden_labels_are_no_targets(metric_fn, targets):
  with pytest.raises(
    ValueError, match=r"1 of 2 examples .*: python -m t5x\.infer"
  ):
    metric_fn(targets, targets)


# The five-prompt average of table 3 in Lester et al.; its text says 90.5.
TABLE_3 = {
  "super_glue_boolq": {"accuracy": 91.1, "invalid": 3.0},
  "super_glue_cb": {"accuracy": 99.3, "mean_3class_f1": 99.0, "invalid": 0.0},
  "super_glue_copa": {"accuracy": 98.8},
  "super_glue_multirc": {"exact_match": 65.7, "f1": 88.7},
  "super_glue_record": {"em": 92.7, "f1": 93.4},
  "super_glue_rte": {"accuracy": 92.6},
  "super_glue_wic": {"accuracy": 76.2},
  "super_glue_wsc": {"accuracy": 95.8},
}


def test_super_glue_average_gives_the_papers_score():
  score = {"super_glue_average": pytest.approx(90.4875)}
  assert metrics.averages(TABLE_3) == score
  extended = {**TABLE_3, "dpr": {"accuracy": 1.0}, "super_glue_axb": {}}
  extended |= {"glue_rte": {"accuracy": 1.0}}
  assert metrics.averages(extended) == score
  prefixed = {
    name.replace("super_glue", "mini") + "_prefixed": values
    for name, values in TABLE_3.items()
  }
  assert metrics.averages(prefixed) == score
  twice = {**TABLE_3, "mini_cb": {"accuracy": 1.0}}
  for wrong in (dict([*TABLE_3.items()][:-1]), twice):
    assert metrics.averages(wrong) == {}


def test_glue_average_counts_mnli_once_and_wnli_never():
  scores = {
    "glue_cola": {"matthews_corrcoef": 50.0, "invalid": 7.0},
    "glue_sst2": {"accuracy": 90.0},
    "glue_mrpc": {"f1": 90.0, "accuracy": 80.0},
    "glue_stsb": {"pearson_corrcoef": 88.0, "spearman_corrcoef": 86.0},
    "glue_qqp": {"f1": 70.0, "accuracy": 90.0},
    "glue_mnli_matched": {"accuracy": 84.0},
    "glue_mnli_mismatched": {"accuracy": 82.0},
    "glue_qnli": {"accuracy": 91.0},
    "glue_rte": {"accuracy": 70.0},
  }
  mean = (50 + 90 + 85 + 87 + 80 + 83 + 91 + 70) / 8
  more = {"glue_wnli": {"accuracy": 1.0}, "glue_mnli": {}, "super_glue_cb": {}}
  for all_scores in (scores, {f"{x}_prefixed": y for x, y in scores.items()}):
    assert metrics.averages(all_scores | more) == {"glue_average": mean}
  del scores["glue_mnli_matched"]
  assert metrics.averages(scores) == {}


def test_axb_is_scored_by_matthews_correlation():
  for predictions, correlation in (
    ([0, 1, 1, 1], 100 / 3**0.5),
    # An answer that is not a label counts as the wrong one.
    ([0, -1, 1, 1], 100 / 3**0.5),
    ([-1, -1, -1, -1], -100.0),
  ):
    scores = evaluate(task_rows.BY_NAME["axb"], [0, 0, 1, 1], predictions)
    assert scores.pop("invalid") == 25 * predictions.count(-1)
    assert scores == {"matthews_corrcoef": pytest.approx(correlation)}


def test_macro_f1_is_the_mean_over_the_classes_that_are_asked_for():
  # Class 0: precision 1/2, recall 1; class 2: precision 1, recall 1/2.
  targets, predictions = [0, 2, 2], [0, 0, 2]
  expected = 100 * (2 / 3 + 2 / 3) / 2
  assert metrics.macro_f1(targets, predictions) == {
    "macro_f1": pytest.approx(expected)
  }
  # Answers that are not labels do not form another class.
  assert metrics.macro_f1([0, 1], [0, -1])["macro_f1"] == pytest.approx(50)


def test_squad_ignores_case_and_articles_unless_nothing_else_is_left():
  assert metrics.squad(["the Cat", "x y"], ["cat", "y z"]) == {
    "em": 50.0,
    "f1": pytest.approx(100 * (1 + 1 / 2) / 2),
  }
  for answer, prediction, score in (
    ("A", "a", 100),
    ("...", "...", 100),
    ("A", "the", 0),
    ("A", "", 0),
  ):
    assert metrics.squad([answer], [prediction]) == {"em": score, "f1": score}
    # ReCoRD keeps SQuAD's own rule.
    target = {"value": [answer], "group": 0}
    assert metrics.record([target], [{"value": prediction}])["f1"] == 0
