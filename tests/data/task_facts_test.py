"""What tasks say of themselves, beside what their examples are."""

import dataclasses

import pytest
import seqio

from prompt_tuning.data import superglue, task_facts
from prompt_tuning.data import vocabulary as vocabulary_lib
from prompt_tuning.data.sources import ExampleSource
from prompt_tuning.mini.ladder import vocabulary as ladder_vocabulary

MODULE = "prompt_tuning.tasks"
RECORD = ("commonsense", "reasoning", "reading", "comprehension")


@pytest.fixture(scope="module", autouse=True)
def _tasks():
  names = ["facts_cb", "facts_free", "facts_test"]
  for name, row in zip(
    names, (superglue.CB, superglue.RECORD, superglue.AXB), strict=True
  ):
    # Over examples that are text already.
    bare = dataclasses.replace(row, preprocess=lambda dataset: dataset)
    superglue.add_task(name, bare, _source(row.splits))
  superglue.add_mixture("facts", dict.fromkeys(names[:2], 1))
  yield
  seqio.MixtureRegistry.remove("facts")
  seqio.MixtureRegistry.remove("facts_prefixed")
  for name in names:
    for suffix in ("", "_prefixed", "_sentinel"):
      seqio.TaskRegistry.remove(f"{name}{suffix}")


def _source(splits):
  def examples(split):
    sizes = {"train": (3, 30, 12), "validation": (50,), "test": (60, 5)}[split]
    return [{"inputs": "x" * n, "targets": "y" * (n % 11)} for n in sizes]

  return ExampleSource(examples, {x: len(examples(x)) for x in splits})


@pytest.fixture
def byte_vocabulary():
  return vocabulary_lib.of_model(seqio.ByteVocabulary())


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


def test_labels_behind_a_sentinel_are_whole_targets(byte_vocabulary):
  plain = ("entailment", "not_entailment")
  assert task_facts.labels("super_glue_rte_prefixed", MODULE) == plain
  labels = task_facts.labels("ladder_cb_sentinel", MODULE)
  task = seqio.get_mixture_or_task("ladder_cb_sentinel")
  examples = task.get_dataset(None, "validation", shuffle=False, num_epochs=1)
  targets = {x["targets_pretokenized"].numpy().decode() for x in examples}
  assert targets == set(labels)
  # As ranking writes them.
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
    (task_facts.class_words, "mini_boolk", "near: mini_boolq"),
  ],
)
def test_what_is_not_known_is_an_error(function, task, message):
  with pytest.raises(ValueError, match=message):
    function(task, MODULE)


def test_a_task_and_a_module_are_needed():
  with pytest.raises(ValueError, match=r"--gin\.TASK="):
    task_facts.task_name(None)
  assert task_facts.task_name("cb") == "cb"
  with pytest.raises(ValueError, match="MIXTURE_OR_TASK_MODULE='no_module'"):
    task_facts.class_words("cb", "no_module")


@pytest.mark.parametrize(
  ("task", "options", "lengths"),
  [
    # "contradiction", and the end of sequence.
    ("facts_cb", {}, {"inputs": 31, "targets": 14}),
    ("facts_cb", {"longest": 20}, {"inputs": 20, "targets": 14}),
    ("facts_cb_prefixed", {}, {"inputs": 34, "targets": 14}),
    ("facts_cb", {"splits": ("train", "test")}, {"inputs": 61, "targets": 14}),
    ("facts_cb", {"splits": ("test",)}, {"inputs": 61, "targets": 14}),
    # The same behind a sentinel.
    ("facts_cb_sentinel", {"longest": None}, {"inputs": 31, "targets": 27}),
    # Of free text, the examples count.
    ("facts_free", {}, {"inputs": 31, "targets": 9}),
    ("facts", {}, {"inputs": 31, "targets": 14}),
  ],
)
def test_lengths(byte_vocabulary, task, options, lengths):
  assert task_facts.lengths(task, byte_vocabulary, **options) == lengths


def test_lengths_up_to_a_limit_are_of_the_first_examples(
  byte_vocabulary, monkeypatch
):
  with pytest.raises(ValueError, match="TASK_FEATURE_LENGTHS="):
    task_facts.lengths("facts_test", byte_vocabulary)
  monkeypatch.setattr(task_facts, "MAX_EXAMPLES", 1)
  lengths = task_facts.lengths("facts_free_prefixed", byte_vocabulary)
  assert lengths == {"inputs": 4 + len("record "), "targets": 4}
  lengths = task_facts.lengths("facts_free", byte_vocabulary, longest=None)
  assert lengths == {"inputs": 31, "targets": 9}


def test_population_of_a_small_vocabulary():
  ladder = ladder_vocabulary.ladder()
  assert vocabulary_lib.most_frequent(ladder, 5000) == len(
    ladder_vocabulary.words()
  ) + len(("<pad>", "</s>", "<unk>"))
  assert vocabulary_lib.most_frequent(ladder, 100) == 100
