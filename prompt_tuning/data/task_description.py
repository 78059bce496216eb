"""A task, or a mixture's tasks, as text: counts, labels, lengths, examples."""

import collections
from collections.abc import Iterator, Sequence
import textwrap
from typing import Any

import numpy as np
import seqio
import tqdm

from prompt_tuning.data import task_rows

_QUANTILES = {"median": 0.5, "90%": 0.9, "99%": 0.99, "longest": 1.0}
_MAX_TARGETS = 8
_WIDTH = 79


def describe(task: seqio.Task, split: str, num_examples: int) -> str:
  """Describes a split in one pass over its examples.

  Args:
    task: The task.
    split: One of its splits.
    num_examples: Number of examples to show in full, starting with the first.

  Raises:
    ValueError: if the split is empty.
  """
  lengths = {name: [] for name in task.output_features}
  targets = collections.Counter()
  labels = collections.Counter()
  shown = []
  dataset = task.get_dataset(None, split, shuffle=False, num_epochs=1)
  for example in tqdm.tqdm(
    dataset.as_numpy_iterator(), "reading", unit=" examples", delay=2
  ):
    for name, values in lengths.items():
      values.append(len(example[name]))
    if "targets_pretokenized" in example:
      targets[_text(example["targets_pretokenized"])] += 1
    else:  # The task has tokens only.
      vocabulary = task.output_features["targets"].vocabulary
      targets[vocabulary.decode(example["targets"].tolist())] += 1
    if "label" in example:
      labels[int(example["label"])] += 1
    if len(shown) < num_examples:
      shown.append(example)
  if not targets:
    raise ValueError(f"The split {split!r} of {task.name} is empty.")
  lines = [f"{task.name}, {split} split", ""]
  made, read = targets.total(), task.num_input_examples(split)
  of_rows = f", made of {read:,} rows" if read not in (None, made) else ""
  lines.append(f"examples   {made:,}{of_rows}")
  row = task_rows.ROWS.get(task.name)
  lines += _shares("targets", targets, row.labels if row else ())
  if labels:
    lines += _shares("labels", labels)
  lines.append(f"{'tokens':10} " + "".join(f"{x:>9}" for x in _QUANTILES))
  for name, values in lengths.items():
    quantiles = np.quantile(values, list(_QUANTILES.values()), method="higher")
    lines.append(f"  {name:8} " + "".join(f"{q:9,}" for q in quantiles))
  for number, example in enumerate(shown):
    lines += ["", f"Example {number}"]
    lines += _example(task, example)
  return "\n".join(lines)


def _shares(
  name: str, counts: collections.Counter[Any], legal: Sequence[str] = ()
) -> Iterator[str]:
  """Yields the most frequent values, starting with the majority class."""
  total = counts.total()
  for label in legal:  # Shows labels that do not occur.
    counts[label] += 0
  for i, (value, count) in enumerate(counts.most_common(_MAX_TARGETS)):
    text = textwrap.shorten(str(value), 40, placeholder="...")
    share = 100 * count / total
    majority = (
      "  majority class" if i == 0 and len(counts) <= _MAX_TARGETS else ""
    )
    yield f"{name if i == 0 else '':10} {share:5.1f}%  {text}{majority}"
  if len(counts) > _MAX_TARGETS:
    yield f"{'':10}         ... of {len(counts):,} different ones"


def _example(task: seqio.Task, example: dict[str, Any]) -> Iterator[str]:
  """Yields rows of pieces, each above its id, and the other features."""
  for name, feature in task.output_features.items():
    tokens = example[name].tolist()
    yield f"  {name}, {len(tokens)} tokens"
    row: list[str] = []
    below: list[str] = []
    for token in tokens:
      piece = _piece(feature.vocabulary, token)
      width = max(len(piece), len(str(token)))
      used = sum(len(cell) + 1 for cell in row)
      if row and used + width + 4 > _WIDTH:
        yield "    " + " ".join(row).rstrip()
        yield "    " + " ".join(below).rstrip()
        row, below = [], []
      row.append(piece.ljust(width))
      below.append(str(token).ljust(width))
    yield "    " + " ".join(row).rstrip()
    yield "    " + " ".join(below).rstrip()
  for name, value in example.items():
    if name not in task.output_features and not name.endswith("_pretokenized"):
      yield f"  {name}: {_text(value)}"


def _piece(vocabulary: seqio.Vocabulary, token: int) -> str:
  if isinstance(vocabulary, seqio.SentencePieceVocabulary):
    return vocabulary.tokenizer.id_to_piece(token)
  return vocabulary.decode([token])


def _text(value: Any) -> str:
  if isinstance(value, bytes):
    return value.decode()
  if isinstance(value, np.ndarray):
    return ", ".join(map(_text, value.tolist()))
  return str(value)
