"""A task of files of one's own: CSV, TSV or JSONL, see `row_files`.

  TASK = @files.file_task()
  files.file_task.train_file = "reviews.csv"

Which column is the target, which are the inputs, what the labels are and how
answers are scored is found in the files, shown, and can be said.
"""

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import pathlib
import re
import sys
from typing import Any

from absl import logging
import seqio
import sklearn.model_selection

from prompt_tuning.data import row_files, superglue
from prompt_tuning.data import targets as targets_lib
from prompt_tuning.data.row_files import Row
from prompt_tuning.data.sources import ExampleSource

# Names of a column that is the target, and of one that is neither.
_TARGETS = ("target", "label", "completion", "answer", "output", "class")
_NOT_INPUTS = ("idx", "id", "index")
_HELD_OUT_SEED = 0
_SHOWN = 8


@dataclasses.dataclass(frozen=True)
class FileData:
  """The examples of a task of files.

  Attributes:
    name: Of the task: that of the train file and a digest of what is read.
    inputs: Columns of the input, in order.
    target: Column of the target.
    labels: The legal targets, in the order in which they were given, or
      sorted; empty where the target is free text.
    splits: Split -> rows.
  """

  name: str
  inputs: tuple[str, ...]
  target: str
  labels: tuple[str, ...]
  splits: Mapping[str, Sequence[Row]]

  def text(self, row: Row) -> str:
    """Returns a row's input: the cell, or "column: cell ..." of several."""
    if len(self.inputs) == 1:
      return row.cells[self.inputs[0]]
    return " ".join(f"{name}: {row.cells[name]}" for name in self.inputs)

  def __str__(self) -> str:
    """A line or two for people."""
    counts = ", ".join(f"{k} {len(rows):,}" for k, rows in self.splits.items())
    lines = [
      f"{self.name}: {counts} rows; input {', '.join(self.inputs)}; target "
      f"{self.target}"
    ]
    if self.labels:
      rows = self.splits["train"]
      found = collections.Counter(row.cells[self.target] for row in rows)
      shares = [
        f"{label} {100 * found[label] / len(rows):.0f}%"
        for label in self.labels
      ]
      more = ["..."] if len(shares) > _SHOWN else []
      lines.append(
        f"{len(shares)} labels: {', '.join(shares[:_SHOWN] + more)}; accuracy "
        "and macro F1 are measured"
      )
    else:
      lines.append("free text; exact match and F1 of words are measured")
    return "\n".join(lines)


