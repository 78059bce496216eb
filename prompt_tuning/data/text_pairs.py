"""A task of a program's own pairs (input, target), which is not registered.

Labels and metrics follow the rules of `files`, the task of files.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses

from absl import logging
import seqio

from prompt_tuning.data import targets as targets_lib
from prompt_tuning.data import vocabulary as vocabulary_lib
from prompt_tuning.data.sources import ExampleSource

# A target of at most this many words may be a label.
_SHORT_WORDS = 3
# (input, target), both as text.
Pairs = Iterable[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class PairTask:
  """A task of pairs.

  Attributes:
    task: For the trainer.
    labels: The legal targets; empty where the target is free text.
    lengths: Split -> feature -> tokens of the longest example, with the end
      of sequence; for targets, of the longest label too.
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
    targets_lib.task_name("pairs", [targets.labels, splits]),
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
) -> tuple[targets_lib.Targets, Mapping[str, list[tuple[str, str]]]]:
  """Returns the targets of a task, and its splits as lists with such targets.

  See `make` for the arguments and the errors.
  """
  given = {split: _checked(split, pairs) for split, pairs in splits.items()}
  first = [target for _, target in next(iter(given.values()))]
  if labels is None:
    labels = targets_lib.find_labels(first)
    # Labels that occur too seldom look like free text.
    if not labels and all(len(x.split()) <= _SHORT_WORDS for x in first):
      logging.warning(
        "%d pairs have %d different targets. Labels are at most fifty, with "
        "four pairs each, so these are taken for free text. If they are "
        "labels, give them: labels=[...]; if not, labels=[].",
        *(len(first), len({*first})),
      )
  targets = targets_lib.make(labels, first, vocabulary)
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
      "list(x.items()), or list(zip(inputs, targets)) of two columns."
    )
  pairs = list(pairs)
  if not pairs:
    raise ValueError(f"Expected pairs of {split}, got none.")
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
