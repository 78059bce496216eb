"""Rows of CSV, TSV, JSON and Parquet files, or tables, with named columns.

Every problem with a file is a ValueError that names the file, the line and the
column.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import csv
import dataclasses
import io
import json
import math
import os
import pathlib
import re
from typing import Any

from etils import epath

from prompt_tuning import project_files

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
# Limit of a cell in characters; the default of csv is 128 KiB.
_LONGEST_CELL = 1 << 24
# Names of target columns, and of columns that are neither input nor target:
# the last two are those of a data frame's index in a file, written once or more
# often ("Unnamed: 0.1"), and in a Dataset.
_TARGETS = ("target", "label", "completion", "answer", "output", "class")
# They may be inputs beside one of those.
_OTHER_TARGETS = ("sentiment", "category")
_NOT_INPUTS = re.compile(
  r"(?i)idx|id|index|unnamed: 0(\.\d+)*|__index_level_0__"
)
_JSON_REMEDY = (
  "Mend that line. Each line is an object, or a .json file one list of objects."
)
# The csv module reads a quoted cell after a delimiter and a space like this.
_SPACE_AND_QUOTES = re.compile(r' +".*" *', re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Row:
  """One row.

  Attributes:
    where: Its place, for messages.
    line: The line where it starts, or the number of the row, counted from 1.
    cells: Column -> value.
  """

  where: str
  line: int
  cells: Mapping[str, Any]

  def text(self, column: str) -> str:
    """Returns a cell as text; a missing value becomes "".

    Raises:
      ValueError: if the cell is not text, a number, or true or false.
    """
    value, where = self.cells[column], f"{self.where}, column {column}"
    if isinstance(value, str):
      return _unicode(value, where)
    # pandas reads an empty cell as NaN.
    if value is None or (isinstance(value, float) and math.isnan(value)):
      return ""
    if isinstance(value, bool | int | float) and abs(value) != math.inf:
      return str(value)
    raise ValueError(
      f"{where}: expected text, a number, or true or false, got "
      f"{json.dumps(value, default=str)[:40]}."
    )


def is_table(data: Any) -> bool:
  """Returns whether this is a pandas or Polars frame, or a Dataset."""
  return hasattr(data, "to_dict") and (
    hasattr(data, "columns") or hasattr(data, "column_names")
  )


def read(path: Any) -> list[Row]:
  """Reads all rows of a file or a table.

  Args:
    path: A .csv file as spreadsheets write it, with commas or, if its header
      has none, semicolons; a .tsv file; a .jsonl or .json file of objects, one
      per line or in a list; a .parquet file; or a table, see `is_table`. Files
      are on a disk or at gs://, text files in UTF-8. The first line of .csv and
      .tsv files names the columns.

  Returns:
    At least one row; each has the same columns, in the file's order.

  Raises:
    ValueError: if the file is missing or malformed.
  """
  where = path
  if is_table(path):
    where = "The table"
    features = dict(getattr(path, "features", {}))
    names = {k: x.names for k, x in features.items() if hasattr(x, "names")}
    rows = list(_records(where, path, names))
  elif (ending := pathlib.PurePath(path).suffix.lower()) == ".parquet":
    rows = list(_records(path, *_parquet(path)))
  elif ending in (".jsonl", ".json"):
    text = _text(path)
    is_list = ending == ".json" and text.lstrip().startswith("[")
    records = _json_list(path, text) if is_list else _json_lines(path, text)
    rows = list(_objects(records))
  elif ending not in SUFFIXES:
    raise ValueError(
      f"Expected a file that ends in {', '.join(SUFFIXES)}, got {path}."
    )
  else:
    text = _text(path)
    if said := re.match("sep=(.)(?=[\r\n])", text):  # By Excel.
      text, delimiter = text[said.end() :], said[1]
    elif ending == ".tsv":
      delimiter = "\t"
    else:
      header = re.split("[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0]
      # A delimiter in a quoted name does not count.
      header = re.sub('"[^"]*"', "", header)
      delimiter = ";" if ";" in header and "," not in header else ","
    rows = list(_delimited(path, text, delimiter))
  if not rows:
    raise ValueError(f"{where}: expected rows of examples, got none.")
  return rows


def choose_columns(
  rows: Mapping[str, Sequence[Row]],
  paths: Mapping[str, str],
  inputs: Sequence[str] | None,
  target: str | None,
) -> tuple[tuple[str, ...], str]:
  """Returns the input columns and the target column, guessed unless given.

  Args:
    rows: Split -> its rows.
    paths: Split -> its file.
    inputs: By default all but the target, "idx", "id", "index" and the index of
      a data frame.
    target: By default the column called "target", "label", "completion",
      "answer", "output" or "class", or else "sentiment" or "category".

  Raises:
    ValueError: if a column is missing, the target is an input too, or a guessed
      input repeats the target under other names.
  """
  path, columns = paths["train"], list(rows["train"][0].cells)
  if target is None:
    found = [x for x in columns if x.lower() in _TARGETS]
    found = found or [x for x in columns if x.lower() in _OTHER_TARGETS]
    if len(found) != 1:
      names = ", ".join(_TARGETS + _OTHER_TARGETS)
      raise ValueError(
        f"{path}: expected one column called {names}, got "
        f"{found or 'none'} among {', '.join(columns)}. Rename a column, or "
        "give its name: --gin.TARGET_COLUMN=\"'...'\", or --target_column=... "
        "in prompt-tuning eval and inspect."
      )
    target = found[0]
  others = (x for x in columns if x != target and not _NOT_INPUTS.fullmatch(x))
  is_found, inputs = not inputs, tuple(inputs or others)
  if not inputs or target in inputs:
    raise ValueError(
      f"{path}: expected input columns other than {target}, got "
      f"{', '.join(inputs) or 'none'}."
    )
  for split, path in paths.items():
    there = rows[split][0].cells
    for column in inputs if split == "test" else (*inputs, target):
      if column not in there:
        raise ValueError(
          f"{path}, line 1: expected the column {column}, got "
          f"{', '.join(there)}."
        )
  for column in inputs if is_found and len(inputs) > 1 else ():
    if _repeats(rows["train"], column, target):
      raise ValueError(
        f"{paths['train']}: the column {column} repeats {target} under other "
        "names, so the input would contain the answer. Name the input columns: "
        "--gin.INPUT_COLUMNS=\"['...']\", or --input_columns=... in "
        "prompt-tuning eval and inspect. In Python, leave the column out."
      )
  return inputs, target


def _repeats(rows: Sequence[Row], column: str, target: str) -> bool:
  """Returns whether a column's values and the labels map one to one."""
  pairs = {(str(row.cells[column]), str(row.cells[target])) for row in rows}
  first, second = (len(set(x)) for x in zip(*pairs, strict=True))
  return 1 < len(pairs) == first == second <= len(rows) / 4


