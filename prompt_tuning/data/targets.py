"""Targets of data of one's own: labels or free text, and their metrics."""

import collections
from collections.abc import Callable, Iterable, Sequence
import functools
from typing import Any

from absl import logging
import seqio

from prompt_tuning.data import metrics, postprocessors
from prompt_tuning.data import vocabulary as vocabulary_lib

# More different targets than this are free text.
_MOST_LABELS = 50


def spaced(text: str) -> str:
  """Returns a text with single spaces between its words."""
  return " ".join(text.split())


def find_labels(targets: Iterable[str]) -> tuple[str, ...]:
  """Returns the targets that occur, or nothing if that is free text.

  Labels are few, and come back: each, on average, four times. Those that differ
  in spaces alone are one.
  """
  counts = collections.Counter(map(spaced, targets))
  is_free = len(counts) > min(_MOST_LABELS, counts.total() / 4)
  return () if is_free else tuple(sorted(counts))


def as_written(
  labels: Sequence[str], targets: Sequence[str], vocabulary: seqio.Vocabulary
) -> tuple[tuple[str, ...], Callable[[str], str]]:
  """Returns labels, and what makes targets look like answers that are right.

  Where the vocabulary cannot write some free text, it says so.

  Args:
    labels: The legal targets; empty where the target is free text.
    targets: Those of training.
    vocabulary: The model's; see `vocabulary.writer`.

  Raises:
    ValueError: if a label is no text, or the vocabulary cannot write it or
      tell it from another, or can write no target at all.
  """
  if others := [x for x in labels if not isinstance(x, str)]:
    raise ValueError(f"Expected labels to be texts, got {others[0]!r}.")
  # Answers have no other spaces: "good " would be a label that none is.
  labels = [*dict.fromkeys(map(spaced, labels))]
  written = vocabulary_lib.writer(vocabulary, labels)
  if labels:
    found: dict[str, str] = {}
    for label in labels:
      if (other := found.setdefault(written(label), label)) != label:
        raise ValueError(
          f"The vocabulary writes the labels {other!r} and {label!r} alike, as "
          f"{written(label)!r}: choose other words for one of them."
        )
    return tuple(found), lambda text: written(spaced(text))
  unknown = getattr(vocabulary, "unk_id", None)
  lost = [x for x in targets if unknown in vocabulary.encode(x)]
  if lost:
    text = (
      f"{len(lost):,} of {len(targets):,} targets have something that the "
      f"vocabulary does not know, such as {lost[0]!r}, which it writes as "
      f"{written(lost[0])!r}"
    )
    if len(lost) == len(targets):
      raise ValueError(f"{text}: no answer can be right.")
    logging.warning("%s: the model cannot learn these.", text)
  return (), written


def scoring(
  labels: Sequence[str],
) -> tuple[Sequence[Callable[..., Any]], Callable[..., Any] | None]:
  """Returns how answers are scored.

  Args:
    labels: The legal targets; empty where the target is free text.

  Returns:
    Metric functions and a postprocessor, for `seqio.Task`.
  """
  if not labels:
    return (metrics.squad,), None
  return (
    (metrics.accuracy, metrics.macro_f1, metrics.invalid),
    functools.partial(postprocessors.class_index, labels=labels),
  )
