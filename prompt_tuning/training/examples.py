"""Examples for tuning from Python: pairs of texts, or a task of seqio."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import seqio

from prompt_tuning import tasks  # noqa: F401  # Registers them.
from prompt_tuning.data import task_facts, task_lookup, text_pairs

# In training, inputs are cut to this many tokens.
_LONGEST = 512


@dataclasses.dataclass(frozen=True)
class Examples:
  """Examples to train a prompt on or evaluate it with.

  Attributes:
    task: The seqio task.
    labels: Its legal targets. For a registered task that is not ranked, words
      that a prompt can start from, which need not be targets. Can be empty.
    train_lengths: Feature -> tokens, for training; empty without training.
    eval_lengths: The same for evaluation; None: the longest of the split.
    has_validation: Whether there is a split "validation".
  """

  task: seqio.Task | seqio.Mixture
  labels: Sequence[str]
  train_lengths: Mapping[str, int]
  eval_lengths: Mapping[str, int] | None
  has_validation: bool


def find(
  train: text_pairs.Pairs | str | None,
  validation: text_pairs.Pairs | str | None,
  vocabulary: seqio.Vocabulary,
  labels: Sequence[str] | None,
  rank: bool,
) -> Examples:
  """Makes examples of pairs, or finds those of a task or mixture of seqio.

  Args:
    train: Pairs, or a task with splits "train" and "validation". None: there is
      no training.
    validation: Pairs; without training, pairs or a task with that split.
    vocabulary: The model's vocabulary.
    labels: The legal targets of pairs; see `text_pairs.make`.
    rank: Whether the labels are ranked, and so must be known.

  Raises:
    ValueError: if the arguments do not fit together, there is no such task, or
      labels to rank are missing.
  """
  task = validation if train is None else train
  if not isinstance(task, str):
    examples = _from_pairs(train, validation, vocabulary, labels)
  elif labels is not None or None not in (train, validation):
    raise ValueError(
      f"The task {task} brings its own validation split and labels: pass "
      "neither, or pass pairs."
    )
  else:
    examples = _from_task(task, vocabulary, rank, trains=train is not None)
  if rank and not examples.labels:
    raise ValueError("Ranking needs labels, and the targets are free text.")
  return examples


def _from_pairs(
  train: Any,
  validation: Any,
  vocabulary: seqio.Vocabulary,
  labels: Sequence[str] | None,
) -> Examples:
  splits = {"train": train, "validation": validation}
  made = text_pairs.make(
    {split: pairs for split, pairs in splits.items() if pairs is not None},
    vocabulary,
    labels,
  )
  longest = {
    name: min(length, _LONGEST)
    for name, length in made.lengths.get("train", {}).items()
  }
  return Examples(
    made.task,
    made.labels,
    longest,
    made.lengths.get("validation"),
    validation is not None,
  )


def _from_task(
  name: str, vocabulary: seqio.Vocabulary, rank: bool, trains: bool
) -> Examples:
  found = task_lookup.find(name)
  splits = {
    split for task in seqio.get_subtasks(found) for split in task.splits
  }
  eval_lengths = None
  if rank:  # The longest label may be longer than the targets of the split.
    eval_lengths = task_facts.lengths(
      name, vocabulary, splits=("validation",), longest=None
    )
  return Examples(
    found,
    task_facts.labels(name) if rank else _class_words(name),
    task_facts.lengths(name, vocabulary, longest=_LONGEST) if trains else {},
    eval_lengths,
    "validation" in splits,
  )


def _class_words(name: str) -> Sequence[str]:
  """Returns the words a prompt can start from; none for a user's own task."""
  try:
    return task_facts.class_words(name)
  except ValueError:
    return ()
