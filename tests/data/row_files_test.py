"""Tests for prompt_tuning.data.row_files."""

import pytest

from prompt_tuning.data import row_files


def cells(path):
  return [dict(row.cells) for row in row_files.read(str(path))]


ROWS = [
  {"text": 'a "fine", long\nfilm', "label": "good"},
  {"text": "dull; very", "label": "bad"},
]


@pytest.mark.parametrize(
  ("name", "text"),
  [
    # As spreadsheets write it: a byte order mark, CRLF, doubled quotes.
    (
      "r.csv",
      '\ufefftext,label\r\n"a ""fine"", long\nfilm",good\r\ndull; very,bad\r\n',
    ),
    ("r.csv", 'text;label\n"a ""fine"", long\nfilm";good\n"dull; very";bad\n'),
    (
      "r.csv",
      '\n\ntext;label\n"a ""fine"", long\nfilm";good\n"dull; very";bad',
    ),
    ("r.TSV", 'text\tlabel\n"a ""fine"", long\nfilm"\tgood\n\ndull; very\tbad'),
    (
      "r.jsonl",
      '{"text": "a \\"fine\\", long\\nfilm", "label": "good"}\n\n'
      '{"label": "bad", "text": "dull; very"}\n',
    ),
  ],
)
def test_formats_hold_the_same_rows(tmp_path, name, text):
  (tmp_path / name).write_bytes(text.encode())
  assert cells(tmp_path / name) == ROWS


def test_lines_and_values(tmp_path):
  path = tmp_path / "r.csv"
  path.write_text('a,b\n"1\n2",3\n\n4,5\n')
  assert [row.line for row in row_files.read(str(path))] == [2, 5]
  path.write_text('a,b\n" ""Great"" he said, ""yes""",1\n')
  assert cells(path) == [{"a": ' "Great" he said, "yes"', "b": "1"}]
  path = tmp_path / "r.jsonl"
  path.write_text(f'{{"a": true, "b": 1{"0" * 400}, "c": 0.5}}\n')
  assert cells(path) == [{"a": "True", "b": f"1{'0' * 400}", "c": "0.5"}]


@pytest.mark.parametrize(
  ("name", "text", "message"),
  [
    ("r.csv", b"", "expected rows of examples, got none"),
    ("r.csv", b"a,b\n", "expected rows of examples, got none"),
    ("r.csv", b"a,b\n1,2\n1\n", r"r\.csv, line 3: expected 2 cells, a, b"),
    ("r.csv", b"a,a\n1,2\n", "line 1: two columns are called a"),
    ("r.csv", b"a,\n1,2\n", "line 1: expected a name .* column 2"),
    ("r.csv", b'a,b\n1,"2\n', "line 2: unexpected end"),
    ("r.csv", b"a,b\n1,\xff\n", r"line 2: .* UTF-8, got the byte 0xff"),
    ("r.tsv", b"a\tb\n1\n", "line 2: expected 2 cells"),
    (
      "r.tsv",
      b'a\tb\n"1\tx\n2\ty\n3"\tz\n',
      "line 2, column a: .* a tab in it",
    ),
    ("r.jsonl", b'{"a": 1}\n{"a": \n', "line 2: expected a JSON object"),
    ("r.jsonl", b"[1]\n", "line 1: expected a JSON object, got list"),
    ("r.jsonl", b'{"a": [1]}\n', r"line 1, column a: expected text.* \[1\]"),
    ("r.jsonl", b'{"a": null}\n', "line 1, column a: expected text.* null"),
    ("r.jsonl", b'{"a": 1}\n{"b": 1}\n', "line 2: .*; a is missing"),
    ("r.jsonl", b'{"a": 1}\n{"a": 1, "b": 2}\n', "; b is not one of them"),
    ("r.jsonl", b'{"a": NaN}\n', "line 1, column a: expected text.* NaN"),
    ("r.jsonl", b'{"a": 1e999}\n', "line 1, column a: .* Infinity"),
    ("r.jsonl", b'{"a": "\\ud800"}\n', r"line 1, column a: .* '\\ud800'"),
    ("r.jsonl", b'{"\\ud800": 1}\n', r"line 1, a column: .* '\\ud800'"),
    ("r.jsonl", b'{"a": 1, "a": 2}\n', "line 1: .* two columns are called a"),
    ("r.csv", b'"a", "b"\n1,2\n', "line 1, column 2: .* space .* quotes"),
    ("r.csv", b'a,b\n"1", "2"\n', "line 2, column b: .* space .* quotes"),
    ("r.jsonl", b"[" * 100_000, "line 1: expected a JSON object"),
    ("r.txt", b"a\n1\n", r"ends in \.csv, \.tsv, \.jsonl, got"),
    ("no.csv", None, r"no\.csv cannot be read: No such file"),
  ],
)
def test_errors_name_file_line_and_column(tmp_path, name, text, message):
  if text is not None:
    (tmp_path / name).write_bytes(text)
  with pytest.raises(ValueError, match=message) as error:
    row_files.read(str(tmp_path / name))
  assert name in str(error.value)
