"""The readers of examples, official files and predictions."""

import dataclasses
import json
import pathlib
import tempfile

from fuzz.reader import Reader, file, lines, made
import seqio
import served
import tensorflow as tf

from prompt_tuning.data import row_files, task_cache, task_rows
from prompt_tuning.data.release import rows as release_rows
from prompt_tuning.data.release import submission, tfds_data
from t5x.input import damage
from t5x.input.datasets import DatasetConfig

_CB_ROW = {"premise": "Ann left.", "hypothesis": "a", "label": "neutral"}


def _read_rows(path: pathlib.Path) -> None:
  for row in row_files.read(str(path)):
    for column in row.cells:
      row.text(column)


def _examples(folder: pathlib.Path) -> None:
  with tf.io.TFRecordWriter(str(folder / "x.tfrecord")) as writer:
    for i in range(3):
      example = seqio.dict_to_tfexample({"inputs": f"text {i}"})
      writer.write(example.SerializeToString())


def _read_examples(path: pathlib.Path) -> None:
  source = seqio.TFExampleDataSource(
    {"train": str(path)}, {"inputs": tf.io.FixedLenFeature([], tf.string)}
  )
  task = seqio.Task("fuzzed", source, {})
  cfg = DatasetConfig(task, None, "train", 1, False, None)
  with damage.named([cfg]):
    list(source.get_dataset("train", False).as_numpy_iterator())


def _tfds(folder: pathlib.Path) -> None:
  rows = [{**_CB_ROW, "idx": i} for i in range(56)]
  release = folder / "release" / "CB"
  release.mkdir(parents=True)
  (release / "val.jsonl").write_text(lines(*rows))
  report = tfds_data.convert(folder / "release", folder / "data")
  assert not report.failed, report.failed


def _read_tfds(path: pathlib.Path) -> None:
  data = next(x for x in path.parents if x.name == "data")
  tfds_data._splits("super_glue/cb:1.0.2", data)


def _extract(path: pathlib.Path) -> None:
  with tempfile.TemporaryDirectory() as scratch:
    folder = pathlib.Path(scratch, "out")
    tfds_data._extract(path, {"train.jsonl"}, folder)


def _release(
  release: str, config: str, content: str, split: str = "validation"
) -> Reader:
  tasks = release_rows.RELEASES[release]
  task = next(task for task in tasks if task.config == config)
  task = dataclasses.replace(task, counts={split: 2})

  def check(path: pathlib.Path) -> None:
    with path.open("rb") as lines:
      release_rows.check_lines(task, split, lines, str(path))

  return file(task.files[split], content, check)


_SIMILARITIES = """index\tsentence1\tsentence2\tscore
0\tA cat sat.\t"A cat\t3.75
1\tA dog.\t\t0
"""
_ASKED = [
  {"id": x, "question": "Who?", "answers": [{"text": x, "answer_start": 0}]}
  for x in "ab"
]
_QUESTIONS = {"data": [{"paragraphs": [{"context": "ab", "qas": _ASKED}]}]}
_MRQA = {
  "context": "ab",
  "qas": [{"qid": x, "question": "Who?", "answers": [x]} for x in "ab"],
}

READERS: dict[str, Reader] = {
  "rows, CSV": file("x.csv", 'text,label\n"a, ""b""",yes\nc,no\n', _read_rows),
  "rows, TSV": file("x.tsv", "text\tlabel\na\tyes\nb\tno\n", _read_rows),
  "rows, JSONL": file(
    "x.jsonl", lines({"a": "a", "n": 1.5}, {"a": "b", "n": 2}), _read_rows
  ),
  "release, zip": file(
    "CB.zip", served.zipped({"CB/train.jsonl": "{}" * 99}), _extract
  ),
  "release, rows": _release(
    "superglue", "cb", lines({**_CB_ROW, "idx": 0}, {**_CB_ROW, "idx": 1})
  ),
  "release, table": _release("glue", "stsb", _SIMILARITIES),
  "release, questions": _release("squad", "quoref", json.dumps(_QUESTIONS)),
  "release, MRQA": _release("squad", "drop", lines({}, _MRQA), "test"),
  "TFDS's description": made(
    _tfds, "**/dataset_info.json", _read_tfds, called="1.0.2"
  ),
  "TFDS's features": made(
    _tfds, "**/features.json", _read_tfds, called="1.0.2"
  ),
  "examples, TFRecord": made(_examples, "*", _read_examples),
  "index of a task's cache": file(
    "info.train.json",
    json.dumps({"vocabularies": {"inputs": "00"}}),
    task_cache.read_vocabularies,
  ),
  "submission": file(
    "x.zip",
    served.zipped({"CB.jsonl": lines({"idx": 0, "label": "neutral"})}),
    submission.check,
  ),
  "predictions": file(
    "x.jsonl",
    lines({"inputs": {"idx": 0}, "prediction": "neutral"}),
    lambda path: submission.rows(
      "super_glue_cb", task_rows.ROWS["super_glue_cb"], [path]
    ),
  ),
}
