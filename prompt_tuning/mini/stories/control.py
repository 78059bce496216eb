"""How far the words alone go: a bag-of-words classifier on each mini task.

  python -m prompt_tuning.mini.stories.control

The classifier counts the words of the very text that the model reads and picks
one of the targets of the train split, blind to the order of the words. Where
it is near the majority, a task cannot be solved by looking for single words. In
record the answers are names in the text, and guessing among them is right one
time in three.
"""

import collections
from collections.abc import Iterable, Mapping
import dataclasses
from typing import Any

import numpy as np
import seqio
import sklearn.feature_extraction.text
import sklearn.linear_model
import sklearn.pipeline

from prompt_tuning import text_tables
from prompt_tuning.data import postprocessors, superglue
from prompt_tuning.mini.stories import examples, tasks


@dataclasses.dataclass(frozen=True)
class Control:
  """Accuracies on the validation split, in [0, 100].

  Attributes:
    majority: Of the most frequent target of the train split.
    bag_of_words: Of logistic regression on the counts of the input's words.
  """

  majority: float
  bag_of_words: float


def measure(row: superglue.SuperGlueTask) -> Control:
  """Fits the control on the train split of the mini task `row.name`."""
  train, validation = read(row, "train"), read(row, "validation")
  targets = [example["targets"] for example in train]
  [(target, _)] = collections.Counter(targets).most_common(1)
  classifier = sklearn.pipeline.make_pipeline(
    sklearn.feature_extraction.text.CountVectorizer(),
    sklearn.linear_model.LogisticRegression(max_iter=1_000),
  )
  classifier.fit([example["inputs"] for example in train], targets)
  predictions = classifier.predict([e["inputs"] for e in validation])
  return Control(
    majority=_accuracy(row, validation, [target] * len(validation)),
    bag_of_words=_accuracy(row, validation, predictions),
  )


def read(row: superglue.SuperGlueTask, split: str) -> list[dict[str, Any]]:
  """The examples of a mini task as text: "inputs", "targets", and so on."""
  source = seqio.TaskRegistry.get(f"{tasks.PREFIX}_{row.name}").source
  dataset = row.preprocess(source.get_dataset(split, shuffle=False))
  return [
    {k: v.decode() if isinstance(v, bytes) else v for k, v in example.items()}
    for example in dataset.as_numpy_iterator()
  ]


def _accuracy(
  row: superglue.SuperGlueTask,
  rows: Iterable[Mapping[str, Any]],
  predictions: Iterable[str],
) -> float:
  def is_right(example: Mapping[str, Any], prediction: str) -> bool:
    if row.correct_referents_only:  # WSC compares, and asks for yes or no.
      example = {**example, "targets_pretokenized": example["targets"]}
      return postprocessors.wsc(prediction, example) == example["label"]
    return prediction == example["targets"]

  return 100 * float(
    np.mean([is_right(*pair) for pair in zip(rows, predictions, strict=True)])
  )


def main() -> None:
  rows = []
  for row in superglue.SUPER_GLUE:
    control = measure(row)
    counts = [
      f"{len(read(row, split)):,}" for split in examples.EXAMPLES_PER_SPLIT
    ]
    shares = [f"{control.majority:.1f}", f"{control.bag_of_words:.1f}"]
    rows.append([row.name, *counts, *shares])
  header = ["Mini task", "Train", "Validation", "Test"]
  table = text_tables.Table([*header, "Majority", "Bag of words"], rows)
  print(table.markdown(), end="")


if __name__ == "__main__":
  main()
