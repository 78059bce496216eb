"""A task of pairs (input, target) of a program's own, which is not registered.

For files, see `files`, which has the same rules for labels and metrics.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
import dataclasses
import hashlib
import json

from absl import logging
import seqio

from prompt_tuning.data import targets as targets_lib
from prompt_tuning.data.sources import ExampleSource

# What is no longer than this may be a label.
_SHORT_WORDS = 3
# (input, target), both as text.
Pairs = Iterable[tuple[str, str]]
_PairList = Sequence[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class PairTask:
  """A task of pairs.

  Attributes:
    task: For the trainer.
    labels: The legal targets; empty where the target is free text.
    lengths: Split -> feature -> tokens of the longest example, with the end
      of sequence; for targets, of the longest label too.
  """

  task: seqio.Task
  labels: tuple[str, ...]
  lengths: Mapping[str, Mapping[str, int]]


def make(
  splits: Mapping[str, Pairs],
  vocabulary: seqio.Vocabulary,
  labels: Sequence[str] | None = None,
  name: str = "pairs",
) -> PairTask:
  """Makes a task.

  Args:
    splits: Split -> its pairs; "train" first.
    vocabulary: The model's.
    labels: The legal targets; an empty list for free text. By default those
      that occur in the first split, unless they are many: more than fifty, or
      fewer than four pairs each. They, and targets that are one of them, become
      what the vocabulary makes of them, as answers do: " yes" is "yes".
    name: What the task's begins with; a digest of the pairs follows, so that
      a run does not go on with others.

  Raises:
    ValueError: if a split is empty, or has something that is no pair of texts,
      or a target that is no label, or if the vocabulary cannot write a label.
  """
  splits = {split: _checked(split, pairs) for split, pairs in splits.items()}
  first = [target for _, target in next(iter(splits.values()))]
  if labels is None:
    labels = targets_lib.find_labels(first)
    if not labels:
      _say_free_text({*first}, len(first))
  labels, written = targets_lib.as_written(labels, first, vocabulary)
  splits = {
    split: _as_written(split, pairs, written, labels)
    for split, pairs in splits.items()
  }
  content = json.dumps([labels, splits])
  digest = hashlib.sha256(content.encode()).hexdigest()[:8]
  metric_fns, postprocess = targets_lib.scoring(labels)
  feature = seqio.Feature(vocabulary, add_eos=True)
  task = seqio.Task(
    f"{name}_{digest}",
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
    postprocess_fn=postprocess,
    metric_fns=list(metric_fns),
  )

  def longest(texts) -> int:
    return max(len(vocabulary.encode(text)) for text in texts) + 1

  lengths = {
    split: {
      "inputs": longest(text for text, _ in pairs),
      "targets": longest([*(target for _, target in pairs), *labels]),
    }
    for split, pairs in splits.items()
  }
  return PairTask(task, labels, lengths)


def _as_written(
  split: str,
  pairs: _PairList,
  written: Callable[[str], str],
  labels: Sequence[str],
) -> _PairList:
  """Returns pairs with the targets that a model can answer with."""
  made = [(text, written(target)) for text, target in pairs]
  for number, (_, target) in enumerate(made):
    if labels and target not in labels:
      raise ValueError(
        f"Expected the target of {split}[{number}] to be one of the labels "
        f"{', '.join(labels)}, got {pairs[number][1]!r}. For free text, give "
        "labels=[]."
      )
  return made


def _say_free_text(targets: Collection[str], count: int) -> None:
  """Says so where targets look like labels that were found too seldom."""
  if all(len(target.split()) <= _SHORT_WORDS for target in targets):
    logging.warning(
      "%d pairs have %d different targets, too many for labels, which are "
      "fifty at most, with four pairs each: they are taken for free text. If "
      "they are labels, give them: labels=[...]; if not, labels=[].",
      count,
      len(targets),
    )


def _checked(split: str, pairs: Pairs) -> _PairList:
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
    if not pair[1].strip():
      raise ValueError(f"Expected a target of {split}[{number}], got none.")
    pairs[number] = pair
  return pairs
