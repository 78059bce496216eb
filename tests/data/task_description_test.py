"""What show_task prints."""

import pytest
import seqio
import tensorflow as tf
import tiny

from prompt_tuning import tasks  # noqa: F401
from prompt_tuning.data import superglue, task_description


@pytest.fixture(autouse=True)
def _byte_vocabulary():
  tiny.make_model()


def _add(name, columns, preprocessors=()):
  """Registers a task of one split, in bytes."""
  seqio.TaskRegistry.add(
    name,
    seqio.FunctionDataSource(
      lambda split, shuffle_files, seed=None: (
        tf.data.Dataset.from_tensor_slices(columns)
      ),
      splits=["validation"],
    ),
    preprocessors=[*preprocessors, seqio.preprocessors.append_eos],
    output_features={
      feature: seqio.Feature(seqio.ByteVocabulary())
      for feature in ("inputs", "targets")
    },
  )


def _describe(name, split="validation", num_examples=1):
  return task_description.describe(
    seqio.get_mixture_or_task(name), split, num_examples
  )


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
  # "False" and the end of sequence, in bytes.
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
  vocabulary = seqio.ByteVocabulary()
  assert vocabulary.encode("".join(pieces)) == [int(i) for i in ids[:-1]]
  assert int(ids[-1]) == vocabulary.eos_id
  assert "Example 1" in lines
  assert all(len(line) <= 80 for line in lines)


def test_label_that_does_not_occur_is_listed(monkeypatch):
  _add(
    "described_cb",
    {"inputs": ["text"], "targets": ["neutral"]},
    [seqio.preprocessors.tokenize],
  )
  monkeypatch.setitem(superglue.ROWS, "described_cb", superglue.CB)
  lines = _describe("described_cb").splitlines()
  assert "targets    100.0%  neutral  majority class" in lines
  assert "             0.0%  entailment" in lines


def test_targets_without_text_are_decoded():
  targets = [seqio.ByteVocabulary().encode("x")]
  _add("described_tokens", {"inputs": [[4, 5]], "targets": targets})
  assert "targets    100.0%  x  majority class" in _describe("described_tokens")


def test_other_splits_and_counts_are_refused():
  with pytest.raises(ValueError, match="to show, 0 or more, got -1"):
    _describe("mini_boolq", num_examples=-1)
  with pytest.raises(ValueError, match="has no split 'dev'"):
    _describe("mini_boolq", "dev")
  empty = tf.zeros([0, 1], tf.int32)
  _add("described_empty", {"inputs": empty, "targets": empty})
  with pytest.raises(ValueError, match="described_empty is empty"):
    _describe("described_empty", num_examples=0)
