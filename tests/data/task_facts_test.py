"""Tests of task facts (labels, words, lengths) and of task descriptions."""

import dataclasses

import pytest
import seqio
import tensorflow as tf
import tiny

from prompt_tuning import tasks  # noqa: F401
from prompt_tuning.data import (
  task_description,
  task_facts,
  task_rows,
  text_pairs,
)
from prompt_tuning.data import vocabulary as vocabulary_lib
from prompt_tuning.data.sources import ExampleSource
from prompt_tuning.mini.ladder import vocabulary as ladder_vocabulary

BYTES = seqio.ByteVocabulary()
FEATURES = ("inputs", "targets")
MODULE = "prompt_tuning.tasks"
RECORD = ("commonsense", "reasoning", "reading", "comprehension")


def _source(splits):
  def examples(split):
    sizes = {"train": (3, 30, 12), "validation": (50,), "test": (60, 5)}[split]
    return [{"inputs": "x" * n, "targets": "y" * (n % 11)} for n in sizes]

  return ExampleSource(examples, {x: len(examples(x)) for x in splits})


@seqio.map_over_dataset
def _same(example):
  if tf.strings.length(example["inputs"]) == 0:  # `if` needs AutoGraph.
    example["inputs"] = ""
  return example


for _name, _row in (
  ("facts_cb", task_rows.BY_NAME["cb"]),
  ("facts_free", task_rows.BY_NAME["record"]),
  ("facts_test", task_rows.BY_NAME["axb"]),
):
  # The examples are text already.
  _row = dataclasses.replace(_row, preprocess=_same)
  task_rows.add_task(_name, _row, _source(_row.splits))
task_rows.add_mixture("facts", {"facts_cb": 1, "facts_free": 1})


@pytest.fixture(autouse=True)
def _byte_vocabulary():
  vocabulary_lib.of_model(BYTES)


@pytest.mark.parametrize(
  ("task", "words"),
  [
    ("super_glue_copa", ("choice1", "choice2")),
    ("super_glue_wsc", ("commonsense", "pronoun", "resolution")),
    ("ladder_rte_sentinel", ("entailment", "not_entailment")),
    ("mini_record_prefixed", RECORD),
    ("facts", ("entailment", "contradiction", "neutral", *RECORD)),
  ],
)
def test_class_words(task, words):
  assert task_facts.class_words(task, MODULE) == words


def test_labels_behind_a_sentinel_are_whole_targets():
  plain = ("entailment", "not_entailment")
  assert task_facts.labels("super_glue_rte_prefixed", MODULE) == plain
  labels = task_facts.labels("ladder_cb_sentinel", MODULE)
  task = seqio.get_mixture_or_task("ladder_cb_sentinel")
  examples = task.get_dataset(None, "validation", shuffle=False, num_epochs=1)
  targets = {x["targets_pretokenized"].numpy().decode() for x in examples}
  assert targets == set(labels)
  # Ranking writes labels as the vocabulary decodes them.
  ladder = ladder_vocabulary.ladder()
  for i, label in enumerate(labels):
    text = ladder.decode(ladder.encode(label))
    assert task.postprocess_fn(text, example={}, is_target=False) == i


@pytest.mark.parametrize(
  ("function", "task", "message"),
  [
    (task_facts.labels, "super_glue_record", "are free text"),
    (task_facts.labels, "super_glue_record_sentinel", "are free text"),
    (task_facts.labels, "super_glue", "one task at a time"),
    (task_facts.labels, "ladder_lm", "The labels of 'ladder_lm' are unknown"),
    (task_facts.class_words, "ladder_lm", "gin.CLASS_LABELS="),
    (task_facts.class_words, "mini_boolk", "Did you mean mini_boolq"),
  ],
)
def test_what_is_not_known_is_an_error(function, task, message):
  with pytest.raises(ValueError, match=message):
    function(task, MODULE)
  with pytest.raises(ValueError, match="MIXTURE_OR_TASK_MODULE='no_module'"):
    function(task, "no_module")
  with pytest.raises(ValueError, match=r"--gin\.TASK="):
    task_facts.task_name(None)
  assert task_facts.task_name(task) == task