def _parquet(path: str) -> tuple[Any, dict[str, Sequence[str]]]:
  """Returns the table in a file, and column -> the names of its classes."""
  import pandas as pd
  from pyarrow import parquet

  try:
    file = io.BytesIO(epath.Path(path).read_bytes())
    schema = parquet.read_schema(file)
    # The description that the library datasets writes.
    text = (schema.metadata or {}).get(b"huggingface", b"{}")
    features = json.loads(text).get("info", {}).get("features", {})
    kinds = {k: x for k, x in features.items() if isinstance(x, dict)}
    # Else NumPy makes floats of integers where one is missing.
    table = pd.read_parquet(file, dtype_backend="numpy_nullable")
    return table, {k: [*x["names"]] for k, x in kinds.items() if "names" in x}
  except Exception as error:  # Its libraries raise many classes.
    why = " ".join(str(error).split())[:200]
    raise ValueError(
      f"{path} cannot be read as Parquet: {why}. The working directory is "
      f"{os.getcwd()}."
    ) from error


def _records(
  path: str, table: Any, names: Mapping[str, Sequence[str]]
) -> Iterator[Row]:
  """Yields the rows of a table, which are counted from 1.

  Args:
    path: Its name, for messages.
    table: The table.
    names: Column -> the names of its classes, in the order of their numbers;
      other numbers are hidden labels.
  """
  is_frame = hasattr(table, "columns")
  columns = [str(x) for x in table.columns] if is_frame else []
  for column in columns:
    if columns.count(column) > 1:
      raise ValueError(f"{path}: two columns are called {column}.")
  if hasattr(table, "to_dicts"):  # Polars.
    table = table.to_dicts()
  elif is_frame:
    missing = table.isna()
    table = table.astype(object).mask(missing, None).to_dict("records")
  elif hasattr(table, "format"):  # Rows may be of NumPy's or PyTorch's objects.
    table = table.with_format(columns=table.format["columns"])
  for number, record in enumerate(table, 1):
    cells = {str(k): x for k, x in record.items()}
    for column in names.keys() & cells.keys():
      known, index = names[column], cells[column]
      cells[column] = known[index] if index in range(len(known)) else None
    yield Row(f"{path}, row {number}", number, cells)


