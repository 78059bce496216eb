"""The targets of a user's own data: labels or free text, and their metrics."""

import collections
from collections.abc import Callable, Iterable, Sequence
import dataclasses
import functools
import hashlib
import json
from typing import Any

from absl import logging
import seqio

from prompt_tuning.data import metrics, postprocessors

# More different targets than this are free text.
_MOST_LABELS = 50


def _join_words(text: str) -> str:
  return " ".join(text.split())


def find_labels(targets: Iterable[str]) -> tuple[str, ...]:
  """Returns the distinct targets, or nothing if they are free text.

  Labels are few, and each occurs four times on average. Targets that differ in
  spaces alone are one label.
  """
  counts = collections.Counter(map(_join_words, targets))
  is_free = len(counts) > min(_MOST_LABELS, counts.total() / 4)
  return () if is_free else tuple(sorted(counts))


def task_name(stem: str, content: Any) -> str:
  """Returns a name with a digest of the data.

  So a run cannot be resumed with other data.
  """
  digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
  return f"{stem}_{digest[:8]}"


@dataclasses.dataclass(frozen=True)
class Targets:
  """The targets of a task, as the model's vocabulary writes them.

  Attributes:
    labels: The legal targets; empty where the target is free text.
    write: Maps a target to the text that a correct model would produce.
  """

  labels: tuple[str, ...]
  write: Callable[[str], str]

  def normalize(self, target: str, where: str, free_text: str) -> str:
    """Returns a target as a correct model would write it.

    Args:
      target: The target.
      where: Its place in the data, for the error message.
      free_text: How the user declares targets to be free text.

    Raises:
      ValueError: if it is not one of the labels.
    """
    written = self.write(target)
    if self.labels and written not in self.labels:
      raise ValueError(
        f"{where}: expected one of the labels {', '.join(self.labels)}, got "
        f"{target!r}. For free text, {free_text}."
      )
    return written

  @property
  def metric_fns(self) -> list[Callable[..., Any]]:
    """The metrics of `seqio.Task`."""
    if not self.labels:
      return [metrics.squad]
    return [metrics.accuracy, metrics.macro_f1, metrics.invalid]

  @property
  def postprocess(self) -> Callable[..., Any] | None:
    """The postprocessor of `seqio.Task`."""
    if not self.labels:
      return None
    return functools.partial(postprocessors.class_index, labels=self.labels)


def make(
  labels: Sequence[str], targets: Sequence[str], vocabulary: seqio.Vocabulary
) -> Targets:
  """Makes the targets of a task; warns if the vocabulary lacks some free text.

  Args:
    labels: The legal targets; empty where the target is free text.
    targets: The targets of training.
    vocabulary: The model's. It writes some texts in another way: "..." for the
      single character of an ellipsis.

  Raises:
    ValueError: if a label is not a text, the vocabulary cannot write a label or
      writes two alike, or it can write no target at all.
  """
  if others := [x for x in labels if not isinstance(x, str)]:
    raise ValueError(f"Expected labels to be texts, got {others[0]!r}.")

  @functools.cache
  def write(text: str) -> str:
    return vocabulary.decode(list(vocabulary.encode(text)))

  unknown = getattr(vocabulary, "unk_id", None)
  label_by_text: dict[str, str] = {}
  # Answers have single spaces: no answer would equal the label "good ".
  for label in map(_join_words, labels):
    if unknown in vocabulary.encode(label):
      raise ValueError(
        f"Expected labels that the vocabulary knows, got {label!r}, which it "
        f"writes as {write(label)!r}. Rename the label in the data: the model "
        "can never answer with characters that its vocabulary lacks."
      )
    other = label_by_text.setdefault(write(label), label)
    if other != label:
      raise ValueError(
        f"The vocabulary writes the labels {other!r} and {label!r} alike, as "
        f"{write(label)!r}: choose other words for one of them."
      )
  if labels:
    return Targets(tuple(label_by_text), lambda text: write(_join_words(text)))
  lost = [x for x in targets if unknown in vocabulary.encode(x)]
  if lost:
    text = (
      f"{len(lost):,} of {len(targets):,} targets have characters that the "
      f"vocabulary does not know, such as {lost[0]!r}, which it writes as "
      f"{write(lost[0])!r}"
    )
    if len(lost) == len(targets):
      raise ValueError(
        f"{text}: no answer can be right. Choose a model that knows them."
      )
    logging.warning("%s: the model cannot learn these.", text)
  return Targets((), write)
