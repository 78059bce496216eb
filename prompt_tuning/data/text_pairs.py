"""A task over the user's own pairs (input, target); targets may be free text.

`files` has the task over files.
"""

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import functools
import hashlib
import json
from typing import Any

from absl import logging
import seqio

from prompt_tuning.data import metrics, postprocessors
from prompt_tuning.data import vocabulary as vocabulary_lib
from prompt_tuning.data.sources import ExampleSource

# More different targets than this are free text.
_MOST_LABELS = 50
# A target of at most this many words may be a label.
_SHORT_WORDS = 3
# (input, target), both as text.
Pairs = Iterable[tuple[str, str]]


def _join_words(text: str) -> str:
  return " ".join(text.split())


def find_labels(targets: Iterable[str]) -> tuple[str, ...]:
  """Returns the distinct targets, or nothing if they are free text.

  Labels are few, and occur at least four times each on average. Targets that
  differ only in spaces are one label.
  """
  counts = collections.Counter(map(_join_words, targets))
  is_free = len(counts) > min(_MOST_LABELS, counts.total() / 4)
  return () if is_free else tuple(sorted(counts))


def check_ranked(labels: Sequence[str]) -> None:
  """Checks that there are labels to rank.

  Raises:
    ValueError: if there are fewer than two; a single one would always be right.
  """
  if len(labels) < 2:
    raise ValueError(
      "Ranking needs at least two labels, got "
      f"{', '.join(labels) or 'free text'}. Give them: labels=[...], or "
      "--labels=... in prompt-tuning eval."
    )


