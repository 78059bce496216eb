"""Every text that the reference program makes of `superglue_text.json`."""

import json
import pathlib

import pytest
import tensorflow as tf

from prompt_tuning.data import preprocessors, superglue

TASKS = json.loads(
  pathlib.Path(__file__)
  .parents[1]
  .joinpath("testdata", "superglue_text.json")
  .read_text()
)["tasks"]
ROWS = {row.name: row for row in superglue.TASKS}
ROWS["wsc_simple_eval"] = superglue.WSC
EXAMPLES = [
  pytest.param(ROWS[name], example, id=f"{name}-{i}")
  for name, task in TASKS.items()
  if name != "wsc_simple_train"  # Its filter belongs to the data source.
  for i, example in enumerate(task["examples"])
]


def one_example(raw):
  """A dataset of one example, with TFDS's types."""
  return tf.data.Dataset.from_tensors(
    {
      name: tf.constant(value, tf.string) if isinstance(value, list) else value
      for name, value in raw.items()
    }
  )


def as_python(value):
  if isinstance(value, bytes):
    return value.decode("utf-8")
  return [text.decode("utf-8") for text in value] if value.ndim else int(value)


def as_rows(dataset):
  return [
    {name: as_python(value) for name, value in example.items()}
    for example in dataset.as_numpy_iterator()
  ]


@pytest.mark.parametrize(("row", "example"), EXAMPLES)
def test_texts_equal_the_reference(row, example):
  expected = [
    {**output, "inputs": output["inputs_taskless"]}
    for output in example["outputs"]
  ]
  for output in expected:
    del output["inputs_taskless"]
  assert as_rows(row.preprocess(one_example(example["raw"]))) == expected


@pytest.mark.parametrize(("row", "example"), EXAMPLES)
def test_prefixed_inputs_equal_the_reference(row, example):
  dataset = preprocessors.add_prefix(
    row.preprocess(one_example(example["raw"])), prefix=row.prefix
  )
  assert [output["inputs"] for output in as_rows(dataset)] == [
    output["inputs"] for output in example["outputs"]
  ]


def wsc_input(text, pronoun, index):
  raw = {
    "text": text,
    "span1_text": "Tom",
    "span1_index": 0,
    "span2_text": pronoun,
    "span2_index": index,
    "idx": 0,
    "label": 1,
  }
  return as_rows(preprocessors.wsc(one_example(raw)))[0]["inputs"]


def test_wsc_splits_the_pronoun_from_punctuation():
  assert wsc_input('"Good for him," he said. ', "him", 2) == (
    '"Good for *him* ," he said.'
  )


def test_wsc_finds_the_pronoun_one_word_later():
  assert wsc_input("They want to use it , now", "it", 3) == (
    "They want to use *it* , now"
  )


def test_wsc_refuses_a_pronoun_that_is_elsewhere():
  with pytest.raises(tf.errors.InvalidArgumentError, match="span2_index"):
    wsc_input("They want to use it , now", "it", 1)
