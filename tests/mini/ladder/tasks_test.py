"""The ladder's tasks: SuperGLUE's form, balanced, without a shared world."""

import collections
import hashlib
import json

import numpy as np
import pytest
import seqio

from prompt_tuning.data import superglue, vocabulary
from prompt_tuning.mini.ladder import examples, tasks
from prompt_tuning.mini.ladder import vocabulary as ladder_vocabulary

LENGTHS = {"inputs": 64, "targets": 8}
# Of every row of every split. A change means that recorded results are of other
# data.
DIGESTS = {
  "boolq": "a9e6d4df95e2",
  "cb": "ed51943c8cc3",
  "copa": "9d6b5f0ab0f0",
  "multirc": "fef8a7cd55a2",
  "record": "ad36c3bdb381",
  "rte": "c8a4e279ed93",
  "wic": "9d7f064daba3",
  "wsc": "9e5b21e64626",
}
# Different rows of 400 in validation.
DISTINCT = {
  "boolq": 398,
  "cb": 400,
  "copa": 70,
  "multirc": 396,
  "record": 392,
  "rte": 399,
  "wic": 385,
  "wsc": 342,
}


@pytest.fixture(autouse=True)
def _vocabulary(monkeypatch):
  ladder = ladder_vocabulary.ladder()
  monkeypatch.setattr(vocabulary.MODEL_VOCABULARY, "in_use", ladder)


@pytest.mark.parametrize("task", examples.TASKS)
def test_rows_repeat_as_often_as_is_known(task):
  names = {"label", "idx", "answers"}
  rows = {
    str({k: v for k, v in row.items() if k not in names})
    for row in examples.examples(task, "validation")
  }
  assert len(rows) == DISTINCT[task]


def test_chance_is_higher_where_rows_repeat():
  """Of 20 evaluations by a guesser, who says the same of the same text."""
  rows = examples.examples("copa", "validation")
  texts = [str({**row, "label": 0, "idx": 0}) for row in rows]
  _, text = np.unique(texts, return_inverse=True)
  label = np.array([row["label"] for row in rows])
  rng = np.random.default_rng(0)

  def best(count, of_row):
    guesses = rng.integers(0, 2, (1_000, 20, count))[..., of_row]
    return 100 * (guesses == label).mean(axis=-1).max(axis=-1)

  assert best(len(rows), np.arange(len(rows))).mean() == pytest.approx(
    55, abs=1
  )
  of_copa = best(max(text) + 1, text)
  assert of_copa.mean() == pytest.approx(62, abs=1)
  assert np.percentile(of_copa, 95) == pytest.approx(67.5, abs=1)


@pytest.mark.parametrize("task", examples.TASKS)
def test_examples_stay_the_same(task):
  examples.examples.cache_clear()
  made = [
    examples.examples(task, split) for split in examples.EXAMPLES_PER_SPLIT
  ]
  digest = hashlib.sha256(json.dumps(made).encode()).hexdigest()[:12]
  assert digest == DIGESTS[task]


@pytest.mark.parametrize("row", superglue.SUPER_GLUE, ids=lambda row: row.name)
def test_right_answers_score_100(row):
  """Through the postprocessors and metrics of the real task."""
  task = seqio.get_mixture_or_task(f"{tasks.PREFIX}_{row.name}")
  dataset = task.get_dataset(LENGTHS, "validation", shuffle=False)
  batch = list(dataset.as_numpy_iterator())
  assert len(batch) == examples.EXAMPLES_PER_SPLIT["validation"]
  targets, predictions = [], []
  for example in batch:
    assert len(example["inputs"]) < LENGTHS["inputs"]
    text = ladder_vocabulary.ladder().decode(example["targets"].tolist())
    targets.append(task.postprocess_fn(text, example=example, is_target=True))
    if row is superglue.WSC and not example["label"]:
      text = "nobody"
    predictions.append(task.postprocess_fn(text, example=example))
  for metric_fn in task.metric_fns:
    for name, value in metric_fn(targets, predictions).items():
      assert value == (0 if name == "invalid" else 100)


@pytest.mark.parametrize("task", sorted(set(examples.TASKS) - {"record"}))
def test_labels_are_balanced(task):
  counts = collections.Counter(
    row["label"] for row in examples.examples(task, "validation")
  )
  assert max(counts.values()) - min(counts.values()) <= 1
  assert len(counts) == examples.TASKS[task][1]


@pytest.mark.parametrize("task", examples.TASKS)
def test_splits_share_no_example(task):
  def texts(split):
    return {
      json.dumps({k: v for k, v in row.items() if k not in ("idx", "label")})
      for row in examples.examples(task, split)
    }

  splits = [texts(split) for split in examples.EXAMPLES_PER_SPLIT]
  assert not splits[0] & splits[1]
  assert not splits[0] & splits[2]
  assert not splits[1] & splits[2]


def test_the_mixture_has_the_tasks_of_the_ladder():
  mixture = seqio.get_mixture_or_task(f"{tasks.PREFIX}_prefixed")
  assert len(mixture.tasks) == len(tasks.IN_LADDER) == 5
