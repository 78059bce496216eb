"""Every text before and after the model, as T5's own program has it."""

import json

import pytest
from superglue_reference import REFERENCE, ROWS, TASKS
import tensorflow as tf

from prompt_tuning.data import preprocessors, superglue
from prompt_tuning.data.sources import ExampleSource


def one_example(raw):
  """Makes a dataset of one example, with TFDS's types."""
  source = ExampleSource(lambda split: [raw], {"test": 1})
  return source.get_dataset("test", shuffle=False)


def as_python(value):
  if isinstance(value, bytes):
    return value.decode("utf-8")
  return [text.decode("utf-8") for text in value] if value.ndim else int(value)


def as_rows(dataset):
  return [
    {name: as_python(value) for name, value in example.items()}
    for example in dataset.as_numpy_iterator()
  ]


@pytest.mark.parametrize(
  ("row", "example"),
  [
    pytest.param(ROWS[name], example, id=f"{name}-{i}")
    for name, task in TASKS.items()
    if name != "wsc_simple_train"  # Its filter belongs to the data source.
    for i, example in enumerate(task["examples"])
  ],
)
def test_texts_equal_the_reference(row, example):
  made = row.preprocess(one_example(example["raw"]))
  prefixed = as_rows(preprocessors.add_prefix(made, prefix=row.prefix))
  for output, expected in zip(prefixed, example["outputs"], strict=True):
    assert output["inputs"] == expected["inputs"]
  expected = [
    {**output, "inputs": output["inputs_taskless"]}
    for output in example["outputs"]
  ]
  for output in expected:
    del output["inputs_taskless"]
  assert as_rows(made) == expected


@pytest.mark.parametrize(
  ("text", "pronoun", "index", "expected"),
  [
    ('"Good for him," he said. ', "him", 2, '"Good for *him* ," he said.'),
    ("They want to use it , now", "it", 3, "They want to use *it* , now"),
    ("They want to use it , now", "it", 1, None),
  ],
)
def test_wsc_marks_the_pronoun(text, pronoun, index, expected):
  """Also before punctuation and one word later, but nowhere else."""
  raw = {"span1_text": "Tom", "span1_index": 0, "idx": 0, "label": 1}
  raw |= {"text": text, "span2_text": pronoun, "span2_index": index}
  dataset = preprocessors.wsc(one_example(raw))
  if expected:
    assert as_rows(dataset)[0]["inputs"] == expected
    return
  with pytest.raises(tf.errors.InvalidArgumentError, match="span2_index"):
    as_rows(dataset)


@pytest.mark.parametrize(
  "case",
  REFERENCE["postprocess"],
  ids=lambda case: f"{case['task']}-{case['text']!r}-{case['is_target']}",
)
def test_answers_become_the_reference_values(case):
  got = ROWS[case["task"]].postprocess(
    case["text"], case["example"], case["is_target"]
  )
  assert json.loads(json.dumps(got)) == case["output"]


def test_targets_may_be_bytes_as_seqio_passes_them():
  example = {"answers": [b"Lena Orr"], "idx/passage": 1, "idx/query": 2}
  assert superglue.RECORD.postprocess("", example, True) == {
    "value": ["Lena Orr"],
    "group": (1, 2),
  }
  example = {"targets_pretokenized": b"the Lamp", "label": 1}
  assert superglue.WSC.postprocess("old lamp", example) == 1
