"""Rank classification on a tiny T5, against scores of each label by itself."""

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


@pytest.fixture(scope="module")
def tiny_model(model):
  return tiny.make_model(with_prompt=False), model.params


def _batch(vocabulary, label=None):
  """The texts; with `label`, the same label for all of them."""

  def padded(texts, length):
    rows = [[*vocabulary.encode(text), EOS] for text in texts]
    return np.array([row + [0] * (length - len(row)) for row in rows], np.int32)

  targets = np.zeros((len(TEXTS), tiny.LENGTHS["targets"]), np.int32)
  if label is not None:
    targets[:] = padded([label], tiny.LENGTHS["targets"])
  return {
    "encoder_input_tokens": padded(TEXTS, tiny.LENGTHS["inputs"]),
    "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
    "decoder_target_tokens": targets,
    "decoder_loss_weights": np.float32(targets > 0),
  }


def _rank(model, params, **arguments):
  model._decode_fn = functools.partial(
    ranking.rank_labels,
    **{
      "labels": LABELS,
      "vocabulary": model.output_vocabulary,
      "normalize": False,
      **arguments,
    },
  )
  labels = arguments.get("labels", LABELS)
  predict = functools.partial(
    model.predict_batch_with_aux,
    num_decodes=len(labels),
    return_all_decodes=True,
  )
  return jax.jit(predict)(params, _batch(model.output_vocabulary))


def _scores(model, params):
  """[B, L], from teacher forcing, a label at a time."""
  score = jax.jit(model.score_batch)
  return np.stack(
    [score(params, _batch(model.output_vocabulary, x)) for x in LABELS], axis=1
  )


@pytest.mark.parametrize("normalize", [False, True])
def test_labels_are_ordered_by_their_own_scores(tiny_model, normalize):
  model, params = tiny_model
  expected = _scores(model, params)
  if normalize:
    expected = expected / [len(label) + 1 for label in LABELS]
  order = expected.argsort(axis=1)

  sequences, aux = _rank(model, params, normalize=normalize)

  np.testing.assert_allclose(
    aux["scores"], np.take_along_axis(expected, order, 1), rtol=1e-5
  )
  decoded = [
    [model.output_vocabulary.decode(row.tolist()) for row in rows]
    for rows in np.asarray(sequences)
  ]
  assert decoded == [[LABELS[i] for i in row] for row in order]


def test_one_pass_scores_each_label_as_by_itself(model, prompts):
  """The server and the Python door score in one pass."""
  prompt = prompts[2].array
  params = conformance.with_prompt(model.params, {"prompt": prompt})
  expected = _scores(tiny.make_model(), params).tolist()
  found = model.rank(TEXTS, LABELS, prompt)
  for ranked, scores in zip(found, expected, strict=True):
    alone = dict(zip(LABELS, scores, strict=True))
    assert ranked == pytest.approx(alone, rel=1e-5)
    assert list(ranked) == sorted(LABELS, key=alone.get, reverse=True)


def test_labels_and_decodes_that_do_not_fit_are_refused(tiny_model):
  model, params = tiny_model
  message = (
    r"'entailment' has 11 tokens, the targets 5.*gin\.infer_eval/utils"
    r"\.DatasetConfig\.task_feature_lengths"
  )
  with pytest.raises(ValueError, match=message):
    _rank(model, params, labels=("no", "entailment"))
  words = ladder_vocabulary.WordVocabulary(["yes"])
  message = r"got 'no', which has the tokens \[2\], where 2 means"
  with pytest.raises(ValueError, match=message):
    _rank(model, params, labels=("yes", "no"), vocabulary=words)
  # The decoding function of `_rank` stays: three labels, one decode.
  _rank(model, params)
  with pytest.raises(ValueError, match="number of labels, 3, got 1"):
    model.predict_batch(params, _batch(model.output_vocabulary))
