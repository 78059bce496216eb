"""Tests for prompt_tuning.data.files."""

import functools
import logging

import pytest
import seqio

from prompt_tuning.data import files, vocabulary

BYTES = seqio.ByteVocabulary()
read = functools.partial(files.read, vocabulary=BYTES)


def write(path, rows, header="text,label"):
  path.write_text("\n".join([header, *rows]) + "\n")
  return str(path)


def label(i):
  return "good" if i % 4 else "bad"


def reviews(tmp_path, count=40):
  rows = [f"film {i},{label(i)}" for i in range(count)]
  return write(tmp_path / "my reviews.csv", rows)


def test_finds_columns_labels_and_a_held_out_share(tmp_path):
  data = read(reviews(tmp_path))
  assert data.name.startswith("my_reviews_")
  assert (data.inputs, data.target) == (("text",), "label")
  assert data.targets.labels == ("bad", "good")
  sizes = {k: len(rows) for k, rows in data.splits.items()}
  assert sizes == {"train": 36, "validation": 4}
  labels = [row["targets"] for row in data.splits["validation"]]
  assert sorted(labels) == ["bad", "good", "good", "good"]
  assert "2 labels: bad 25%, good 75%" in str(data)


def test_several_inputs_are_named(tmp_path):
  rows = [f"{i},p{i},h{i},{i % 2}" for i in range(12)]
  path = write(tmp_path / "r.csv", rows, "idx,premise,hypothesis,target")
  data = read(path)
  assert data.splits["train"][0]["inputs"].startswith("premise: p")
  assert data.inputs == ("premise", "hypothesis")
  data = read(path, input_columns=["hypothesis"])
  assert data.splits["train"][0]["inputs"].startswith("h")


def test_spaces_around_labels_do_not_count(tmp_path):
  """Answers have none, so that such a label would never be right."""
  rows = [f"film {i},{('good', ' good ', 'bad')[i % 3]}" for i in range(36)]
  path = write(tmp_path / "r.csv", rows)
  for labels in (None, ["good ", "bad"]):
    data = read(path, labels=labels)
    assert sorted(data.targets.labels) == ["bad", "good"]
    cells = {row["targets"] for row in data.splits["train"]}
    assert cells == {"bad", "good"}


@pytest.mark.parametrize(
  ("rows", "held_out", "inputs"),
  [
    # A rare label does not stop it.
    ([*(f"film {i},good" for i in range(30)), "x,bad"], 3, 3),
    # An input that comes back often is not held out.
    ([f"{i if i % 3 else 'same'},{label(i)}" for i in range(90)], 6, 6),
    # Rows of one input stay together.
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


def test_a_file_always_gives_the_same_rows_and_name(tmp_path):
  data = read(reviews(tmp_path))
  assert [row["idx"] for row in data.splits["validation"]] == [8, 11, 22, 33]
  lines = {row["idx"] for rows in data.splits.values() for row in rows}
  assert lines == set(range(2, 42))
  assert data.name == "my_reviews_004e46bf"
  assert read(reviews(tmp_path, 44)).name != data.name


def test_inputs_of_files_that_are_trained_on_are_counted(tmp_path, caplog):
  for split in ("validation", "test"):
    path = tmp_path / f"{split}.csv"
    path = write(path, ["film 1,good", "film 2,bad", "x,bad"])
    with caplog.at_level(logging.WARNING):
      read(reviews(tmp_path), **{f"{split}_file": path})
    assert f"2 inputs of {path} are in " in caplog.text


@pytest.mark.parametrize("name", ["input_columns", "labels"])
def test_one_text_is_no_list(tmp_path, name):
  message = rf"{name.upper()} to be a list, got 'te"
  with pytest.raises(ValueError, match=message):
    files.file_task(reviews(tmp_path), **{name: "text"}, vocabulary=BYTES)


def test_many_targets_are_free_text(tmp_path):
  rows = [f"q{i},answer {i}" for i in range(20)]
  data = read(write(tmp_path / "r.csv", rows, "question,answer"))
  assert data.targets.labels == ()
  assert "exact match" in str(data)


def test_files_for_each_split(tmp_path):
  path = reviews(tmp_path)
  dev = write(tmp_path / "dev.csv", ["x,good"])
  for column in ("", ",label"):  # Without targets, and with empty ones.
    empty = "," * column.count(",")
    test = [f"y{empty}", f"z{empty}"]
    test = write(tmp_path / "test.csv", test, f"text{column}")
    data = read(path, dev, test)
    sizes = {k: len(rows) for k, rows in data.splits.items()}
    assert sizes == {"train": 40, "validation": 1, "test": 2}
  test = write(tmp_path / "test.csv", ["y,good", "z,"], "text,label")
  with pytest.raises(ValueError, match=r"test\.csv, line 3, .*empty cell"):
    read(path, dev, test)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"target_column": "label"}, "dev.csv, line 2, column label: .*'great'"),
    ({"target_column": "stars"}, "my reviews.csv, line 1: .* column stars"),
    ({"input_columns": ["body"]}, "my reviews.csv, line 1: .* column body"),
    ({"input_columns": ["text", "label"]}, "beside label, got text, label"),
    ({"labels": ["good"]}, "my reviews.csv, line 2, column label: .*'bad'"),
    *(
      ({"validation_file": None, "held_out": x}, "HELD_OUT between 0 and 1")
      for x in (0.0, 1.0, -1)
    ),
  ],
)
def test_errors_name_file_line_and_column(tmp_path, arguments, message):
  dev = write(tmp_path / "dev.csv", ["x,great"])
  with pytest.raises(ValueError, match=message):
    read(reviews(tmp_path), **{"validation_file": dev, **arguments})


@pytest.mark.parametrize(
  ("rows", "header", "message"),
  [
    (["x,good", " ,good"], "text,label", "line 3: expected text in text"),
    (["x,good", "y, "], "text,label", "line 3, column label: .*empty cell"),
    (["x,good"], "text,sentiment", "none among text, sentiment.*TARGET"),
    (["x,good"], "text,label", r"csv: expected rows to train on .* got 1"),
  ],
)
def test_rows_that_cannot_be_used_are_refused(tmp_path, rows, header, message):
  with pytest.raises(ValueError, match=message):
    read(write(tmp_path / "r.csv", rows, header))


def test_the_task_has_text_labels_and_metrics(tmp_path, capsys):
  vocabulary.of_model(BYTES)
  path = reviews(tmp_path)
  for _ in range(2):  # Each reader of a gin file makes its own vocabulary.
    name = files.file_task(
      path, labels=["bad", "good"], vocabulary=seqio.ByteVocabulary()
    )
  assert capsys.readouterr().err.count(name) == 1  # Shown once.
  task = seqio.TaskRegistry.get(name)
  examples = list(
    task.get_dataset(None, "validation", shuffle=False).as_numpy_iterator()
  )
  assert examples[0]["inputs_pretokenized"].startswith(b"film ")
  assert task.num_input_examples("train") == 36
  assert task.postprocess_fn("bad", example={}) == 0
  assert task.postprocess_fn("dreadful", example={}) == -1
  assert f"{name}_prefixed" in seqio.TaskRegistry.names()
  # A file that changed is read again.
  other = files.file_task(reviews(tmp_path, 44), vocabulary=BYTES)
  assert other != name
