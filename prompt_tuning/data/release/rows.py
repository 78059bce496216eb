"""The rows of the official SuperGLUE, GLUE and SQuAD files, and their checks.

A row may spell a value in every way that TFDS reads as that value: AX-b's ids,
for example, are strings.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import csv
import dataclasses
import io
import json
import pathlib
import re
import tomllib
from typing import Any

from prompt_tuning import project_files

Row = Mapping[str, Any]
# Field, expected, got.
Problem = tuple[str, str, Any]

# TFDS keeps numbers as int32, and reads them from strings too.
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,10}")
_DECIMAL = re.compile(r"[0-9]{1,3}(\.[0-9]{1,20})?")
_MAX_NUMBER = 2**31 - 1
# Two noun phrases of WSC's test split, with other words in between.
_INTERRUPTED = ("Kamenev and Zinoviev", "Kamenev, Zinoviev, and Stalin")


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


def _squad_questions(row: Row) -> Iterator[Row]:
  for article in row["data"]:
    for paragraph in article["paragraphs"]:
      yield from paragraph["qas"]


def _unanswered(questions: Iterable[Row]) -> Iterator[Problem]:
  for question in questions:
    if not question["answers"]:
      where = f"answers of {question['question']!r:.60}"
      yield where, "one or more", "none"


@dataclasses.dataclass(frozen=True)
class ReleaseTask:
  """One task of the release.

  Attributes:
    config: Its name in TFDS.
    tfds_name: Data set, configuration and version there.
    folder: Its name in the release.
    files: Split -> file in the folder.
    counts: Split -> its official number of examples; 0 if it is not fixed.
    row: The schema of a row: "text"; a "number", which may be a string; an
      "index", which may not; a "similarity", from 0 to 5; the legal values (a
      tuple); an object (a dict of these) or a list of one of these. The test
      split may lack a field whose name ends in "?".
    format: The format of the files, in `_READERS`.
    columns: The columns of a table without a header.
    answers: The leaderboard's names of the classes, in class order; empty if
      the answer is free text.
    submitted: The name of its file in a submission, without suffix; empty if it
      has none. By default it is the folder's name.
    server: The server from which TFDS downloads the files; empty if it cannot.
    idx: A row -> the ids of its examples, which are unique in a file.
    wrong_spans: A row -> the spans that are outside their text.
  """

  config: str
  tfds_name: str
  folder: str
  files: Mapping[str, str]
  counts: Mapping[str, int]
  row: Row
  format: str = "jsonl"
  columns: tuple[str, ...] = ()
  answers: tuple[str | int, ...] = ()
  submitted: str | None = None
  server: str = "https://dl.fbaipublicfiles.com"
  idx: Callable[[Row], Iterable[Any]] = lambda row: [int(row["idx"])]
  wrong_spans: Callable[[Row], Iterable[Problem]] = lambda row: ()

  @property
  def name(self) -> str:
    """The name in `task_rows.TaskRow`."""
    return self.config.removesuffix(".fixed")

  @property
  def submitted_file(self) -> str:
    """The name of its file in a submission; empty if it has none."""
    stem = self.folder if self.submitted is None else self.submitted
    return stem and f"{stem}.{self.format}"

  def path(self, split: str) -> str:
    """Returns a split's file in the release."""
    return str(pathlib.PurePosixPath(self.folder, self.files[split]))


def _schema(kind: Any, values: Mapping[str, Any]) -> Any:
  """Returns a schema with the legal values in place of the names of sets."""
  if isinstance(kind, dict):
    return {name: _schema(x, values) for name, x in kind.items()}
  if isinstance(kind, list):
    return [_schema(kind[0], values)]
  return tuple(values[kind]) if kind in values else kind


def _read_tasks(file: str) -> Iterator[ReleaseTask]:
  tables = tomllib.loads(pathlib.Path(__file__).with_name(file).read_text())
  for table in tables["tasks"]:
    fields = {**tables["defaults"], **table}
    config = fields["config"]
    fields["tfds_name"] = fields["tfds_name"].format(config)
    fields["row"] = _schema(fields["row"], tables.get("values", {}))
    for name in ("answers", "columns"):
      fields[name] = tuple(fields.get(name, ()))
    checks = _CHECKS.get(config) or _CHECKS.get(fields.get("format"), {})
    yield ReleaseTask(**fields, **checks)


