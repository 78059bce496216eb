"""Tests of tasks from a user's files: columns, labels and held-out rows."""

import functools
import json
import logging
import types

import pandas as pd
import pyarrow
from pyarrow import parquet
import pytest
import seqio

from prompt_tuning.data import files, row_files, vocabulary

BYTES = seqio.ByteVocabulary()
read = functools.partial(files.read, vocabulary=BYTES)


def write(path, rows, header="text,label"):
  path.write_text("\n".join([header, *rows]) + "\n")
  return str(path)


def label(i):
  """Returns the label of row `i`; the spaces around it must not count."""
  return ("bad", "good", " good", "good ")[i % 4]


def reviews(tmp_path, count=40):
  rows = [f"film {i},{label(i)}" for i in range(count)]
  return write(tmp_path / "my reviews.csv", rows)


def test_a_file_always_gives_the_same_columns_labels_rows_and_name(tmp_path):
  data = read(reviews(tmp_path))
  assert (data.inputs, data.target) == (("text",), "label")
  assert data.targets.labels == ("bad", "good")
  assert "2 labels: bad 25%, good 75%" in str(data)
  held_out = {row["idx"]: row["targets"] for row in data.splits["validation"]}
  assert held_out == {8: "good", 11: "good", 22: "bad", 33: "good"}
  trained = {row["idx"]: row["targets"] for row in data.splits["train"]}
  assert set(trained) == set(range(2, 42)) - set(held_out)
  assert set(trained.values()) == {"bad", "good"}
  assert data.name == "my_reviews_004e46bf"
  assert read(reviews(tmp_path, 44)).name != data.name


class Table:
  """A table with the interface of a datasets.Dataset."""

  def __init__(self, rows):
    self._rows = rows
    self.column_names = list(rows[0])

  def to_dict(self):
    return {name: [x[name] for x in self._rows] for name in self.column_names}

  def __iter__(self):
    return iter(self._rows)


def test_another_file_is_refused_as_a_file(tmp_path):
  path = tmp_path / "reviews.csv.gz"
  assert not files.is_data(path)
  path.touch()
  assert files.is_data(path)
  with pytest.raises(ValueError, match=r"ends in \.csv.* got .*csv\.gz"):
    files.pairs(path)


class FormattedTable(Table):
  """A datasets.Dataset after `with_format("numpy")`."""

  def __init__(self, rows):
    super().__init__(rows)
    self.format = {"type": "numpy", "columns": ["text", "label"]}

  def with_format(self, type=None, columns=None):
    assert type is None
    return Table([{x: row[x] for x in columns} for row in self._rows])

  def __iter__(self):
    raise AssertionError


def test_rows_of_other_libraries_are_read_as_pythons():
  rows = [{"text": "a", "label": 1}, {"text": "b", "label": 0}]
  formatted = FormattedTable([{**x, "hidden": [1]} for x in rows])
  frame = types.SimpleNamespace(  # A Polars frame's interface.
    columns=["text", "label"], to_dict=dict, to_dicts=lambda: rows
  )
  for data in (formatted, frame):
    assert files.is_data(data)
    assert files.pairs(data) == [("a", "1"), ("b", "0")]


def test_tables_and_parquet_are_as_the_file(tmp_path):
  rows = [{"text": f"film {i}", "label": label(i)} for i in range(40)]
  frame = pd.DataFrame(rows)
  frame.to_parquet(tmp_path / "frame.parquet")
  path = reviews(tmp_path)
  expected = [x["targets"] for x in read(path).splits["train"]]
  indexed = [
    frame.assign(**{name: range(40)})
    for name in ("Unnamed: 0", "Unnamed: 0.1", "__index_level_0__")
  ]
  for data in (frame, Table(rows), str(tmp_path / "frame.parquet"), *indexed):
    assert files.is_data(data)
    found = read(data)
    assert [x["targets"] for x in found.splits["train"]] == expected
    assert files.pairs(data) == files.pairs(path)
  # NumPy's integers cannot be missing, and its floats are less exact.
  years = pd.array([None, *range(2**60, 2**60 + 39)], dtype="Int64")
  frame.assign(year=years).to_parquet(tmp_path / "years.parquet")
  found = files.pairs(str(tmp_path / "years.parquet"), ["text", "year"])
  assert found[0][0] == "text: film 0 year: "
  assert found[39][0] == f"text: film 39 year: {2**60 + 38}"
  # The `datasets` library writes classes this way; -1 is a hidden label.
  kind = {"names": ["bad", "good"], "_type": "ClassLabel"}
  text = json.dumps({"info": {"features": {"label": kind, "text": [kind]}}})
  frame = pd.DataFrame({"text": ["a", "b", "c"], "label": [1, 0, -1]})
  table = Table(frame.to_dict("records"))
  table.features = {"label": types.SimpleNamespace(**kind), "text": None}
  path = str(tmp_path / "classes.parquet")
  arrow = pyarrow.Table.from_pandas(frame)
  arrow = arrow.replace_schema_metadata({"huggingface": text})
  parquet.write_table(arrow, path)
  for data in (path, table):
    assert [x.text("label") for x in row_files.read(data)] == [
      "good",
      "bad",
      "",
    ]
  (tmp_path / "bad.parquet").write_bytes(b"PAR1")
  for data, message in (
    (frame.head(0), "expected rows of examples, got none"),
    (pd.DataFrame([{"text": [1], "label": "a"}]), "The table, row 1, column t"),
    (pd.DataFrame([["a"] * 2], columns=["x"] * 2), "two columns are called x"),
    (str(tmp_path / "bad.parquet"), r"bad\.parquet cannot be read as Parquet"),
  ):
    with pytest.raises(ValueError, match=message):
      read(data)


