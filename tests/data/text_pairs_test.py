"""Tests of targets (labels and free text) and of tasks made from pairs."""

import logging

import numpy as np
import pytest

from prompt_tuning.data import metrics, text_pairs
from prompt_tuning.mini.ladder import vocabulary as ladder_vocabulary


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
  assert text_pairs.find_labels(found) == labels


def test_a_right_answer_equals_its_label(ladder):
  """Neither spaces nor the vocabulary's spelling make an answer wrong."""
  made = text_pairs.make_targets(["yes:no ", "rice."], [], ladder)
  assert made.labels == ("yes : no", "rice .")
  assert made.metric_fns == [
    metrics.accuracy,
    metrics.macro_f1,
    metrics.invalid,
  ]
  for target in ("yes:no", " yes:no\n", "rice  ."):
    written = made.normalize(target, "here", "nothing")
    answer = ladder.decode(list(ladder.encode(target)))
    assert made.postprocess(answer, example={}) == made.labels.index(written)


def test_free_text_is_written_as_a_right_answer(ladder, caplog):
  made = text_pairs.make_targets([], ["rice."], ladder)
  assert made.normalize("rice.", "here", "nothing") == "rice ."
  assert made.postprocess is None
  assert made.metric_fns == [metrics.squad]
  assert "does not know" not in caplog.text
  with caplog.at_level(logging.WARNING):
    text_pairs.make_targets([], ["{}"] * 20 + ["rice ."], ladder)
  assert "20 of 21 targets have characters" in caplog.text


def test_few_short_targets_are_said_to_be_free_text(ladder, caplog):
  """A warning names the few different targets unless `labels` is given."""
  for labels, is_said in ((None, True), (["True"], False), ([], False)):
    caplog.clear()
    made = text_pairs.make_targets(labels, ["True", "False"], ladder)
    assert made.labels == tuple(labels or ())
    assert ("2 different targets" in caplog.text) == is_said


@pytest.mark.parametrize(
  ("labels", "found", "message"),
  [
    ([0, 1], [], "labels to be texts, got 0"),
    (["yes", "no", " "], [], "labels to be texts, got ' '"),
    (["True", "{No}"], [], r"vocabulary knows, got '\{No\}'"),
    # The vocabulary turns both into the same tokens.
    (["yes:no", "yes : no"], [], "labels, 'yes:no' and 'yes : no', as"),
    ([], ["{}"] * 9, "9 of 9 targets have characters"),
  ],
)
def test_targets_that_no_answer_can_equal_are_refused(
  ladder, labels, found, message
):
  with pytest.raises(ValueError, match=message):
    text_pairs.make_targets(labels, found, ladder)


PAIRS = [("rice .", " True"), ("soup .", "False\n")] * 4


@pytest.mark.parametrize("labels", [None, [" True", "False"]])
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


def test_pairs_may_be_any_iterable(ladder):
  expected = text_pairs.make({"train": PAIRS}, ladder)
  for pairs in (zip(*zip(*PAIRS, strict=True), strict=True), np.array(PAIRS)):
    made = text_pairs.make({"train": pairs}, ladder)
    assert made.task.name == expected.task.name
    assert made.lengths == expected.lengths


def test_splits_of_a_library_are_not_pairs(ladder):
  """A dict of splits is refused; `datasets.load_dataset` returns one."""
  with pytest.raises(ValueError, match=r"one split of a DatasetDict.*'train'"):
    text_pairs.make({"train": {"train": PAIRS}}, ladder)  # pyright: ignore[reportArgumentType]
