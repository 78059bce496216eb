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


def free_text_writer(
  vocabulary: seqio.Vocabulary, targets: Iterable[str]
) -> Callable[[str], str]:
  """Returns what makes of a free text what an answer that is right looks like.

  Where the vocabulary cannot write some of the targets, it says so.

  Args:
    vocabulary: The model's; see `vocabulary.writer`.
    targets: Those of training.

  Raises:
    ValueError: if the vocabulary can write none of them.
  """
  written = vocabulary_lib.writer(vocabulary, [])
  targets = list(targets)
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
  return written


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
