"""Tests for prompt_tuning.data.files."""

import pytest
import seqio

from prompt_tuning.data import files, metrics, vocabulary
from prompt_tuning.mini.ladder import vocabulary as ladder_vocabulary


def write(path, rows, header="text,label"):
  path.write_text("\n".join([header, *rows]) + "\n")
  return str(path)


def reviews(tmp_path, count=40, name="my reviews.csv"):
  rows = [f"film {i},{'good' if i % 4 else 'bad'}" for i in range(count)]
  return write(tmp_path / name, rows)


def test_finds_columns_labels_and_a_held_out_share(tmp_path):
  data = files.read(reviews(tmp_path))
  assert data.name.startswith("my_reviews_")
  assert (data.inputs, data.target) == (("text",), "label")
  assert data.labels == ("bad", "good")
  assert {k: len(rows) for k, rows in data.splits.items()} == {
    "train": 36,
    "validation": 4,
  }
  labels = [row.cells["label"] for row in data.splits["validation"]]
  assert sorted(labels) == ["bad", "good", "good", "good"]
  assert "2 labels: bad 25%, good 75%" in str(data)


def test_the_same_rows_are_held_out_again(tmp_path):
  path = reviews(tmp_path)
  first, again = files.read(path), files.read(path)
  assert first == again
  lines = {row.line for rows in first.splits.values() for row in rows}
  assert lines == set(range(2, 42))


def test_other_rows_are_another_task(tmp_path):
  name = files.read(reviews(tmp_path)).name
  assert files.read(reviews(tmp_path, 44)).name != name


def test_a_rare_label_does_not_stop_holding_out(tmp_path):
  rows = [f"film {i},good" for i in range(30)] + ["x,bad"]
  data = files.read(write(tmp_path / "r.csv", rows))
  assert data.labels == ("bad", "good")
  assert len(data.splits["validation"]) == 3


def test_several_inputs_are_named(tmp_path):
  rows = [f"{i},p{i},h{i},{i % 2}" for i in range(12)]
  path = write(tmp_path / "r.csv", rows, "idx,premise,hypothesis,target")
  data = files.read(path)
  assert data.text(data.splits["train"][0]).startswith("premise: p")
  assert data.inputs == ("premise", "hypothesis")
  data = files.read(path, input_columns=["hypothesis"])
  assert data.text(data.splits["train"][0]).startswith("h")


def test_spaces_around_labels_do_not_count(tmp_path):
  """Answers have none, so that such a label would never be right."""
  rows = [f"film {i},{('good', ' good ', 'bad')[i % 3]}" for i in range(36)]
  path = write(tmp_path / "r.csv", rows)
  for labels in (None, ["good ", "bad"]):
    data = files.read(path, labels=labels)
    assert sorted(data.labels) == ["bad", "good"]
    cells = {row.cells["label"] for row in data.splits["train"]}
    assert cells == {"bad", "good"}
  # As three labels they would be too many for ten rows.
  assert files.find_labels(["good", "good ", "bad"] * 3) == ("bad", "good")


def test_many_targets_are_free_text(tmp_path):
  rows = [f"q{i},answer {i}" for i in range(20)]
  data = files.read(write(tmp_path / "r.csv", rows, "question,answer"))
  assert data.labels == ()
  assert "exact match" in str(data)


def test_files_for_each_split(tmp_path):
  path = reviews(tmp_path)
  dev = write(tmp_path / "dev.csv", ["x,good"])
  for column in ("", ",label"):  # Without targets, and with empty ones.
    rows = ["y" + "," * column.count(","), "z" + "," * column.count(",")]
    test = write(tmp_path / "test.csv", rows, f"text{column}")
    data = files.read(path, dev, test)
    sizes = {k: len(rows) for k, rows in data.splits.items()}
    assert sizes == {"train": 40, "validation": 1, "test": 2}
  test = write(tmp_path / "test.csv", ["y,good", "z,"], "text,label")
  with pytest.raises(ValueError, match=r"test\.csv, line 3, .*empty cell"):
    files.read(path, dev, test)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"target_column": "label"}, "dev.csv, line 2, column label: .*'great'"),
    ({"target_column": "stars"}, "my reviews.csv, line 1: .* column stars"),
    ({"input_columns": ["body"]}, "my reviews.csv, line 1: .* column body"),
    ({"labels": ["good"]}, "my reviews.csv, line 2, column label: .*'bad'"),
  ],
)
def test_errors_name_file_line_and_column(tmp_path, arguments, message):
  dev = write(tmp_path / "dev.csv", ["x,great"])
  with pytest.raises(ValueError, match=message):
    files.read(reviews(tmp_path), dev, **arguments)


@pytest.mark.parametrize("held_out", [0.0, 1.0, -1])
def test_the_held_out_share_is_a_share(tmp_path, held_out):
  with pytest.raises(ValueError, match="HELD_OUT between 0 and 1"):
    files.read(reviews(tmp_path), held_out=held_out)


def test_one_row_cannot_be_parted(tmp_path):
  with pytest.raises(ValueError, match="to train on and to hold out, got 1"):
    files.read(write(tmp_path / "r.csv", ["x,good"]))


def test_an_empty_target_is_refused(tmp_path):
  path = write(tmp_path / "r.csv", ["x,good", "y, "])
  with pytest.raises(ValueError, match=r"line 3, column label: .*empty cell"):
    files.read(path)


def test_no_target_column(tmp_path):
  path = write(tmp_path / "r.csv", ["x,good"], "text,sentiment")
  with pytest.raises(ValueError, match=r"none among text, sentiment.*TARGET"):
    files.read(path)


def test_the_task_has_text_labels_and_metrics(tmp_path, capsys):
  vocabulary.of_model(ladder_vocabulary.ladder())
  path = reviews(tmp_path)
  name = files.file_task(path, labels=["bad", "good"])
  assert files.file_task(path, labels=["bad", "good"]) == name
  assert capsys.readouterr().err.count(name) == 1  # Shown once.
  task = seqio.TaskRegistry.get(name)
  examples = list(
    task.get_dataset(None, "validation", shuffle=False).as_numpy_iterator()
  )
  assert examples[0]["inputs_pretokenized"].startswith(b"film ")
  assert task.num_input_examples("train") == 36
  assert task.postprocess_fn("bad", example={}) == 0
  assert task.postprocess_fn("dreadful", example={}) == -1
  assert task.metric_fns == [
    metrics.accuracy,
    metrics.macro_f1,
    metrics.invalid,
  ]
  assert f"{name}_prefixed" in seqio.TaskRegistry.names()
