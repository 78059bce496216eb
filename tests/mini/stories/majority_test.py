"""What one answer to all scores in the generated tasks, as the sheets say."""

import functools
import pathlib
import statistics

import pytest
import seqio

from prompt_tuning import tasks
from prompt_tuning.data import vocabulary
from prompt_tuning.experiments import records, sheets

CONFIGS = pathlib.Path(__file__).parents[3] / "configs"
PREFIXES = (f"{tasks.MINI}_", f"{tasks.LADDER}_")
LENGTHS = {"inputs": 512, "targets": 32}


def _said():
  """Task and majority, as the sheets have it."""
  said = set()
  for sheet in sheets.load_all(CONFIGS).values():
    for cell in sheet.cells():
      task = str(cell.point.get("task"))
      majority = sheet.value("task", task).majority
      if task.startswith(PREFIXES) and majority is not None:
        said.add((task, majority))
  return sorted(said)


@functools.cache
def _score(name):
  """The best of the most frequent answers of a task's validation split."""
  task = seqio.get_mixture_or_task(name)
  rows = list(
    task.get_dataset(LENGTHS, "validation", shuffle=False).as_numpy_iterator()
  )
  texts = [row["targets_pretokenized"].decode() for row in rows]
  targets = [
    task.postprocess_fn(text, example=row, is_target=True)
    for text, row in zip(texts, rows, strict=True)
  ]
  scores = []
  for answer in statistics.multimode(texts):
    predictions = [task.postprocess_fn(answer, example=row) for row in rows]
    metrics = {}
    for metric_fn in task.metric_fns:
      metrics |= metric_fn(targets, predictions)
    metrics.pop(records.INVALID, None)
    scores.append(statistics.fmean(metrics.values()))
  return max(scores)


@pytest.mark.parametrize(("task", "majority"), _said())
def test_most_frequent_answer(monkeypatch, task, majority):
  monkeypatch.setattr(
    vocabulary.MODEL_VOCABULARY, "in_use", seqio.ByteVocabulary()
  )
  assert majority == pytest.approx(_score(task), abs=0.05)
