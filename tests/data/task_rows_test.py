"""Tests of SuperGLUE's tasks and of their texts, which equal T5's own."""

import json

import numpy as np
import pytest
import seqio
import superglue_reference
from superglue_reference import REFERENCE, ROWS
import tensorflow as tf

from prompt_tuning.data import preprocessors, task_rows, vocabulary
from prompt_tuning.data.sources import ExampleSource

TASKS = {
  **superglue_reference.TASKS,
  "wsc": superglue_reference.TASKS["wsc_simple_eval"],
}


def source(row):
  """Returns a source of a row's examples; validation has only labelled ones."""
  raws = [example["raw"] for example in TASKS[row.name]["examples"]]
  labelled = [x for x in raws if x.get("label", 0) >= 0 and x.get("answers", 1)]
  splits = {"train": raws, "validation": labelled}
  return ExampleSource(splits.get, {x: len(y) for x, y in splits.items()})


# Tasks such as `reference_boolq`.
for _row in task_rows.SUPER_GLUE:
  task_rows.add_task(f"reference_{_row.name}", _row, source(_row))


@pytest.fixture(autouse=True)
def _bytes(monkeypatch):
  of_bytes = seqio.ByteVocabulary()
  monkeypatch.setattr(vocabulary.MODEL_VOCABULARY, "in_use", of_bytes)


def test_mixtures_have_t5s_rates():
  t5s = {
    "super_glue_boolq": 9_427,
    "super_glue_cb": 250,
    "super_glue_copa": 400,
    "super_glue_multirc": 27_243,
    "super_glue_record": 138_854,
    "super_glue_rte": 2_490,
    "super_glue_wic": 5_428,
    "super_glue_wsc": 259,
  }

  def rates(name):
    mixture = seqio.MixtureRegistry.get(name)
    return {task.name: mixture.get_rate(task) for task in mixture.tasks}

  assert rates("super_glue") == t5s
  assert rates("super_glue_and_dpr_prefixed") == {
    f"{name}_prefixed": rate for name, rate in (t5s | {"dpr": 1_322}).items()
  }
  assert len(set(rates("super_glue_smallest").values())) == 1


@pytest.mark.parametrize("form", ["", "_prefixed"])
def test_features_are_the_pieces_and_the_end(form):
  task = seqio.get_mixture_or_task(f"reference_cb{form}")
  example = next(iter(task.get_dataset(None, "validation", shuffle=False)))
  output = TASKS["cb"]["examples"][0]["outputs"][0]
  text = output["inputs" if form else "inputs_taskless"]
  byte_ids = vocabulary.MODEL_VOCABULARY.encode(text)
  assert example["inputs"].numpy().tolist() == [*byte_ids, 1]
  assert example["inputs_pretokenized"].numpy().decode() == text
  assert vocabulary.MODEL_VOCABULARY.decode(example["targets"]) == "neutral"
  # A truncated input still has the end-of-sequence token.
  lengths = {"inputs": 10, "targets": 8}
  cut = next(iter(task.get_dataset(lengths, "validation", shuffle=False)))
  assert cut["inputs"].numpy().tolist() == [*byte_ids[:9], 1]


@pytest.mark.parametrize("row", task_rows.SUPER_GLUE, ids=lambda row: row.name)
def test_sentinel_stands_before_the_target_only(row):
  plain, other = (
    seqio.get_mixture_or_task(f"reference_{row.name}{form}")
    for form in ("", "_sentinel")
  )
  examples = (
    task.get_dataset(None, "validation", shuffle=False).as_numpy_iterator()
    for task in (plain, other)
  )
  for example, changed in zip(*examples, strict=True):
    np.testing.assert_array_equal(example["inputs"], changed["inputs"])
    right = example["targets_pretokenized"].decode()
    text = changed["targets_pretokenized"].decode()
    assert text == f"<extra_id_0> {right}"
    # The model's answer: right, with an extra word (right for WSC), or empty.
    for answer in (right, f"old {right}", ""):
      expected = plain.postprocess_fn(answer, example=example, is_target=False)
      for said in (f"<extra_id_0> {answer}", f"<extra_id_0>{answer}", answer):
        got = other.postprocess_fn(said, example=changed, is_target=False)
        assert got == expected
    assert other.postprocess_fn(
      text, example=changed, is_target=True
    ) == plain.postprocess_fn(right, example=example, is_target=True)


def test_wsc_trains_on_correct_referents_only():
  get = seqio.get_mixture_or_task("reference_wsc").get_dataset
  train, validation = (
    [int(example["idx"]) for example in get(None, split, shuffle=False)]
    for split in ("train", "validation")
  )
  examples = TASKS["wsc_simple_train"]["examples"]
  assert train == [y["idx"] for x in examples for y in x["outputs"]]
  assert validation == [0, 1, 2, 3, 4]


def test_data_that_is_not_prepared_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(seqio.utils, "_TFDS_DATA_DIR_OVERRIDE", str(tmp_path))
  mixture = seqio.get_mixture_or_task("super_glue")
  with pytest.raises(ValueError, match=r"'train' of super_glue/.* got nothing"):
    mixture.get_dataset({"inputs": 8, "targets": 8}, "train")


def dataset_of(*raws):
  """Makes a dataset of examples, with TFDS's types."""
  source = ExampleSource(lambda split: raws, {"test": len(raws)})
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


# The filter of "wsc_simple_train" belongs to the data source.
@pytest.mark.parametrize(
  "name", sorted(TASKS.keys() - {"wsc", "wsc_simple_train"})
)
def test_texts_equal_the_reference(name):
  row, examples = ROWS[name], TASKS[name]["examples"]
  made = row.preprocess(dataset_of(*(x["raw"] for x in examples)))
  prefixed = preprocessors.add_prefix(made, prefix=row.prefix)
  outputs = [output for x in examples for output in x["outputs"]]
  for plain, other, expected in zip(
    *map(as_rows, (made, prefixed)), outputs, strict=True
  ):
    expected = dict(expected)
    assert other["inputs"] == expected.pop("inputs")
    taskless = expected.pop("inputs_taskless")
    assert plain == {**expected, "inputs": taskless}


@pytest.mark.parametrize(
  ("text", "pronoun", "index", "expected"),
  [
    ('"Good for him," he said. ', "him", 2, '"Good for *him* ," he said.'),
    ("They want to use it , now", "it", 3, "They want to use *it* , now"),
    ("They want to use it , now", "it", 1, None),
  ],
)
def test_wsc_marks_the_pronoun(text, pronoun, index, expected):
  """The pronoun may touch punctuation or be one word late, but no further."""
  raw = {"span1_text": "Tom", "span1_index": 0, "idx": 0, "label": 1}
  raw |= {"text": text, "span2_text": pronoun, "span2_index": index}
  dataset = preprocessors.wsc(dataset_of(raw))
  if expected:
    assert as_rows(dataset)[0]["inputs"] == expected
    return
  with pytest.raises(tf.errors.InvalidArgumentError, match="span2_index"):
    as_rows(dataset)


@pytest.mark.parametrize("case", REFERENCE["postprocess"])
def test_answers_become_the_reference_values(case):
  got = ROWS[case["task"]].postprocess(
    case["text"], case["example"], case["is_target"]
  )
  assert json.loads(json.dumps(got)) == case["output"]
