"""Examples for tuning from Python: pairs of texts, or a task of seqio."""

from collections.abc import Sequence

import seqio

from prompt_tuning import tasks  # noqa: F401  # Registers them.
from prompt_tuning.data import task_facts, task_lookup, text_pairs

# In training, inputs are cut to this many tokens.
_LONGEST = 512


def find(
  train: text_pairs.Pairs | str | None,
  validation: text_pairs.Pairs | str | None,
  vocabulary: seqio.Vocabulary,
  labels: Sequence[str] | None,
  rank: bool,
) -> text_pairs.PairTask:
  """Makes a task of pairs, or finds a registered task or mixture.

  Args:
    train: Pairs, or a task with splits "train" and "validation". None: there is
      no training.
    validation: Pairs; without training, pairs or a task with that split.
    vocabulary: The model's vocabulary.
    labels: The legal targets of pairs; see `text_pairs.make`.
    rank: Whether the labels are ranked, and so must be known.

  Returns:
    The task. The labels of a registered task that is not ranked are words that
    a prompt can start from, which need not be targets. A split without lengths
    is not cut.

  Raises:
    ValueError: if the arguments do not fit together, there is no such task, or
      labels to rank are missing.
  """
  name = validation if train is None else train
  if not isinstance(name, str):
    splits = {"train": train, "validation": validation}
    found = text_pairs.make(
      {x: pairs for x, pairs in splits.items() if pairs is not None},  # pyright: ignore[reportArgumentType]
      vocabulary,
      labels,
    )
  elif labels is not None or None not in (train, validation):
    raise ValueError(
      f"The task {name} brings its own validation split and labels: pass "
      "neither, or pass pairs."
    )
  else:
    found = _registered(name, vocabulary, rank, trains=train is not None)
  if rank and not found.labels:
    raise ValueError("Ranking needs labels, and the targets are free text.")
  return found


def _registered(
  name: str, vocabulary: seqio.Vocabulary, rank: bool, trains: bool
) -> text_pairs.PairTask:
  task = task_lookup.find(name)
  lengths = {}
  if trains:
    lengths["train"] = task_facts.lengths(name, vocabulary, longest=_LONGEST)
  if rank:  # The longest label may be longer than the targets of the split.
    lengths["validation"] = task_facts.lengths(
      name, vocabulary, splits=("validation",), longest=None
    )
  labels = task_facts.labels(name) if rank else _class_words(name)
  return text_pairs.PairTask(task, tuple(labels), lengths)


def train_lengths(examples: text_pairs.PairTask) -> dict[str, int]:
  """Returns the lengths for training, feature -> tokens."""
  return {
    name: min(length, _LONGEST)
    for name, length in examples.lengths["train"].items()
  }


def _class_words(name: str) -> Sequence[str]:
  """Returns the words a prompt can start from; none for a user's own task."""
  try:
    return task_facts.class_words(name)
  except ValueError:
    return ()