def test_missing_values_are_empty_cells_and_other_columns_are_not_read(
  tmp_path,
):
  """Missing inputs are empty text; a test file's targets may be missing."""
  rows = [
    {"idx": {"text": i}, "a": f"a {i}", "b": None, "label": float(i % 2)}
    for i in range(12)
  ]
  frame = pd.DataFrame(rows).assign(b=pd.NA)
  assert files.pairs(frame) == files.pairs(Table(rows))
  hidden = [{**x, "a": None, "b": "c", "label": None} for x in rows]
  path = tmp_path / "hidden.jsonl"
  path.write_text("\n".join(map(json.dumps, hidden)))
  data = read(Table(rows), test_file=str(path))
  assert data.inputs == ("a", "b")
  assert data.splits["train"][0]["inputs"] == "a: a 0 b: "
  test = data.splits["test"][0]
  assert (test["inputs"], test["targets"]) == ("a:  b: c", "")
  frame = pd.DataFrame(rows).assign(label=["x", "y", *[float("nan")] * 10])
  for given, message in (
    (hidden, "row 1, column label: expected a target, got an empty cell"),
    ([{**rows[0], "a": None}], "row 1: no text in column a or b"),
  ):
    for function in (read, files.pairs):
      with pytest.raises(ValueError, match=f"The table, {message}"):
        function(Table(given))
  with pytest.raises(ValueError, match=r"row 3, column label: .* empty cell"):
    files.pairs(frame)
  assert files.pairs(Table(rows[:1]), ["label"], "a") == [("0.0", "a 0")]


def test_several_inputs_are_named_and_many_targets_are_free_text(tmp_path):
  rows = [f"{i},p{i},h{i},answer {i}" for i in range(12)]
  path = write(tmp_path / "r.csv", rows, "idx,premise,hypothesis,answer")
  data = read(path)
  assert data.splits["train"][0]["inputs"].startswith("premise: p")
  assert data.inputs == ("premise", "hypothesis")
  assert data.targets.labels == ()
  assert "exact match" in str(data)
  data = read(path, input_columns=["hypothesis"])
  assert data.splits["train"][0]["inputs"].startswith("h")


def test_a_category_is_the_target_or_an_input_beside_one(tmp_path):
  rows = [f"film {i},{'ab'[i % 2]},{i % 3}" for i in range(12)]
  for last, inputs in ("label", ("text", "Category")), ("id", ("text",)):
    path = write(tmp_path / "r.csv", rows, f"text,Category,{last}")
    assert read(path).inputs == inputs


def test_a_column_that_says_the_label_is_no_input_unless_it_is_named(tmp_path):
  rows = [f"film {i},{i % 2},{'good' if i % 2 else 'bad'}" for i in range(12)]
  path = write(tmp_path / "r.csv", rows, "text,label,label_text")
  for target, other in ("label", "label_text"), ("label_text", "label"):
    with pytest.raises(ValueError, match=f"{other} repeats {target} under"):
      read(path, target_column=target)
    data = read(path, input_columns=["text", other], target_column=target)
    assert data.inputs == ("text", other)