@pytest.mark.parametrize(
  ("task", "options", "lengths"),
  [
    # "contradiction" and the end-of-sequence token.
    ("facts_cb", {}, {"inputs": 31, "targets": 14}),
    ("facts_cb", {"longest": 20}, {"inputs": 20, "targets": 14}),
    ("facts_cb_prefixed", {}, {"inputs": 34, "targets": 14}),
    ("facts_cb", {"splits": ("train", "test")}, {"inputs": 61, "targets": 14}),
    # The same target behind a sentinel.
    ("facts_cb_sentinel", {"longest": None}, {"inputs": 31, "targets": 27}),
    # The lengths of free text come from the examples.
    ("facts_free", {}, {"inputs": 31, "targets": 9}),
    ("facts", {}, {"inputs": 31, "targets": 14}),
  ],
)
def test_lengths(task, options, lengths):
  assert task_facts.lengths(task, BYTES, **options) == lengths


def test_lengths_up_to_a_limit_are_of_the_first_examples(monkeypatch):
  with pytest.raises(ValueError, match="has no split 'train'"):
    task_facts.lengths("facts_test", BYTES)
  monkeypatch.setattr(task_facts, "MAX_EXAMPLES", 1)
  lengths = task_facts.lengths("facts_free_prefixed", BYTES)
  assert lengths == {"inputs": 4 + len("record "), "targets": 4}
  lengths = task_facts.lengths("facts_free", BYTES, longest=None)
  assert lengths == {"inputs": 31, "targets": 9}


def test_population_of_a_small_vocabulary():
  ladder = ladder_vocabulary.ladder()
  assert vocabulary_lib.most_frequent(ladder, 5000) == ladder.vocab_size - 100
  assert vocabulary_lib.most_frequent(ladder, 100) == 100


def _describe(task, num_examples=1):
  found = seqio.maybe_get_mixture_or_task(task)
  return task_description.describe(found, "validation", num_examples)


def test_counts_majority_and_lengths_of_a_classification_task():
  lines = _describe("mini_boolq").splitlines()
  assert lines[:5] == [
    "mini_boolq, validation split",
    "",
    "examples   500",
    "targets     50.0%  False  majority class",
    "            50.0%  True",
  ]
  lengths = next(line for line in lines if line.startswith("  targets  "))
  # "False" and the end-of-sequence token, in bytes.
  assert [int(x) for x in lengths.split()[1:]] == [6, 6, 6, 6]


def test_free_answers_are_shown_by_frequency_with_their_labels():
  text = _describe("mini_wsc", num_examples=0)
  assert "different ones" in text
  assert "labels      50.0%" in text
  assert "Example" not in text


def test_examples_are_shown_as_pieces_over_ids():
  lines = _describe(tiny.TASK, num_examples=2).splitlines()
  start = lines.index("Example 0")
  assert lines[start + 1].startswith("  inputs, ")
  pieces, ids = lines[start + 2].split(), lines[start + 3].split()
  assert BYTES.encode("".join(pieces)) == [int(i) for i in ids[:-1]]
  assert int(ids[-1]) == BYTES.eos_id
  assert "Example 1" in lines
  assert all(len(line) <= 80 for line in lines)


def _pairs(change=lambda dataset: dataset):
  """Makes a task of one pair whose examples `change` transforms."""
  task = text_pairs.make({"validation": [("text", "neutral")]}, BYTES).task
  return task.replace(preprocessors=[*task.preprocessors, change])


def test_label_that_does_not_occur_is_listed(monkeypatch):
  monkeypatch.setitem(task_rows.ROWS, _pairs().name, task_rows.BY_NAME["cb"])
  lines = _describe(_pairs()).splitlines()
  assert "targets    100.0%  neutral  majority class" in lines
  assert "             0.0%  entailment" in lines


def test_targets_without_text_are_decoded():
  task = _pairs(lambda x: x.map(lambda row: {k: row[k] for k in FEATURES}))
  assert "targets    100.0%  neutral  majority class" in _describe(task)


def test_empty_split_is_refused():
  with pytest.raises(ValueError, match=r"pairs_.* is empty"):
    _describe(_pairs(lambda rows: rows.take(0)))
