"""The metrics of SuperGLUE, GLUE and SQuAD, in percent.

Metric functions in seqio's form: `(targets, predictions) -> {name: value}`,
over the results of `postprocessors`.
"""

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence
import re
import statistics
import string
from typing import Any

import numpy as np

from prompt_tuning.data.postprocessors import INVALID
from prompt_tuning.data.task_names import GLUE, SUPER_GLUE

# Results of `postprocessors`: class indices, texts, or dictionaries.
Values = Sequence[Any]
Scores = dict[str, float]
ScoresByTask = Mapping[str, Mapping[str, float]]


def accuracy(targets: Values, predictions: Values) -> Scores:
  _check_labelled(targets)
  right = [x == y for x, y in zip(targets, predictions, strict=True)]
  return {"accuracy": 100 * float(np.mean(right))}


def matthews_corrcoef(targets: Values, predictions: Values) -> Scores:
  """Computes CoLA's correlation, in [-100, 100]; INVALID is a third class.

  It is 0 if all predictions are the same class.
  """
  import sklearn.metrics  # As in `_f1`.

  _check_labelled(targets)
  correlation = sklearn.metrics.matthews_corrcoef(targets, predictions)
  return {"matthews_corrcoef": 100 * float(correlation)}


def axb(targets: Values, predictions: Values) -> Scores:
  """Computes AX-b's correlation: an INVALID prediction is the wrong class."""
  return matthews_corrcoef(targets, _of_two_classes(targets, predictions))


def pearson_corrcoef(targets: Values, predictions: Values) -> Scores:
  """Computes the linear correlation, in [-100, 100]."""
  return {"pearson_corrcoef": _correlation("pearsonr", targets, predictions)}


def spearman_corrcoef(targets: Values, predictions: Values) -> Scores:
  """Computes the correlation of the ranks, in [-100, 100]."""
  return {"spearman_corrcoef": _correlation("spearmanr", targets, predictions)}


def _correlation(name: str, targets: Values, predictions: Values) -> float:
  """Calls a function of `scipy.stats`; 0 where a side is constant."""
  import scipy.stats  # As in `_f1`.

  _check_labelled(targets)
  if min(len(set(targets)), len(set(predictions))) < 2:
    return 0.0  # It is undefined, which a checkpoint could not be chosen by.
  return 100 * float(getattr(scipy.stats, name)(targets, predictions)[0])


def f1(targets: Values, predictions: Values) -> Scores:
  """Computes the F1 of class 1: MRPC's and QQP's."""
  return {"f1": _f1(targets, _of_two_classes(targets, predictions))}


def mean_3class_f1(targets: Values, predictions: Values) -> Scores:
  """Computes CommitmentBank's F1: the mean over its three classes."""
  f1 = _f1(targets, predictions, labels=range(3), average="macro")
  return {"mean_3class_f1": f1}


def macro_f1(targets: Values, predictions: Values) -> Scores:
  """Computes the mean F1 of the classes that occur as targets."""
  labels = sorted(set(targets))
  return {"macro_f1": _f1(targets, predictions, labels=labels, average="macro")}


def _f1(targets: Values, predictions: Values, **options: Any) -> float:
  # Importing it takes a second, which would delay a run's first step.
  import sklearn.metrics

  _check_labelled(targets)
  return 100 * sklearn.metrics.f1_score(
    targets,
    predictions,
    zero_division=0,  # pyright: ignore[reportArgumentType]
    **options,
  )


def invalid(targets: Values, predictions: Values) -> Scores:
  """Measures the share of predictions that are not a legal answer.

  They count as wrong in the other metrics too.
  """
  del targets
  wrong = [_value(prediction) == INVALID for prediction in predictions]
  return {"invalid": 100 * float(np.mean(wrong))}


def multirc(targets: Values, predictions: Values) -> Scores:
  """Computes F1 over all answers, and the share of fully right questions."""
  _check_labelled(targets)
  right = [_value(target) for target in targets]
  predicted = _of_two_classes(right, [_value(x) for x in predictions])
  by_question = collections.defaultdict(list)
  for target, prediction in zip(targets, predicted, strict=True):
    by_question[target["group"]].append(target["value"] == prediction)
  exact_match = np.mean([all(answers) for answers in by_question.values()])
  f1 = _f1(right, predicted)
  return {"f1": f1, "exact_match": 100 * float(exact_match)}


def record(targets: Values, predictions: Values) -> Scores:
  """Computes SQuAD's exact match and F1, each the best over a query's answers.

  A query with several answers has several examples; only the first one counts.
  """
  _check_labelled(targets)
  by_query = {}
  for target, prediction in zip(targets, predictions, strict=True):
    by_query.setdefault(target["group"], (target["value"], prediction["value"]))
  return _best_of_answers(by_query.values())