@pytest.mark.parametrize(
  ("rows", "held_out", "inputs"),
  [
    # A rare label does not prevent holding rows out.
    ([*(f"film {i},good" for i in range(30)), "x,bad"], 3, 3),
    # An input that repeats often is not held out.
    ([f"{i if i % 3 else 'same'},{label(i)}" for i in range(90)], 6, 6),
    # Rows with the same input stay together.
    ([f"film {i % 20},{label(i)}" for i in range(60)], 6, 2),
  ],
)
def test_held_out_rows_have_inputs_of_their_own(
  tmp_path, rows, held_out, inputs
):
  data = read(write(tmp_path / "r.csv", rows))
  assert data.targets.labels == ("bad", "good")
  assert len(data.splits["validation"]) == held_out
  found = {row["inputs"] for row in data.splits["validation"]}
  assert len(found) == inputs
  assert "same" not in found
  assert not found & {row["inputs"] for row in data.splits["train"]}


def test_each_label_is_held_out_by_its_share_but_not_the_only_row_of_one(
  tmp_path,
):
  counts = {"good": 180, "fair": 12, "bad": 1}
  rows = [f"{x} film {i},{x}" for x, n in counts.items() for i in range(n)]
  held_out = read(write(tmp_path / "r.csv", rows)).splits["validation"]
  labels = [row["targets"] for row in held_out]
  assert sorted(labels) == ["fair"] + 18 * ["good"]


def test_files_for_each_split(tmp_path, caplog):
  path = reviews(tmp_path)
  dev = write(tmp_path / "dev.csv", ["x,good", "film 1,good"])
  for column in ("", ",label"):  # No targets, then empty ones.
    empty = "," * column.count(",")
    test = [f"{text}{empty}" for text in ("film 1", "film 2", "z")]
    test = write(tmp_path / "test.csv", test, f"text{column}")
    with caplog.at_level(logging.WARNING):
      data = read(path, dev, test)
    sizes = {k: len(rows) for k, rows in data.splits.items()}
    assert sizes == {"train": 40, "validation": 2, "test": 3}
    for count, other in ((1, dev), (2, test)):
      assert f"{count} inputs of {other} are also in {path}:" in caplog.text
  test = write(tmp_path / "test.csv", ["y,good", "z,"])
  with pytest.raises(ValueError, match=r"test\.csv, line 3, .*empty cell"):
    read(path, dev, test)


@pytest.mark.parametrize("share", [0.0, 1.0, -1])
def test_share_that_is_held_out_is_between_0_and_1(tmp_path, share):
  """`mistakes.toml` tests the other errors of files and columns."""
  with pytest.raises(ValueError, match=r"reviews\.csv: expected HELD_OUT betw"):
    read(reviews(tmp_path), held_out=share)


def test_the_task_has_text_labels_and_metrics(tmp_path, capsys):
  vocabulary.of_model(BYTES)
  path = reviews(tmp_path)
  for _ in range(2):  # Each reader of a gin file makes its own vocabulary.
    name = files.file_task(
      path, labels=["bad", "good"], vocabulary=seqio.ByteVocabulary()
    )
  assert capsys.readouterr().err.count(name) == 1  # Shown once.
  task = seqio.TaskRegistry.get(name)
  dataset = task.get_dataset(None, "validation", shuffle=False)
  example = next(dataset.as_numpy_iterator())
  assert example["inputs_pretokenized"].startswith(b"film ")
  assert task.num_input_examples("train") == 36
  assert task.postprocess_fn("bad", example={}) == 0
  assert task.postprocess_fn("dreadful", example={}) == -1
  assert f"{name}_prefixed" in seqio.TaskRegistry.names()
  # A file that changed is read again.
  other = files.file_task(reviews(tmp_path, 44), vocabulary=BYTES)
  assert other != name
  for macro in ("input_columns", "labels"):
    with pytest.raises(ValueError, match=f"{macro.upper()} to be a list"):
      files.file_task(path, **{macro: "text"}, vocabulary=BYTES)


def cells(path):
  rows = row_files.read(str(path))
  return [{column: row.text(column) for column in row.cells} for row in rows]


ROWS = [
  {"text": 'a "b", c\nd', "label": "good"},
  {"text": "e; f", "label": "bad"},
]