def _text(path: str) -> str:
  try:
    content = epath.Path(path).read_bytes()
  # Libraries of buckets raise many classes without a network or an account.
  except Exception as e:
    why = getattr(e, "strerror", None) or str(e) or type(e).__name__
    if isinstance(e, FileNotFoundError):  # A bucket's message says less.
      why = "No such file or directory"
    text = f"{path} cannot be read: {' '.join(why.split())[:200]}."
    if "://" not in path:
      text += f" The working directory is {os.getcwd()}."
    raise ValueError(text) from e
  with project_files.parsing(path, "text", "Save the file as UTF-8."):
    # Spreadsheets put a byte order mark in front.
    return content.decode("utf-8-sig")


def _delimited(path: str, text: str, delimiter: str) -> Iterator[Row]:
  csv.field_size_limit(_LONGEST_CELL)
  lines = io.StringIO(text, newline="").readlines()
  reader = csv.reader(lines, strict=True, delimiter=delimiter)
  begin = 1
  columns: list[str] = []
  try:
    for cells in reader:
      line, begin = begin, reader.line_num + 1
      if not cells:  # An empty line.
        continue
      for number, cell in enumerate(cells):
        column = columns[number] if number < len(columns) else number + 1
        where = f"{path}, line {line}, column {column}"
        # Inside a quoted cell, quotes would be doubled.
        if _SPACE_AND_QUOTES.fullmatch(cell) and (
          cell in "".join(lines[line - 1 : reader.line_num])
        ):
          raise ValueError(
            f"{where}: expected no space in front of the quotes, got "
            f"{cell[:40]}. Remove the space."
          )
        # A quote that opens a text takes in the cells up to the next quote.
        if delimiter == "\t" and "\t" in cell:
          raise ValueError(
            f"{where}: the cell starts with a quote, so it runs to the next "
            "quote, past a tab. Write a literal quote twice, in quotes. For "
            "text with tabs, use .csv or .jsonl."
          )
      if not columns:
        # pandas and R write an index without a name.
        first, *others = map(str.strip, cells)
        columns = [first or "index" if others else first, *others]
        for number, column in enumerate(columns, 1):
          if not column:
            raise ValueError(
              f"{path}, line {line}: expected a name for each column, got none "
              f"for column {number}."
            )
          if columns.index(column) != number - 1:
            raise ValueError(
              f"{path}, line {line}: two columns are called {column}."
            )
        continue
      if len(cells) != len(columns):
        raise ValueError(
          f"{path}, line {line}: expected {len(columns)} cells, "
          f"{', '.join(columns)}, got {len(cells)}. Put quotes around a cell "
          f'that contains {delimiter!r}: "...".'
        )
      named = dict(zip(columns, cells, strict=True))
      yield Row(f"{path}, line {line}", line, named)
  except csv.Error as e:
    raise ValueError(
      f"{path}, line {begin}: {e}. Double each quote inside a quoted cell."
    ) from e


def _json_lines(path: str, text: str) -> Iterator[tuple[str, int, Any]]:
  """Yields the place, the number and the value of each nonempty line."""
  # Not splitlines(), which also splits inside strings.
  for line, content in enumerate(text.split("\n"), 1):
    if not content.strip():
      continue
    where = f"{path}, line {line}"
    with project_files.parsing(where, "a JSON object", _JSON_REMEDY):
      value = json.loads(content, object_pairs_hook=_fields)
    yield where, line, value


def _json_list(path: str, text: str) -> Iterator[tuple[str, int, Any]]:
  """Yields the place, the number and the value of each item of a list."""
  with project_files.parsing(path, "a list of JSON objects", "Fix it."):
    values = json.loads(text, object_pairs_hook=_fields)
  for number, value in enumerate(values, 1):
    yield f"{path}, row {number}", number, value


def _objects(values: Iterable[tuple[str, int, Any]]) -> Iterator[Row]:
  """Yields a row for each value; all must be objects with the same columns."""
  columns: list[str] | None = None
  for where, line, fields in values:
    if not isinstance(fields, dict):
      raise ValueError(
        f"{where}: expected a JSON object, got {type(fields).__name__}."
      )
    columns = columns or [_unicode(x, f"{where}, a column") for x in fields]
    for column in dict.fromkeys([*columns, *fields]):
      if column not in fields or column not in columns:
        raise ValueError(
          f"{where}: expected the columns of the first row, "
          f"{', '.join(columns)}; {column} is "
          f"{'missing' if column in columns else 'not one of them'}."
        )
    yield Row(where, line, {x: fields[x] for x in columns})


def _fields(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
  fields: dict[str, Any] = {}
  for column, value in pairs:
    if column in fields:
      raise ValueError(f"two columns are called {column}")
    fields[column] = value
  return fields


def _unicode(text: str, where: str) -> str:
  try:
    text.encode()
  except UnicodeEncodeError as e:
    raise ValueError(
      f"{where}: expected Unicode text, got half of a character, "
      f"{text[e.start]!r}."
    ) from e
  return text