def read(
  train_file: str,
  validation_file: str | None = None,
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
    train_file: A file as `row_files.read` takes it.
    validation_file: The same; without one, `held_out` of the train file.
    test_file: The same; its target column may be missing or empty.
    input_columns: By default all but the target, "idx", "id" and "index".
    target_column: By default the one that is called "target", "label",
      "completion", "answer", "output" or "class".
    labels: The legal targets; an empty list for free text. By default those
      that occur, unless they are many. They, and targets that are one of them,
      become what the vocabulary makes of them, as answers do.
    held_out: Share of the train rows, in (0, 1), with each label's share kept
      where that can be. The same rows for the same file; rows of the same input
      stay together.
    vocabulary: The model's.

  Raises:
    ValueError: if a file or a column is missing, the target is an input too, a
      row has no input or no target, or one that is none of the labels, or the
      vocabulary cannot write a label.
  """
  files = {"train": train_file}
  files |= {"validation": validation_file} if validation_file else {}
  files |= {"test": test_file} if test_file else {}
  splits = {split: row_files.read(path) for split, path in files.items()}
  columns = list(splits["train"][0].cells)
  target = _target_column(target_column, columns, train_file)
  inputs = tuple(
    input_columns
    or (
      column
      for column in columns
      if column != target and column.lower() not in _NOT_INPUTS
    )
  )
  if not inputs or target in inputs:
    raise ValueError(
      f"{train_file}: expected columns of inputs beside {target}, got "
      f"{', '.join(inputs) or 'none'}."
    )
  for split, path in files.items():
    wanted = inputs if split == "test" else (*inputs, target)
    _check_columns(path, list(splits[split][0].cells), wanted)
  test = splits.get("test", [])
  if test and not any(row.cells.get(target, "").strip() for row in test):
    splits["test"] = [_without(row, target) for row in test]
  found = [row.cells[target] for row in splits["train"]]
  if labels is None:
    labels = targets_lib.find_labels(found)
  labels, written = targets_lib.as_written(labels, found, vocabulary)
  for split, path in files.items():
    _check_filled(path, splits[split], inputs, target)
    splits[split] = [_as_written(row, target, written) for row in splits[split]]
    _check_labels(path, splits[split], target, labels)
  by_input = _by_input(splits["train"], inputs)
  for split, path in [*files.items()][1:]:
    seen = by_input.keys() & _by_input(splits[split], inputs).keys()
    _say_seen(len(seen), train_file, path)
  if not validation_file:
    try:
      splits |= _hold_out([*by_input.values()], target, bool(labels), held_out)
    except ValueError as error:
      raise ValueError(f"{train_file}: {error}") from None
  name = _name(train_file, [inputs, target, list(labels)], splits)
  return FileData(name, inputs, target, tuple(labels), splits)


def _name(
  path: str, settings: Sequence[Any], splits: Mapping[str, Sequence[Row]]
) -> str:
  rows = {k: [dict(row.cells) for row in rows] for k, rows in splits.items()}
  content = json.dumps([*settings, rows])
  digest = hashlib.sha256(content.encode()).hexdigest()[:8]
  stem = re.sub(r"\W+", "_", pathlib.PurePath(path).stem).strip("_")
  return f"{stem or 'files'}_{digest}"


def _target_column(given: str | None, columns: Sequence[str], path: str) -> str:
  if given is not None:
    return given
  found = [column for column in columns if column.lower() in _TARGETS]
  if len(found) != 1:
    raise ValueError(
      f"{path}: expected one column called {', '.join(_TARGETS)}, got "
      f"{found or 'none'} among {', '.join(columns)}. Say which it is: "
      "--gin.TARGET_COLUMN=\"'...'\""
    )
  return found[0]


def _check_columns(
  path: str, columns: Sequence[str], wanted: Iterable[str]
) -> None:
  for column in wanted:
    if column not in columns:
      raise ValueError(
        f"{path}, line 1: expected the column {column}, got "
        f"{', '.join(columns)}."
      )


def _as_written(row: Row, target: str, written: Callable[[str], str]) -> Row:
  if target not in row.cells:
    return row  # Of a test split.
  text = written(row.cells[target])
  return dataclasses.replace(row, cells={**row.cells, target: text})


def _without(row: Row, column: str) -> Row:
  cells = {name: x for name, x in row.cells.items() if name != column}
  return dataclasses.replace(row, cells=cells)


def _check_filled(
  path: str, rows: Sequence[Row], inputs: Sequence[str], target: str
) -> None:
  for row in rows:
    where = f"{path}, line {row.line}"
    if not any(row.cells[name].strip() for name in inputs):
      raise ValueError(
        f"{where}: expected a text in {' or '.join(inputs)}, got empty cells."
      )
    # A test split may have no target.
    if not row.cells.get(target, "?").strip():
      raise ValueError(
        f"{where}, column {target}: expected a target, got an empty cell."
      )


def _check_labels(
  path: str, rows: Sequence[Row], target: str, labels: Sequence[str]
) -> None:
  for row in rows:
    if labels and row.cells.get(target, labels[0]) not in labels:
      raise ValueError(
        f"{path}, line {row.line}, column {target}: expected one of the labels "
        f"{', '.join(labels)}, got {row.cells[target]!r}. For free text, "
        "--gin.LABELS=[]."
      )


def _by_input(
  rows: Sequence[Row], inputs: Sequence[str]
) -> dict[tuple[str, ...], list[Row]]:
  found = collections.defaultdict(list)
  for row in rows:
    found[tuple(row.cells[name] for name in inputs)].append(row)
  return found


def _say_seen(count: int, train_file: str, other_file: str) -> None:
  if count:
    logging.warning(
      "%d inputs of %s are in %s too: what was trained on is measured.",
      count,
      other_file,
      train_file,
    )


def _hold_out(
  groups: Sequence[Sequence[Row]], target: str, by_label: bool, share: float
) -> dict[str, Sequence[Row]]:
  """Parts train rows, those of the same input together, from validation's."""
  if not 0 < share < 1:
    raise ValueError(f"expected HELD_OUT between 0 and 1, got {share}.")
  # An input that comes back more often than that would be all of it.
  most = max(round(share * sum(map(len, groups))), 1)
  trained = [rows for rows in groups if len(rows) > most]
  groups = [rows for rows in groups if len(rows) <= most]
  targets = [rows[0].cells[target] for rows in groups]
  counts = collections.Counter(targets)
  size = max(round(share * len(groups)), 1)
  if size >= len(groups):
    raise ValueError(
      "expected rows to train on and others to hold out, got "
      f"{len(trained) + len(groups)} different inputs in all."
    )
  # Each label needs a row on both sides.
  stratify = by_label and min(counts.values()) > 1
  stratify &= len(counts) <= min(size, len(groups) - size)
  parts = sklearn.model_selection.train_test_split(
    groups,
    test_size=size,
    random_state=_HELD_OUT_SEED,
    stratify=targets if stratify else None,
  )
  train, validation = (
    sorted(itertools.chain.from_iterable(part), key=lambda row: row.line)
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
  held_out: float = 0.1,
  *,
  vocabulary: seqio.Vocabulary,
) -> str:
  """Registers a task of files with seqio, and returns its name.

  It is registered as `_prefixed` and `_sentinel` too. What was found is
  written to stderr. The arguments are those of `read`.
  """
  return _register(
    *(train_file, validation_file, test_file),
    _listed("INPUT_COLUMNS", input_columns),
    target_column,
    _listed("LABELS", labels),
    held_out,
    tuple(map(_version, (train_file, validation_file, test_file))),
    _Hashable(vocabulary),
  )


def _version(path: str | None) -> tuple[float, int] | None:
  """What changes when a file on disk does."""
  if path is None or not os.path.exists(path):
    return None
  stat = os.stat(path)
  return stat.st_mtime, stat.st_size


def _listed(macro: str, given: Sequence[str] | None) -> tuple[str, ...] | None:
  if isinstance(given, str):
    raise ValueError(
      f"Expected {macro} to be a list, got {given!r}. Write "
      f"--gin.{macro}=\"['{given}']\""
    )
  return None if given is None else tuple(given)


@dataclasses.dataclass(frozen=True)
class _Hashable:
  """A vocabulary, which can be compared but not hashed."""

  vocabulary: seqio.Vocabulary

  def __hash__(self) -> int:
    return hash(type(self.vocabulary))


# gin calls `file_task` for each place that it is bound to.
@functools.cache
def _register(*arguments) -> str:
  *of_files, _, words = arguments
  data = read(*of_files, vocabulary=words.vocabulary)
  print(data, file=sys.stderr)
  if data.name in seqio.TaskRegistry.names():
    return data.name  # The same rows.
  metric_fns, postprocess = targets_lib.scoring(data.labels)
  superglue.add_task(
    data.name,
    superglue.SuperGlueTask(
      name=data.name,
      tfds_name="",
      prefix=f"{pathlib.PurePath(arguments[0]).stem} ",
      preprocess=lambda dataset: dataset,
      postprocess=postprocess,
      metric_fns=metric_fns,
      labels=data.labels,
      class_words=data.labels,
      splits=tuple(data.splits),
    ),
    ExampleSource(
      lambda split: [
        {
          "inputs": data.text(row),
          "targets": row.cells.get(data.target, ""),
          "idx": row.line,
        }
        for row in data.splits[split]
      ],
      {split: len(rows) for split, rows in data.splits.items()},
    ),
  )
  return data.name
