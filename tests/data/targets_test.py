"""Targets: labels that are found and normalised, and free text."""

import logging
import unicodedata

import pytest
import seqio

from prompt_tuning.data import metrics, targets
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
