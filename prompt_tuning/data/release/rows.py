"""The rows of the official SuperGLUE release, and their check.

A row may spell a value in every way that TFDS reads as that value: AX-b's ids,
for example, are strings.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import dataclasses
import json
import pathlib
import re
import tomllib
from typing import Any

from prompt_tuning import project_files

Row = Mapping[str, Any]
# Field, expected, got.
Problem = tuple[str, str, Any]

_FILES = {
  "train": "train.jsonl",
  "validation": "val.jsonl",
  "test": "test.jsonl",
}
# TFDS keeps numbers as int32, and reads them from strings too.
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,10}")
_MAX_NUMBER = 2**31 - 1
# Two noun phrases of WSC's test split, with other words in between.
_INTERRUPTED = ("Kamenev and Zinoviev", "Kamenev, Zinoviev, and Stalin")


class WholeNumber:
  """A number that a string may spell, in `ReleaseTask.row`."""


def _multirc_idx(row: Row) -> Iterator[Any]:
  for question in row["passage"]["questions"]:
    for answer in question["answers"]:
      yield int(row["idx"]), int(question["idx"]), int(answer["idx"])


def _record_spans(row: Row) -> Iterator[Problem]:
  length = len(row["passage"]["text"])
  for i, entity in enumerate(row["passage"]["entities"]):
    start, end = entity["start"], entity["end"]
    if not 0 <= start <= end < length:
      expected = f"0 <= start <= end < {length}, the passage's length"
      yield f"passage.entities[{i}]", expected, (start, end)


def _wic_spans(row: Row) -> Iterator[Problem]:
  for n in (1, 2):
    start, end = int(row[f"start{n}"]), int(row[f"end{n}"])
    length = len(row[f"sentence{n}"])
    if not 0 <= start < end <= length:
      expected = f"0 <= start < end <= {length}, the sentence's length"
      yield f"start{n}, end{n}", expected, (start, end)


def _wsc_spans(row: Row) -> Iterator[Problem]:
  length = len(row["text"].split())
  for n in (1, 2):
    index = row["target"][f"span{n}_index"]
    if not 0 <= index < length:
      yield f"target.span{n}_index", f"a word's index in [0, {length})", index
    span = row["target"][f"span{n}_text"]
    # TFDS repairs case, an extra full stop, and line breaks.
    words = span.rstrip(".").replace("\n", " ").lower()
    if words not in row["text"].lower() and span not in _INTERRUPTED:
      yield f"target.span{n}_text", "words of the text", repr(span)


@dataclasses.dataclass(frozen=True)
class ReleaseTask:
  """One task of the release.

  Attributes:
    config: Its name in TFDS.
    folder: Its name in the release.
    counts: Split -> its official number of examples.
    row: The schema of a row: a type, `WholeNumber`, the legal values (a tuple),
      an object (a dict of these) or a list of one of these. The test split may
      lack a field whose name ends in "?".
    answers: The leaderboard's names of the classes, in class order; empty where
      the answer is free text.
    idx: A row -> the ids of its examples, which are unique in a file.
    wrong_spans: A row -> the spans that are outside their text.
  """

  config: str
  folder: str
  counts: Mapping[str, int]
  row: Row
  answers: tuple[str | int, ...] = ()
  idx: Callable[[Row], Iterable[Any]] = lambda row: [int(row["idx"])]
  wrong_spans: Callable[[Row], Iterable[Problem]] = lambda row: ()

  @property
  def name(self) -> str:
    """The name in `superglue.SuperGlueTask`."""
    return self.config.removesuffix(".fixed")

  @property
  def submitted_file(self) -> str:
    """The name of its file in a submission."""
    return f"{self.folder}.jsonl"

  def file_name(self, split: str) -> str:
    # The diagnostics have one file, named after the folder.
    return _FILES[split] if len(self.counts) > 1 else f"{self.folder}.jsonl"


def _schema(kind: Any, values: Mapping[str, Any]) -> Any:
  """Returns the schema that a value of `tasks.toml` names."""
  if isinstance(kind, dict):
    return {name: _schema(x, values) for name, x in kind.items()}
  if isinstance(kind, list):
    return [_schema(kind[0], values)]
  types = {"text": str, "number": WholeNumber, "index": int}
  return types.get(kind) or tuple(values[kind])


def _read_tasks() -> Iterator[ReleaseTask]:
  content = pathlib.Path(__file__).with_name("tasks.toml").read_text()
  tables = tomllib.loads(content)
  for fields in tables["tasks"]:
    row = _schema(fields.pop("row"), tables["values"])
    answers = tuple(fields.pop("answers", ()))
    checks = _CHECKS.get(fields["config"], {})
    yield ReleaseTask(**fields, row=row, answers=answers, **checks)


# Configuration -> its functions.
_CHECKS: dict[str, dict[str, Any]] = {
  "multirc": {"idx": _multirc_idx},
  "record": {
    "idx": lambda row: [int(query["idx"]) for query in row["qas"]],
    "wrong_spans": _record_spans,
  },
  "wic": {"wrong_spans": _wic_spans},
  "wsc.fixed": {"wrong_spans": _wsc_spans},
}
TASKS = tuple(_read_tasks())


def check_lines(
  task: ReleaseTask,
  split: str,
  lines: Iterable[bytes],
  path: str,
  remedy: str = "Use the file of the official release.",
) -> None:
  """Checks every row of a file, and the number of examples.

  Args:
    task: The task of the file.
    split: "train", "validation" or "test".
    lines: The lines of the jsonl file.
    path: The file's name, for messages.
    remedy: What to do about a wrong file.

  Raises:
    ValueError: at the first wrong row, with file, line, field, expected, got.
  """
  lines_by_idx: dict[Any, int] = {}
  for number, line in enumerate(lines, 1):
    where = f"{path}, line {number}"
    with project_files.parsing(where, "JSON", remedy):
      row = json.loads(line.decode("utf-8"))
    found = [*_wrong_values(row, task.row, split)] or [*task.wrong_spans(row)]
    for idx in () if found else task.idx(row):
      if idx in lines_by_idx:
        got = f"{idx!r}, also on line {lines_by_idx[idx]}"
        found.append(("idx", "one that no other example has", got))
      lines_by_idx[idx] = number
    for field, expected, got in found:
      raise ValueError(
        f"{where}, field {field or '(the line)'}: expected {expected}, got "
        f"{got}. {remedy}"
      )
  if len(lines_by_idx) != task.counts[split]:
    raise ValueError(
      f"{path}: expected {task.counts[split]} examples, got "
      f"{len(lines_by_idx)}. {remedy}"
    )


def _wrong_values(
  value: Any, expected: Any, split: str, field: str = ""
) -> Iterator[Problem]:
  """Compares a value of a row with `ReleaseTask.row`, recursively."""
  # A schema that is a dict or a list describes a value of that type.
  kind = expected if isinstance(expected, type) else type(expected)
  if expected is WholeNumber:
    if isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value):
      value = int(value)
    if type(value) is not int or abs(value) > _MAX_NUMBER:
      yield field, "a whole number", _shown(value)
  elif isinstance(expected, tuple):
    # By type as well: to Python, True is 1.
    if not any(value == v and type(value) is type(v) for v in expected):
      yield field, f"one of {expected}", repr(value)
  elif type(value) is not kind:
    yield field, kind.__name__, _shown(value)
  elif kind is str:
    try:
      value.encode("utf-8")
    except UnicodeEncodeError:  # JSON can spell half a character.
      yield field, "text", _shown(value)
  elif isinstance(expected, list):
    for i, item in enumerate(value):
      yield from _wrong_values(item, expected[0], split, f"{field}[{i}]")
  elif isinstance(expected, dict):
    for name, inner in expected.items():
      hidden = name.endswith("?") and split == "test"
      name = name.rstrip("?")
      inner_field = f"{field}.{name}".lstrip(".")
      if name in value:
        yield from _wrong_values(value[name], inner, split, inner_field)
      elif not hidden:
        yield inner_field, "a value", "none"


def _shown(value: Any) -> str:
  return f"{value!r:.60} ({type(value).__name__})"
