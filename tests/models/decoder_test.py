"""Tests that the decoder's parts agree with each other."""

import dataclasses
import functools

import conformance
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio
import tensorflow as tf
import tiny
import tiny_decoder

from prompt_tuning import prompts
from prompt_tuning.inference import programs
from prompt_tuning.injections import Injections
from prompt_tuning.models import networks
from prompt_tuning.models.rotary import Rope
from t5x import decoding, models, train_state, utils

INPUTS = np.array([[5, 9, 33, 2, 7], [21, 8, 0, 0, 0]], np.int32)
TARGETS = np.array([[4, 50, 1, 0], [7, 9, 30, 1]], np.int32)
# All of Gemma's features, with a window in the first layer.
GEMMA = {
  "norm_offset": 1,
  "scales_embedding": True,
  "has_post_norms": True,
  "has_qk_norm": True,
  "attention_soft_cap": 2.0,
  "logit_soft_cap": 3.0,
  "local_rope": Rope(100.0),
  "window": 3,
  "global_every": 2,
}
VARIANTS = pytest.mark.parametrize(
  "settings", [{}, GEMMA], ids=["llama", "gemma"]
)


def _network(settings, prompt_length=0):
  config = dataclasses.replace(
    tiny_decoder.config(), dtype="float32", **settings
  )
  prompt = functools.partial(prompts.Prompt, length=prompt_length)
  return networks.make(config, Injections(prompt if prompt_length else None))


def _shifted(targets):
  return np.pad(targets, ((0, 0), (1, 0)))[:, :-1]


def _logits(network, params, inputs=INPUTS):
  apply = jax.jit(functools.partial(network.apply, enable_dropout=False))
  return apply({"params": params}, inputs, _shifted(TARGETS), TARGETS)


@VARIANTS
def test_cached_decoding_computes_the_same_as_all_at_once(settings):
  network = _network(settings, prompt_length=2)
  params = conformance.random_params(network)
  steps = TARGETS.shape[1]

  @jax.jit
  def stepwise(params):
    encode = functools.partial(network.apply, method=network.encode)
    encoded = encode({"params": params}, INPUTS, enable_dropout=False)
    arguments = (encoded, INPUTS, steps)
    cache, kept = decoding.start_decoding(network, params, *arguments)
    decode = decoding.next_logits(network, params, kept, *arguments)
    columns = []
    for token in np.split(_shifted(TARGETS), steps, axis=1):
      logits, cache = decode(token, cache)
      columns.append(logits)
    return jnp.stack(columns, axis=1)

  expected = _logits(network, params)
  is_target = TARGETS > 0
  np.testing.assert_allclose(
    stepwise(params)[is_target], expected[is_target], rtol=2e-5, atol=2e-5
  )


@VARIANTS
def test_a_prompt_of_tokens_is_like_the_tokens(settings):
  network, plain = _network(settings, prompt_length=2), _network(settings)
  params = conformance.random_params(plain)
  table = params["token_embedder"]["embedding"]
  with_prompt = conformance.with_prompt(
    params, {"prompt": table[[11, 12]]}, "decoder"
  )
  before = np.broadcast_to(np.int32([11, 12]), (2, 2))
  expected = _logits(plain, params, np.concatenate([before, INPUTS], axis=1))
  found = _logits(network, with_prompt)
  np.testing.assert_allclose(found, expected, atol=2e-5)


@VARIANTS
def test_prompts_that_are_computed_once_are_read_as_those_of_a_row(settings):
  """A row with such a prompt may share a batch with a row without one."""
  network, plain = _network(settings, prompt_length=2), _network(settings)
  params = conformance.random_params(plain)
  prompt = np.random.default_rng(1).normal(size=(2, tiny_decoder.WIDTH))
  prompt = prompt.astype(np.float32)

  def encode(network, params):
    encode = functools.partial(network.apply, method=network.encode)
    encode = jax.jit(functools.partial(encode, enable_dropout=False))
    return encode({"params": params}, INPUTS).last

  with_prompt = conformance.with_prompt(params, {"prompt": prompt}, "decoder")
  expected = [encode(network, with_prompt), encode(plain, params)]
  served = programs.Network(plain.config, eos_id=1)
  table = np.zeros((3, 4, tiny_decoder.WIDTH), np.float32)
  table[1, :2] = prompt
  kept = jax.jit(served.table)(params, table)
  encode = jax.jit(served.encode)
  for lengths in ([2, 0], [0, 2]):
    tokens, _ = served.pack([x[x > 0] for x in INPUTS], lengths, 2, 5)
    np.testing.assert_array_equal(tokens, INPUTS)
    found = encode(params, kept, tokens, np.int32([1, 1]), np.int32(lengths))
    for row, length in enumerate(lengths):
      np.testing.assert_allclose(
        found.last[row], expected[length == 0][row], atol=2e-5
      )


def test_joined_batches_have_the_loss_of_those_apart():
  """seqio's joined features and our separate ones give the same scores."""
  model = models.DecoderOnlyModel(
    _network({}), seqio.ByteVocabulary(), None, z_loss=1e-4
  )
  params = conformance.random_params(model.module)

  def rows():
    for inputs, targets in zip(INPUTS, TARGETS, strict=True):
      yield {"inputs": inputs[inputs > 0], "targets": targets[targets > 0]}

  spec = tf.TensorSpec([None], tf.int32)
  dataset = tf.data.Dataset.from_generator(
    rows, output_signature={"inputs": spec, "targets": spec}
  )
  partitioner = tiny.make_partitioner()
  infer = utils.get_infer_fn(model.score_batch, 2, None, partitioner)
  state = train_state.TrainState.create(None, params)
  losses, scores = [], []
  for converter in (
    seqio.DecoderFeatureConverter(pack=False),
    model.feature_converter_cls(pack=False),
  ):
    converted = converter(dataset, {"inputs": 6, "targets": 5})
    batch = next(converted.batch(2).as_numpy_iterator())
    loss, sums = jax.jit(model.eval_fn)(params, batch)
    assert sums["target_tokens"] == 7
    losses.append(loss)
    numbered = converted.enumerate().as_numpy_iterator()
    scores.append([x for _, x in infer(numbered, state)])
  np.testing.assert_allclose(*losses, rtol=1e-6)
  np.testing.assert_allclose(*scores, rtol=1e-6)
