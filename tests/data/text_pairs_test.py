"""Tasks of a program's own pairs; `targets_test` has the rules of targets."""

import numpy as np
import pytest

from prompt_tuning.data import text_pairs
from prompt_tuning.mini.ladder import vocabulary as ladder_vocabulary

PAIRS = [("rice .", " True"), ("soup .", "False\n")] * 4


@pytest.fixture(scope="module")
def ladder():
  return ladder_vocabulary.ladder()


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
