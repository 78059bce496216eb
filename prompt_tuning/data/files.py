"""A task over the user's own CSV, TSV, JSON or Parquet files.

  TASK = @files.file_task()
  files.file_task.train_file = "reviews.csv"

The input and target columns, the labels and the metrics are chosen from the
files and printed; arguments override them. `row_files` reads the files.
"""

import collections
from collections.abc import Mapping, Sequence
import dataclasses
import functools
import itertools
import operator
import os
import pathlib
import re
import sys
from typing import Annotated, Any

from absl import logging
from pydantic import Field
import seqio

from prompt_tuning.data import row_files, task_rows, text_pairs
from prompt_tuning.data import vocabulary as vocabulary_lib
from prompt_tuning.data.sources import ExampleSource

_HELD_OUT_SEED = 0
_SHOWN = 8
_FREE_TEXT = "--gin.LABELS=[], or labels=[] in Python"
Example = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class FileData:
  """The examples of a task of files.

  Attributes:
    name: Name of the task: the train file's name, and a digest of the rows.
    inputs: Columns of the input, in order.
    target: Column of the target.
    targets: The legal targets, in the given order, or sorted; no labels if the
      target is free text.
    splits: Split -> examples: "inputs", the cell, or "column: cell ..." for
      several columns; "targets"; and "idx", the line.
  """

  name: str
  inputs: tuple[str, ...]
  target: str
  targets: text_pairs.Targets
  splits: Mapping[str, Sequence[Example]]

  def pairs(self, split: str) -> list[tuple[str, str]]:
    """Returns the inputs and targets of a split, none if it is missing."""
    return [(x["inputs"], x["targets"]) for x in self.splits.get(split, ())]

  def __str__(self) -> str:
    """Summarises the data in two lines."""
    counts = ", ".join(f"{k} {len(rows):,}" for k, rows in self.splits.items())
    line = (
      f"{self.name}: {counts} rows; input {', '.join(self.inputs)}; target "
      f"{self.target}\n"
    )
    if not self.targets.labels:
      return line + "free text; exact match and F1 of words are measured"
    train = self.splits["train"]
    found = collections.Counter(example["targets"] for example in train)
    shares = [
      f"{label} {100 * found[label] / len(train):.0f}%"
      for label in self.targets.labels
    ]
    more = ["..."] if len(shares) > _SHOWN else []
    return line + (
      f"{len(shares)} labels: {', '.join(shares[:_SHOWN] + more)}; accuracy "
      "and macro F1 are measured"
    )


def read(
  train_file: Any,
  validation_file: Any = None,
  test_file: str | None = None,
  input_columns: Sequence[str] | None = None,
  target_column: str | None = None,
  labels: Sequence[str] | None = None,
  held_out: float = 0.1,
  *,
  vocabulary: seqio.Vocabulary,
) -> FileData:
  """Reads the files of a task.

  Args:
    train_file: A file or table as `row_files.read` takes it.
    validation_file: The same; by default, a share `held_out` of the train
      file's rows.
    test_file: The same; its target column may be missing or empty.
    input_columns: By default all but the target, "idx", "id", "index" and the
      index of a data frame.
    target_column: By default the column called "target", "label",
      "completion", "answer", "output" or "class", or else "sentiment" or
      "category".
    labels: The legal targets; an empty list for free text. By default the
      distinct targets, unless there are many. Labels and targets are normalised
      to the texts that the vocabulary writes, as answers are.
    held_out: Share of the train rows to hold out, in (0, 1), stratified by
      label if possible. A file always gives the same rows; rows of the same
      input stay together.
    vocabulary: The model's.

  Raises:
    ValueError: if a file or a column is missing, the target is an input too, a
      row lacks an input or a target or has an unknown label, or the vocabulary
      cannot write a label.
  """
  given = (train_file, validation_file, test_file)
  named = zip(("train", "validation", "test"), given, strict=True)
  sources = {split: x for split, x in named if x is not None}
  rows = {split: row_files.read(source) for split, source in sources.items()}
  paths = {
    split: split if row_files.is_table(source) else os.fspath(source)
    for split, source in sources.items()
  }
  inputs, target = row_files.choose_columns(
    rows, paths, input_columns, target_column
  )
  found = [row.text(target) for row in rows["train"]]
  targets = text_pairs.make_targets(labels, found, vocabulary)
  splits: dict[str, Sequence[Example]] = {}
  for split, own in rows.items():
    has_targets = split != "test" or (
      target in own[0].cells and any(row.text(target).strip() for row in own)
    )
    splits[split] = [
      _example(row, inputs, target if has_targets else None, targets)
      for row in own
    ]
  by_input = collections.defaultdict(list)
  for example in splits["train"]:
    by_input[example["inputs"]].append(example)
  for split, path in [*paths.items()][1:]:
    if seen := by_input.keys() & {x["inputs"] for x in splits[split]}:
      logging.warning(
        "%d inputs of %s are also in %s: evaluation uses training data.",
        *(len(seen), path, paths["train"]),
      )
  if validation_file is None:
    try:
      splits |= _hold_out([*by_input.values()], bool(targets.labels), held_out)
    except ValueError as error:
      raise ValueError(f"{paths['train']}: {error}") from None
  stem = re.sub(r"\W+", "_", pathlib.PurePath(paths["train"]).stem).strip("_")
  content = [inputs, target, targets.labels, splits]
  name = text_pairs.task_name(stem or "files", content)
  return FileData(name, inputs, target, targets, splits)


def is_data(data: Any) -> bool:
  """Returns whether this is a table or the path of a file."""
  if not isinstance(data, str | os.PathLike):
    return row_files.is_table(data)
  is_known = os.fspath(data).lower().endswith(row_files.SUFFIXES)
  return is_known or os.path.isfile(data)


