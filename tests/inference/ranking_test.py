"""Tests of rank classification, against the scores of single labels."""

import functools

import conformance
import jax
import numpy as np
import pytest
import tiny

from prompt_tuning.inference import ranking
from prompt_tuning.mini.ladder import vocabulary as ladder_vocabulary

LABELS = ("yes", "no", "not")
TEXTS = ["abc", "abxcdefgh", "x", "hgf", "hello", "no", "yes yes", "a b c d"]
EOS = 1


def _batch(vocabulary, label=None):
  """Returns a batch of the texts, with `label` as every target if given."""

  def padded(texts, length):
    rows = [[*vocabulary.encode(text), EOS] for text in texts]
    return np.array([row + [0] * (length - len(row)) for row in rows], np.int32)

  targets = np.zeros((len(TEXTS), tiny.LENGTHS["targets"]), np.int32)
  if label is not None:
    targets[:] = padded([label], tiny.LENGTHS["targets"])
  return tiny.features(padded(TEXTS, tiny.LENGTHS["inputs"]), targets)


def _rank(model, params, **arguments):
  arguments = {"labels": LABELS, "normalize": False, **arguments}
  arguments.setdefault("vocabulary", model.output_vocabulary)
  model.decode_fn = functools.partial(ranking.rank_labels, **arguments)
  predict = functools.partial(
    model.predict_batch_with_aux,
    num_decodes=len(arguments["labels"]),
    return_all_decodes=True,
  )
  return jax.jit(predict)(params, _batch(model.output_vocabulary))


def test_labels_are_ordered_by_their_own_scores(model, prompts):
  """Evaluations and `Model.rank` order labels by teacher-forced scores."""
  prompt, trained = prompts[2].array, tiny.make_model()
  words = trained.output_vocabulary
  params = conformance.with_prompt(model.params, {"prompt": prompt})
  score = jax.jit(trained.score_batch)
  # Teacher forcing scores one label at a time: [B, L].
  scores = np.stack(
    [score(params, _batch(words, label)) for label in LABELS], axis=1
  )
  for is_normal in (False, True):
    lengths = [len(label) + 1 if is_normal else 1 for label in LABELS]
    expected = scores / lengths
    order = expected.argsort(axis=1)
    sequences, aux = _rank(trained, params, normalize=is_normal)
    np.testing.assert_allclose(
      aux["scores"], np.take_along_axis(expected, order, 1), rtol=1e-5
    )
    decoded = [
      [words.decode(row) for row in rows] for rows in sequences.tolist()
    ]
    assert decoded == [[LABELS[i] for i in row] for row in order]
  # The model keeps the decoding function of `_rank`: three labels, one decode.
  with pytest.raises(ValueError, match="number of labels, 3, got 1"):
    trained.predict_batch(params, _batch(words))
  found = model.rank(TEXTS, LABELS, prompt)
  for ranked, row in zip(found, scores.tolist(), strict=True):
    alone = dict(zip(LABELS, row, strict=True))
    assert ranked == pytest.approx(alone, rel=1e-5)
    assert list(ranked) == sorted(LABELS, key=alone.get, reverse=True)


def test_labels_and_decodes_that_do_not_fit_are_refused(model):
  trained, params = tiny.make_model(with_prompt=False), model.params
  message = (
    r"'entailment' has 11 tokens, the targets 5.*gin\.infer_eval/utils"
    r"\.DatasetConfig\.task_feature_lengths"
  )
  with pytest.raises(ValueError, match=message):
    _rank(trained, params, labels=("no", "entailment"))
  words = ladder_vocabulary.WordVocabulary(["yes"])
  message = r"got 'no', which has the tokens \[2\], where 2 means"
  with pytest.raises(ValueError, match=message):
    _rank(trained, params, labels=("yes", "no"), vocabulary=words)
