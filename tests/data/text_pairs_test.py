"""Tests for prompt_tuning.data.text_pairs."""

import numpy as np
import pytest
import seqio

from prompt_tuning.data import text_pairs
from prompt_tuning.mini.ladder import vocabulary as ladder_vocabulary

PAIRS = [("rice .", " True"), ("soup .", "False\n")] * 4


@pytest.mark.parametrize(
  "labels", [None, ["True", "False"], [" True", "False"]]
)
def test_right_answers_are_right_whatever_spaces_targets_have(labels):
  """Those that begin with a space are how OpenAI had them."""
  vocabulary = ladder_vocabulary.ladder()
  made = text_pairs.make({"train": PAIRS}, vocabulary, labels)
  assert sorted(made.labels) == ["False", "True"]
  rows = made.task.get_dataset(None, "train", shuffle=False)
  for (_, target), row in zip(PAIRS, rows.as_numpy_iterator(), strict=True):
    right, answer = (
      made.task.postprocess_fn(text, example=row, is_target=is_target)
      for text, is_target in (
        (row["targets_pretokenized"].decode(), True),
        (vocabulary.decode(list(vocabulary.encode(target))), False),
      )
    )
    assert right == answer == made.labels.index(target.strip())


def test_free_text_is_what_an_answer_that_is_right_looks_like():
  pairs = [(f"q{i}", "rice  soup .") for i in range(9)]
  ladder = ladder_vocabulary.ladder()
  with pytest.raises(ValueError, match="9 of 9 targets have characters"):
    text_pairs.make({"train": [("q", "{}")] * 9}, ladder, labels=[])
  made = text_pairs.make({"train": pairs}, ladder, labels=[])
  for row in made.task.get_dataset(None, "train").as_numpy_iterator():
    answer = ladder.decode(row["targets"][:-1].tolist())
    assert row["targets_pretokenized"].decode() == answer


def test_label_that_no_answer_can_be_is_refused():
  pairs = [("rice .", "True"), ("soup .", "{No}")] * 4
  vocabulary = ladder_vocabulary.ladder()
  with pytest.raises(ValueError, match=r"vocabulary knows, got '\{No\}'"):
    text_pairs.make({"train": pairs}, vocabulary)
  assert text_pairs.make({"train": pairs}, vocabulary, []).labels == ()


class _LowerCase(seqio.ByteVocabulary):
  def _decode(self, ids):
    return super()._decode(ids).lower()


def test_labels_that_are_written_alike_are_refused():
  pairs = [("rice .", "m2"), ("soup .", "M2")] * 4
  with pytest.raises(ValueError, match="labels 'M2' and 'm2' alike, as 'm2'"):
    text_pairs.make({"train": pairs}, _LowerCase())


def test_label_that_is_no_text_is_refused():
  with pytest.raises(ValueError, match="labels to be texts, got 0"):
    text_pairs.make({"train": PAIRS}, ladder_vocabulary.ladder(), [0, 1])


@pytest.mark.parametrize("labels", [None, []])
def test_pairs_may_be_whatever_can_be_gone_through(labels):
  vocabulary = ladder_vocabulary.ladder()
  expected = text_pairs.make({"train": PAIRS}, vocabulary, labels)
  for pairs in (zip(*zip(*PAIRS, strict=True), strict=True), np.array(PAIRS)):
    made = text_pairs.make({"train": pairs}, vocabulary, labels)
    assert made.task.name == expected.task.name
    assert made.lengths == expected.lengths


@pytest.mark.parametrize(
  ("pairs", "message"),
  [
    ({"text": "label"}, "train to be pairs .*, got a mapping"),
    ([{"text": "rice .", "label": "True"}], r"train\[0\] to be .*, got \{"),
    ([("rice .", "True"), 5], r"train\[1\] to be a pair .*, got 5"),
    ([("rice .", 5)], r"train\[0\] to be a pair .* 5\)"),
    (iter(()), "Expected pairs of train, got none"),
  ],
)
def test_what_is_no_list_of_pairs_is_refused(pairs, message):
  with pytest.raises(ValueError, match=message):
    text_pairs.make({"train": pairs}, ladder_vocabulary.ladder())
