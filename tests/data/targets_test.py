"""Targets, of labels and of free text; and tasks of a program's own pairs."""

import logging
import unicodedata

import numpy as np
import pytest
import seqio

from prompt_tuning.data import metrics, targets, text_pairs
from prompt_tuning.mini.ladder import vocabulary as ladder_vocabulary

CAFE = unicodedata.normalize("NFD", "caf\u00e9")


class Composing(seqio.ByteVocabulary):
  """Writes one character for e and its accent, as T5's vocabulary does."""

  def _encode(self, s):
    return super()._encode(unicodedata.normalize("NFKC", s))


class LowerCase(seqio.ByteVocabulary):
  def _decode(self, ids):
    return super()._decode(ids).lower()


@pytest.fixture(scope="module")
def ladder():
  return ladder_vocabulary.ladder()


@pytest.mark.parametrize(
  ("found", "labels"),
  [
    (["good", "good ", "bad"] * 3, ("bad", "good")),
    (["a", "b", "c"] * 3, ()),
    ([str(i) for i in range(51)] * 9, ()),
  ],
)
def test_labels_are_few_and_repeated(found, labels):
  assert targets.find_labels(found) == labels


def test_a_right_answer_equals_its_label():
  """Whatever the spaces, and however the vocabulary writes it."""
  composing = Composing()
  made = targets.make([f"{CAFE} ", "and so on\u2026"], [], composing)
  assert made.labels == ("caf\u00e9", "and so on...")
  assert made.metric_fns == [
    metrics.accuracy,
    metrics.macro_f1,
    metrics.invalid,
  ]
  for target in (CAFE, f" {CAFE}\n", "and  so on\u2026"):
    written = made.normalize(target, "here", "nothing")
    answer = composing.decode(list(composing.encode(target.strip())))
    answer = " ".join(answer.split())
    assert made.postprocess(answer, example={}) == made.labels.index(written)


def test_free_text_is_written_as_a_right_answer(ladder, caplog):
  made = targets.make([], ["wait\u2026"], Composing())
  assert made.normalize("wait\u2026", "here", "nothing") == "wait..."
  assert made.postprocess is None
  assert made.metric_fns == [metrics.squad]
  assert "does not know" not in caplog.text
  with caplog.at_level(logging.WARNING):
    targets.make([], ["{}"] * 20 + ["rice ."], ladder)
  assert "20 of 21 targets have characters" in caplog.text


@pytest.mark.parametrize(
  ("labels", "found", "message"),
  [
    ([0, 1], [], "labels to be texts, got 0"),
    (["True", "{No}"], [], r"vocabulary knows, got '\{No\}'"),
    ([], ["{}"] * 9, "9 of 9 targets have characters"),
  ],
)
def test_targets_that_no_answer_can_equal_are_refused(
  ladder, labels, found, message
):
  with pytest.raises(ValueError, match=message):
    targets.make(labels, found, ladder)


def test_labels_that_are_written_alike_are_refused():
  with pytest.raises(ValueError, match="labels 'm2' and 'M2' alike, as 'm2'"):
    targets.make(["m2", "M2"], [], LowerCase())


PAIRS = [("rice .", " True"), ("soup .", "False\n")] * 4


@pytest.mark.parametrize(
  "labels", [None, ["True", "False"], [" True", "False"]]
)
def test_right_answers_are_right_for_targets_with_spaces(ladder, labels):
  made = text_pairs.make({"train": PAIRS}, ladder, labels)
  assert sorted(made.labels) == ["False", "True"]
  rows = made.task.get_dataset(None, "train", shuffle=False)
  for (_, target), row in zip(PAIRS, rows.as_numpy_iterator(), strict=True):
    right, answer = (
      made.task.postprocess_fn(text, example=row, is_target=is_target)
      for text, is_target in (
        (row["targets_pretokenized"].decode(), True),
        (ladder.decode(list(ladder.encode(target))), False),
      )
    )
    assert right == answer == made.labels.index(target.strip())


@pytest.mark.parametrize("labels", [None, []])
def test_pairs_may_be_any_iterable(ladder, labels):
  expected = text_pairs.make({"train": PAIRS}, ladder, labels)
  for pairs in (zip(*zip(*PAIRS, strict=True), strict=True), np.array(PAIRS)):
    made = text_pairs.make({"train": pairs}, ladder, labels)
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
def test_other_things_than_pairs_are_refused(ladder, pairs, message):
  with pytest.raises(ValueError, match=message):
    text_pairs.make({"train": pairs}, ladder)