def pairs(
  data: Any,
  input_columns: Sequence[str] | None = None,
  target_column: str | None = None,
) -> list[tuple[str, str]]:
  """Returns all rows of a file or table as pairs, and prints its columns.

  Raises:
    ValueError: if a column, an input or a target is missing; see `read`.
  """
  rows = row_files.read(data)
  path = "The table" if row_files.is_table(data) else os.fspath(data)
  inputs, target = row_files.choose_columns(
    {"train": rows}, {"train": path}, input_columns, target_column
  )
  columns = f"input {', '.join(inputs)}; target {target}"
  print(f"{path}: {columns}", file=sys.stderr)
  return [(_input(row, inputs), _target(row, target)) for row in rows]


def _example(
  row: row_files.Row,
  inputs: Sequence[str],
  target: str | None,
  targets: text_pairs.Targets,
) -> Example:
  """Makes an example of a row, with the target a correct model would write."""
  text, written = _input(row, inputs), ""
  if target is not None:
    where = f"{row.where}, column {target}"
    written = targets.normalize(_target(row, target), where, _FREE_TEXT)
  return {"inputs": text, "targets": written, "idx": row.line}


def _input(row: row_files.Row, inputs: Sequence[str]) -> str:
  texts = [row.text(name) for name in inputs]
  if not any(text.strip() for text in texts):
    raise ValueError(f"{row.where}: no text in column {' or '.join(inputs)}.")
  if len(texts) == 1:
    return texts[0]
  named = zip(inputs, texts, strict=True)
  return " ".join(f"{name}: {text}" for name, text in named)


def _target(row: row_files.Row, target: str) -> str:
  if not (text := row.text(target)).strip():
    raise ValueError(
      f"{row.where}, column {target}: expected a target, got an empty cell."
    )
  return text


def _label(rows: Sequence[Example]) -> str:
  return rows[0]["targets"]


def _hold_out(
  groups: Sequence[Sequence[Example]], by_label: bool, share: float
) -> dict[str, Sequence[Example]]:
  """Splits examples for training and validation, keeping groups together."""
  if not 0 < share < 1:
    raise ValueError(f"expected HELD_OUT between 0 and 1, got {share}.")
  # An input that is repeated more often would fill the validation split.
  most = max(round(share * sum(map(len, groups))), 1)
  trained = [rows for rows in groups if len(rows) > most]
  groups = [rows for rows in groups if len(rows) <= most]
  size = max(round(share * len(groups)), 1)
  if size >= len(groups):
    raise ValueError(
      "expected enough different inputs to hold some out for validation, got "
      f"{len(trained) + len(groups)}."
    )
  targets = None
  if by_label:
    # Each label needs a row on both sides, so one that occurs once has none
    # to hold out.
    counts = collections.Counter(map(_label, groups))
    several = [rows for rows in groups if counts[_label(rows)] > 1]
    labels = set(map(_label, several))
    if 0 < len(labels) <= min(size, len(several) - size):
      trained += [rows for rows in groups if counts[_label(rows)] == 1]
      groups, targets = several, list(map(_label, several))
  import sklearn.model_selection  # It takes a second: not for a model alone.

  parts = sklearn.model_selection.train_test_split(
    groups,
    test_size=size,
    random_state=_HELD_OUT_SEED,
    stratify=targets,
  )
  train, validation = (
    sorted(itertools.chain.from_iterable(part), key=operator.itemgetter("idx"))
    for part in ([*parts[0], *trained], parts[1])
  )
  return {"train": train, "validation": validation}


def file_task(
  train_file: str,
  validation_file: str | None = None,
  test_file: str | None = None,
  input_columns: Sequence[str] | None = None,
  target_column: str | None = None,
  labels: Sequence[str] | None = None,
  held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1,
  *,
  vocabulary: seqio.Vocabulary,
) -> str:
  """Registers a task of files with seqio, and returns its name.

  The `_prefixed` and `_sentinel` variants are registered too. A summary of the
  data is written to stderr. The arguments are those of `read`.
  """
  paths = (train_file, validation_file, test_file)
  stats = [x and os.path.exists(x) and os.stat(x) for x in paths]
  return _register(
    *paths,
    _listed("INPUT_COLUMNS", input_columns),
    target_column,
    _listed("LABELS", labels),
    held_out,
    # They change when the files on disk do.
    tuple(x and (x.st_mtime, x.st_size) for x in stats),
    vocabulary_lib.Hashable(vocabulary),
  )


def _listed(macro: str, given: Sequence[str] | None) -> tuple[str, ...] | None:
  if isinstance(given, str):
    raise ValueError(
      f"Expected {macro} to be a list, got {given!r}. Write "
      f"--gin.{macro}=\"['{given}']\""
    )
  return None if given is None else tuple(given)


# gin calls `file_task` once for each parameter that it is bound to.
@functools.cache
def _register(*arguments) -> str:
  *of_files, _, hashable = arguments
  data = read(*of_files, vocabulary=hashable.vocabulary)
  print(data, file=sys.stderr)
  if data.name in seqio.TaskRegistry.names():
    return data.name  # The same rows.
  task_rows.add_task(
    data.name,
    task_rows.TaskRow(
      name=data.name,
      prefix=f"{pathlib.PurePath(arguments[0]).stem} ",
      preprocess=lambda dataset: dataset,
      postprocess=data.targets.postprocess,
      metric_fns=data.targets.metric_fns,
      labels=data.targets.labels,
      splits=tuple(data.splits),
    ),
    ExampleSource(
      data.splits.__getitem__,
      {split: len(rows) for split, rows in data.splits.items()},
    ),
  )
  return data.name
