"""Rank classification on a tiny T5, against scores of each label by itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from prompt_tuning.inference import ranking
from prompt_tuning.mini.ladder import vocabulary as ladder_vocabulary

LABELS = ("yes", "no", "not")
EOS = 1


@pytest.fixture(scope="module")
def tiny_model(model):
  return tiny.make_model(with_prompt=False), model.params


def _batch(targets=None):
  """Eight examples; with `targets`, the same label for all of them."""
  rng = np.random.default_rng(0)
  lengths = rng.integers(3, 12, size=(tiny.BATCH_SIZE, 1))
  inputs = rng.integers(3, 250, size=(tiny.BATCH_SIZE, 12))
  inputs = np.where(np.arange(12) < lengths, inputs, 0)
  row = np.zeros(tiny.LENGTHS["targets"], np.int32)
  row[: len(targets or ())] = targets or ()
  row = np.tile(row, (tiny.BATCH_SIZE, 1))
  return {
    "encoder_input_tokens": jnp.asarray(inputs, jnp.int32),
    "decoder_input_tokens": jnp.asarray(np.pad(row, ((0, 0), (1, 0)))[:, :-1]),
    "decoder_target_tokens": jnp.asarray(row),
    "decoder_loss_weights": jnp.asarray(row > 0, jnp.float32),
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
  return jax.jit(predict)(params, _batch())


def _scores(model, params):
  """[B, L], from teacher forcing, a label at a time."""
  columns, score = [], jax.jit(model.score_batch)
  for label in LABELS:
    tokens = [*model.output_vocabulary.encode(label), EOS]
    columns.append(score(params, _batch(tokens)))
  return np.stack(columns, axis=1)


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


def test_one_pass_scores_as_the_decoding_function_does(model, prompts):
  """The server and the Python door score in one pass."""
  prompt = prompts[2].array
  texts = ["abc", "abxcdefgh"]
  tokens = np.zeros((2, 12), np.int32)
  for row, text in zip(tokens, texts, strict=True):
    row[: len(text) + 1] = model.encode(text)
  encoder = {**model.params["encoder"], "prompt": {"prompt": prompt}}
  ranking_model = ranking.make_ranking_model(
    LABELS,
    module=tiny.make_model().module,
    input_vocabulary=model.vocabulary,
    output_vocabulary=model.vocabulary,
    optimizer_def=None,
  )
  predict = functools.partial(
    ranking_model.predict_batch_with_aux, return_all_decodes=True
  )
  labels, aux = jax.jit(predict)(
    {**model.params, "encoder": encoder},
    {
      "encoder_input_tokens": tokens,
      "decoder_input_tokens": np.zeros((2, 5), np.int32),
    },
  )
  decode = model.vocabulary.decode
  for found, rows, scores in zip(
    model.rank(texts, LABELS, prompt), labels, aux["scores"], strict=True
  ):
    names = [decode(row) for row in np.asarray(rows[::-1]).tolist()]
    assert list(found) == names
    assert list(found.values()) == pytest.approx(
      scores[::-1].tolist(), rel=1e-5
    )


def test_padding_after_the_label_is_not_scored(tiny_model):
  """A label's score is the same beside a longer one."""
  model, params = tiny_model
  alone = _rank(model, params, labels=("no",))[1]["scores"]
  sequences, aux = _rank(model, params, labels=("no", "nono"))
  is_no = np.asarray(sequences)[:, :, 3] == 0
  np.testing.assert_allclose(
    np.asarray(aux["scores"])[is_no], alone[:, 0], rtol=1e-5
  )


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
    model.predict_batch(params, _batch())