def qa(targets: Values, predictions: Values) -> Scores:
  """Computes SQuAD's exact match and F1, each the best over the answers."""
  _check_labelled(targets)
  return _best_of_answers(zip(targets, predictions, strict=True))


def squad(targets: Values, predictions: Values) -> Scores:
  """Computes SQuAD's exact match and F1 of texts with one right answer each.

  Unlike in SQuAD, an answer may consist of articles and punctuation: "A".
  """
  _check_labelled(targets)
  return _best_of_answers(
    (([x], y) for x, y in zip(targets, predictions, strict=True)),
    lambda x: normalize_squad(x) or x.lower().strip(),
  )


def score(metrics_by_task: ScoresByTask, pattern: str) -> float | None:
  """Reduces an evaluation to the number by which prompts are compared.

  The same as `t5x.metrics.monitored` in runtime/, which Google's T5X lacks.

  Args:
    metrics_by_task: Task name -> metric name -> value.
    pattern: Regular expression that `task/metric` must match in full.

  Returns:
    The mean over tasks of the mean over matching metrics (section 3 of the
    paper), or None if nothing matches.
  """
  found = (
    [x for k, x in metrics.items() if re.fullmatch(pattern, f"{task}/{k}")]
    for task, metrics in metrics_by_task.items()
  )
  means = [statistics.fmean(values) for values in found if values]
  return statistics.fmean(means) if means else None


def averages(metrics_by_task: ScoresByTask) -> Scores:
  """Computes the score of each benchmark: the mean of its tasks' means.

  MNLI's two validation sets are one task of GLUE, whose average leaves out
  WNLI as T5's does.

  Args:
    metrics_by_task: Task name, such as "super_glue_cb", "mini_wic_prefixed" or
      "glue_cola" -> metric name -> percent. Other tasks, and the metric
      "invalid", are ignored.

  Returns:
    "super_glue_average" and "glue_average", each only if every task of the
    benchmark occurs exactly once.
  """
  found: Scores = {}
  for name, tasks, prefix in (
    ("super_glue_average", SUPER_GLUE, r"(?!glue_)(?:.*_)?"),
    ("glue_average", GLUE, "glue_"),
  ):
    pattern = rf"{prefix}({'|'.join(tasks)})(?:_prefixed)?"
    matches = {task: re.fullmatch(pattern, task) for task in metrics_by_task}
    names = [match[1] for match in matches.values() if match]
    if sorted(names) != sorted(tasks):
      continue
    means = collections.defaultdict(list)
    for task, match in matches.items():
      if match:
        values = metrics_by_task[task].items()
        mean = np.mean([v for metric, v in values if metric != "invalid"])
        means[match[1].split("_")[0]].append(mean)
    found[name] = float(np.mean([np.mean(x) for x in means.values()]))
  return found


def normalize_squad(text: str) -> str:
  """Lower case, without punctuation, articles and superfluous spaces."""
  text = text.lower().translate(str.maketrans("", "", string.punctuation))
  return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _best_of_answers(
  answered: Iterable[tuple[Sequence[str], str]],
  normalize: Callable[[str], str] = normalize_squad,
) -> Scores:
  """SQuAD's scores of pairs of right answers and a prediction."""
  scores = [
    np.max([_squad(x, prediction, normalize) for x in answers], axis=0)
    for answers, prediction in answered
  ]
  exact_match, f1 = np.mean(scores, axis=0).tolist()
  return {"em": 100 * exact_match, "f1": 100 * f1}


def _squad(
  answer: str, prediction: str, normalize: Callable[[str], str]
) -> tuple[float, float]:
  """Exact match and word F1 of a prediction and one answer, in [0, 1]."""
  answer, prediction = normalize(answer), normalize(prediction)
  answer_words, predicted_words = answer.split(), prediction.split()
  common = collections.Counter(answer_words) & collections.Counter(
    predicted_words
  )
  # 2 * common / total is the harmonic mean of precision and recall.
  total = len(answer_words) + len(predicted_words)
  f1 = 2 * common.total() / total if total else 0.0
  return float(answer == prediction), f1


def _value(result: Any) -> Any:
  return result["value"] if isinstance(result, Mapping) else result


def _of_two_classes(targets: Values, predictions: Values) -> list[int]:
  """Replaces invalid predictions by the wrong class of 0 and 1."""
  return [
    1 - target if prediction == INVALID else prediction
    for target, prediction in zip(targets, predictions, strict=True)
  ]


def _check_labelled(targets: Values) -> None:
  hidden = sum(_value(target) in (INVALID, "", []) for target in targets)
  if hidden:
    raise ValueError(
      f"Expected targets to compare predictions with, but {hidden} of "
      f"{len(targets)} examples have no legal target, as in test splits with "
      "hidden labels. Write predictions instead: python -m t5x.infer"
    )