def task_name(stem: str, content: Any) -> str:
  """Returns a name with a digest of the data.

  The digest keeps a run from resuming with other data.
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


def make_targets(
  labels: Sequence[str] | None,
  targets: Sequence[str],
  vocabulary: seqio.Vocabulary,
) -> Targets:
  """Makes the targets of a task; warns if free text may be labels.

  Args:
    labels: The legal targets; empty where the target is free text. By default
      those that `find_labels` finds.
    targets: The targets of training.
    vocabulary: The model's. It writes some texts differently, such as "..." for
      the single character of an ellipsis.

  Raises:
    ValueError: if a label is not a text, or if the vocabulary cannot write a
      label, writes two of them the same way, or cannot write any target.
  """
  is_guess = labels is None
  labels = find_labels(targets) if labels is None else labels
  for label in labels:
    # An empty cell is refused later, by its place.
    if not isinstance(label, str) or not (is_guess or label.strip()):
      raise ValueError(f"Expected labels to be texts, got {label!r}.")

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
        f"The vocabulary writes both labels, {other!r} and {label!r}, as "
        f"{write(label)!r}: rename one of them."
      )
  if labels:
    return Targets(tuple(label_by_text), lambda text: write(_join_words(text)))
  # Labels that occur too seldom look like free text.
  if is_guess and all(len(x.split()) <= _SHORT_WORDS for x in targets):
    logging.warning(
      "There are %d different targets in %d rows. That is more than fifty, or "
      "fewer than four rows for each, so they are taken as free text. If they "
      "are labels, give them: labels=[...] in Python, in training "
      "--gin.LABELS=\"['...']\", in prompt-tuning eval --labels=... Else give "
      "an empty list.",
      *(len({*targets}), len(targets)),
    )
  lost = [x for x in targets if unknown in vocabulary.encode(x)]
  if lost:
    text = (
      f"{len(lost):,} of {len(targets):,} targets have characters that the "
      f"vocabulary does not know, such as {lost[0]!r}, which it writes as "
      f"{write(lost[0])!r}"
    )
    if len(lost) == len(targets):
      raise ValueError(f"{text}: no answer can be right. Choose another model.")
    logging.warning("%s: the model cannot learn these.", text)
  return Targets((), write)


@dataclasses.dataclass(frozen=True)
class PairTask:
  """A task of pairs.

  Attributes:
    task: For the trainer.
    labels: The legal targets; empty where the target is free text.
    lengths: Split -> feature -> tokens of the longest example, including the
      end of sequence; for targets, at least those of the longest label.
  """

  task: seqio.Task | seqio.Mixture
  labels: tuple[str, ...]
  lengths: Mapping[str, Mapping[str, int]]


def make(
  splits: Mapping[str, Pairs],
  vocabulary: seqio.Vocabulary,
  labels: Sequence[str] | None = None,
) -> PairTask:
  """Makes a task.

  Args:
    splits: Split -> its pairs; "train" first.
    vocabulary: The model's.
    labels: The legal targets; an empty list for free text. By default the
      distinct targets of the first split, unless they are many: more than
      fifty, or fewer than four pairs each. Labels and targets are normalised
      to the texts that the vocabulary writes: " yes" is "yes".

  Raises:
    ValueError: if a split is empty, or has an item other than a pair of texts,
      or an unknown label, or if the vocabulary cannot write a label.
  """
  targets, splits = targets_of(splits, vocabulary, labels)
  feature = seqio.Feature(vocabulary, add_eos=True)
  task = seqio.Task(
    task_name("pairs", [targets.labels, splits]),
    source=ExampleSource(
      lambda split: [
        {"inputs": text, "targets": target, "idx": number}
        for number, (text, target) in enumerate(splits[split])
      ],
      {split: len(pairs) for split, pairs in splits.items()},
    ),
    preprocessors=[
      seqio.preprocessors.tokenize,
      seqio.preprocessors.append_eos_after_trim,
    ],
    output_features={"inputs": feature, "targets": feature},
    postprocess_fn=targets.postprocess,
    metric_fns=targets.metric_fns,
  )

  def longest(texts, words=vocabulary) -> int:
    return max(len(words.encode(text)) for text in texts) + 1

  of_inputs = vocabulary_lib.of_inputs(vocabulary)
  lengths = {
    split: {
      "inputs": longest((text for text, _ in pairs), of_inputs),
      "targets": longest([*(target for _, target in pairs), *targets.labels]),
    }
    for split, pairs in splits.items()
  }
  return PairTask(task, targets.labels, lengths)


def targets_of(
  splits: Mapping[str, Pairs],
  vocabulary: seqio.Vocabulary,
  labels: Sequence[str] | None,
) -> tuple[Targets, Mapping[str, list[tuple[str, str]]]]:
  """Returns the targets of a task, and its splits with normalised targets.

  See `make` for the arguments and the errors.
  """
  given = {split: _checked(split, pairs) for split, pairs in splits.items()}
  first = [target for _, target in next(iter(given.values()))]
  targets = make_targets(labels, first, vocabulary)
  return targets, {
    split: [
      (
        text,
        targets.normalize(
          target, f"The target of {split}[{number}]", "give labels=[]"
        ),
      )
      for number, (text, target) in enumerate(pairs)
    ]
    for split, pairs in given.items()
  }


def _checked(split: str, pairs: Pairs) -> Sequence[tuple[str, str]]:
  if isinstance(pairs, Mapping):
    raise ValueError(
      f"Expected {split} to be pairs (input, target), got a mapping. Give "
      "list(x.items()); list(zip(inputs, targets)) for two columns; or one "
      "split of a DatasetDict, x['train']."
    )
  pairs = list(pairs)
  if not pairs:
    raise ValueError(f"Expected pairs in {split}, got none.")
  for number, pair in enumerate(pairs):
    if (
      isinstance(pair, str | Mapping)
      or not isinstance(pair, Iterable)
      or len(pair := tuple(pair)) != 2
      or not all(isinstance(text, str) for text in pair)
    ):
      raise ValueError(
        f"Expected {split}[{number}] to be a pair (input, target) of texts, "
        f"got {pair!r}."
      )
    for what, text in zip(("an input", "a target"), pair, strict=True):
      if not text.strip():
        raise ValueError(f"Expected {what} in {split}[{number}], got no text.")
    pairs[number] = pair
  return pairs