@pytest.mark.parametrize(
  ("name", "text"),
  [
    # A spreadsheet's output: a byte order mark, CRLF, doubled quotes.
    ("r.csv", '\ufefftext,label\r\n"a ""b"", c\nd",good\r\ne; f,bad\r\n'),
    ("r.csv", 'text;label\n"a ""b"", c\nd";good\n"e; f";bad\n'),
    ("r.csv", '\n\ntext;label\n"a ""b"", c\nd";good\n"e; f";bad'),
    ("r.csv", 'sep=;\r\ntext;label\r\n"a ""b"", c\nd";good\r\n"e; f";bad\r\n'),
    ("r.csv", 'sep=|\ntext|label\n"a ""b"", c\nd"|good\ne; f|bad\n'),
    ("r.csv", 'text;label\r"a ""b"", c\nd";good\r"e; f";bad\r'),
    ("r.TSV", 'text\tlabel\n"a ""b"", c\nd"\tgood\n\ne; f\tbad'),
    ("r.jsonl", "\n\n".join(map(json.dumps, ROWS))),
    ("r.jsonl", "\n".join(json.dumps(x, sort_keys=True) for x in ROWS)),
    ("r.json", "\n".join(map(json.dumps, ROWS))),
    ("r.json", json.dumps(ROWS, indent=2)),
  ],
)
def test_formats_hold_the_same_rows(tmp_path, name, text):
  (tmp_path / name).write_bytes(text.encode())
  assert cells(tmp_path / name) == ROWS


def test_lines_and_values(tmp_path):
  path = tmp_path / "r.csv"
  path.write_text('a,b\n"1\n2",3\n\n4,5\n')
  assert [row.line for row in row_files.read(str(path))] == [2, 5]
  path.write_text('"a, b";b\n1;2\n')
  assert cells(path) == [{"a, b": "1", "b": "2"}]
  path.write_text('a,b\n" ""Great"" he said, ""yes""",1\n')
  assert cells(path) == [{"a": ' "Great" he said, "yes"', "b": "1"}]
  path.write_text(pd.DataFrame({"a": [1]}).to_csv())  # With its index.
  assert cells(path) == [{"index": "0", "a": "1"}]
  path = tmp_path / "r.jsonl"
  path.write_text(f'{{"a": true, "b": 1{"0" * 400}, "c": 0.5}}\n')
  assert cells(path) == [{"a": "True", "b": f"1{'0' * 400}", "c": "0.5"}]


@pytest.mark.parametrize(
  ("name", "text", "message"),
  [
    ("r.csv", b"a,b\n1,2\n1\n", r"r\.csv, line 3: expected 2 cells, a, b"),
    ("r.csv", b"a|b\nx, y|2\n", r"expected 1 cells, .* that contains ','"),
    ("r.csv", b",a,\n0,1,2\n", r"none for column 3\."),
    ("r.csv", b"\n,\n0,1\n", r"none for column 2\."),
    ("r.csv", b'a,b\n1,"2\n', "line 2: unexpected end"),
    ("r.csv", b"a,b\n1,\xff\n", r"line 2, the byte 0xff is not UTF-8. Save"),
    ("r.tsv", b"a\tb\n1\n", "line 2: expected 2 cells"),
    (
      "r.tsv",
      b'a\tb\n"1\tx\n2\ty\n3"\tz\n',
      "line 2, column a: .* past a tab",
    ),
    ("r.jsonl", b"[1]\n", "line 1: expected a JSON object, got list"),
    ("r.jsonl", b'{"a": [1]}\n', r"line 1, column a: expected text.* \[1\]"),
    ("r.jsonl", b'{"a": 1}\n{"a": 1, "b": 2}\n', "; b is not one of them"),
    ("r.jsonl", b'{"a": 1e999}\n', "line 1, column a: .* Infinity"),
    ("r.jsonl", b'{"a": "\\ud800"}\n', r"line 1, column a: .* '\\ud800'"),
    ("r.jsonl", b'{"\\ud800": 1}\n', r"line 1, a column: .* '\\ud800'"),
    ("r.jsonl", b'{"a": 1, "a": 2}\n', "line 1 is .* two columns are called a"),
    ("r.csv", b'"a", "b"\n1,2\n', "line 1, column 2: .* space .* quotes"),
    ("r.jsonl", b"[" * 100_000, "line 1 is not a JSON object"),
    (
      "r.json",
      b'{\n"data": [{"a": 1}]\n}',
      "line 1 is .* one list of objects",
    ),
    ("r.json", b'[{"a": 1},\n 2]', r"r\.json, row 2: .* object, got int"),
    ("r.json", b'[{"a": 1}, {"a": []}]', r"row 2, column a: expected text"),
    (
      "r.json",
      b'[{"a": 1}\n',
      r"r\.json is not a list of JSON objects: .*line 2",
    ),
  ],
)
def test_malformed_files_are_refused_by_line_and_column(
  tmp_path, name, text, message
):
  (tmp_path / name).write_bytes(text)
  with pytest.raises(ValueError, match=message) as error:
    cells(tmp_path / name)
  assert name in str(error.value)
