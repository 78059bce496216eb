"""What a program tunes a prompt on: its own pairs, or a task of seqio's."""

from collections.abc import Mapping, Sequence
import dataclasses

import seqio

from prompt_tuning import tasks  # noqa: F401  # Registers them.
from prompt_tuning.data import task_facts, task_lookup, text_pairs

# Inputs are cut to as many tokens in training.
_LONGEST = 512


@dataclasses.dataclass(frozen=True)
class Examples:
  """What a prompt is trained on or evaluated with.

  Attributes:
    task: The seqio task.
    labels: Its legal targets; of a registered task that is not ranked, what a
      prompt may start from: other words, where targets are free text. Empty if
      there are none.
    train_lengths: Feature -> tokens, for training; empty where there is none.
    eval_lengths: The same, for evaluation; None: the longest of the split.
    has_validation: Whether there is a split "validation".
  """

  task: seqio.Task | seqio.Mixture
  labels: Sequence[str]
  train_lengths: Mapping[str, int]
  eval_lengths: Mapping[str, int] | None
  has_validation: bool


def of_pairs(
  train: text_pairs.Pairs | None,
  validation: text_pairs.Pairs | None,
  vocabulary: seqio.Vocabulary,
  labels: Sequence[str] | None,
) -> Examples:
  """Makes examples of a program's own pairs; see `text_pairs.make`."""
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


def of_task(
  name: str, vocabulary: seqio.Vocabulary, rank: bool, trains: bool
) -> Examples:
  """Makes examples of a task or mixture that is registered with seqio.

  Args:
    name: Of the task.
    vocabulary: The model's.
    rank: Whether its labels are ranked, and so must be known.
    trains: Whether its split "train" is needed.

  Raises:
    ValueError: if there is no such task, or its labels are not known.
  """
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
  """Returns what a prompt may start from; nothing of a task of a user's own."""
  try:
    return task_facts.class_words(name)
  except ValueError:
    return ()