# Configuration, or format -> its functions.
_CHECKS: dict[str | None, dict[str, Any]] = {
  "multirc": {"idx": _multirc_idx},
  "record": {
    "idx": lambda row: [int(query["idx"]) for query in row["qas"]],
    "wrong_spans": _record_spans,
  },
  "wic": {"wrong_spans": _wic_spans},
  "wsc.fixed": {"wrong_spans": _wsc_spans},
  "json": {
    # TFDS joins the answers to a question that occurs twice.
    "idx": lambda row: {question["id"] for question in _squad_questions(row)},
    "wrong_spans": lambda row: _unanswered(_squad_questions(row)),
  },
  "mrqa": {
    "idx": lambda row: [question["qid"] for question in row["qas"]],
    "wrong_spans": lambda row: _unanswered(row["qas"]),
  },
}
# The word of `prompt-tuning prepare` -> the tasks of the release.
RELEASES: dict[str, tuple[ReleaseTask, ...]] = {
  "superglue": tuple(_read_tasks("superglue.toml")),
  "glue": tuple(_read_tasks("glue.toml")),
  "squad": (*_read_tasks("squad.toml"), *_read_tasks("mrqa.toml")),
}


def table(task: ReleaseTask, split: str, content: bytes) -> Iterator[Row]:
  """Yields the rows of a table, with their numbers as "idx".

  Like TFDS, this takes quotation marks as text and leaves out rows that lack a
  column or the label. A leading byte order mark is not part of the text.

  Raises:
    ValueError: if the table lacks a column.
  """
  text = io.StringIO(content.decode("utf-8-sig"), newline=None)
  is_test = split.startswith("test")
  names = None if is_test else task.columns or None
  rows = csv.DictReader(text, names, delimiter="\t", quoting=csv.QUOTE_NONE)
  labels = [x.rstrip("?") for x in task.row if x.endswith("?") and not is_test]
  needed = [*(x for x in task.row if not x.endswith("?")), *labels]
  if lost := [x for x in needed if x not in (rows.fieldnames or ())]:
    raise ValueError(
      f"expected the columns {needed}, got none called {lost[0]}"
    )
  for number, row in enumerate(rows):
    values = [row[name] for name in needed]
    if None not in values and "" not in values[len(values) - len(labels) :]:
      yield {**row, "idx": number}


def _rows(
  task: ReleaseTask, split: str, lines: Iterable[bytes], path: str, remedy: str
) -> Iterator[tuple[str, Row]]:
  """Yields the rows of a file, and their places."""
  if task.format == "json":
    with project_files.parsing(path, "JSON", remedy):
      row = json.loads(b"".join(lines).decode("utf-8"))
    yield path, row
    return
  if task.format == "tsv":
    with project_files.parsing(path, "such a table", remedy):
      rows = list(table(task, split, b"".join(lines)))
    for row in rows:
      yield f"{path}, row {row['idx']}", row
    return
  for number, line in enumerate(lines, 1):
    if task.format == "mrqa" and number == 1:
      continue  # The header.
    where = f"{path}, line {number}"
    with project_files.parsing(where, "JSON", remedy):
      row = json.loads(line.decode("utf-8"))
    yield where, row


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
    lines: The lines of the file.
    path: The file's name, for messages.
    remedy: What to do about a wrong file.

  Raises:
    ValueError: at the first wrong row, with file, line, field, expected, got.
  """
  place_by_idx: dict[Any, str] = {}
  for where, row in _rows(task, split, lines, path, remedy):
    found = [*_wrong_values(row, task.row, split)] or [*task.wrong_spans(row)]
    for idx in () if found else task.idx(row):
      if idx in place_by_idx:
        other = place_by_idx[idx].removeprefix(f"{path}, ")
        got = f"{idx!r}, also on {other}"
        found.append(("idx", "one that no other example has", got))
      place_by_idx[idx] = where
    for field, expected, got in found:
      raise ValueError(
        f"{where}, field {field or '(the line)'}: expected {expected}, got "
        f"{got}. {remedy}"
      )
  if task.counts[split] not in (0, len(place_by_idx)):
    raise ValueError(
      f"{path}: expected {task.counts[split]} examples, got "
      f"{len(place_by_idx)}. {remedy}"
    )


def _wrong_values(
  value: Any, expected: Any, split: str, field: str = ""
) -> Iterator[Problem]:
  """Compares a value of a row with `ReleaseTask.row`, recursively."""
  # A schema that is a dict or a list describes a value of that type.
  kind = type(expected)
  if isinstance(expected, str):
    kind = int if expected == "index" else str
  if expected == "number":
    if isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value):
      value = int(value)
    if type(value) is not int or abs(value) > _MAX_NUMBER:
      yield field, "a whole number", _shown(value)
  elif expected == "similarity":
    if not (_DECIMAL.fullmatch(str(value)) and 0 <= float(value) <= 5):
      yield field, "a number from 0 to 5", _shown(value)
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
      hidden = name.endswith("?") and split.startswith("test")
      name = name.rstrip("?")
      inner_field = f"{field}.{name}".lstrip(".")
      if name in value:
        yield from _wrong_values(value[name], inner, split, inner_field)
      elif not hidden:
        yield inner_field, "a value", "none"


def _shown(value: Any) -> str:
  return f"{value!r:.60} ({type(value).__name__})"
