"""Tests of the network against numbers of published reference programs."""

import functools

import conformance
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x import losses


def assert_close(found, case, real=..., **tolerance):
  """Compares an array, or its `real` positions, with the reference."""
  expected = conformance.expected(case)
  np.testing.assert_allclose(found[real], expected[real], **tolerance)


def test_parameter_names_shapes_and_axes():
  variables = conformance.variable_shapes(conformance.transformer())
  shapes = jax.tree.map(jnp.shape, variables["params"])
  assert shapes == jax.tree.map(jnp.shape, conformance.parameters())
  axes = traverse_util.flatten_dict(variables["params_axes"], sep="/")
  assert {name: list(axis.names) for name, axis in axes.items()} == {
    conformance.our_name(name) + "_axes": names
    for name, names in conformance.FACTS["parameter_axes"].items()
  }


@pytest.mark.parametrize(
  ("case", "prompt_length"),
  [("plain", 0), ("prompt", conformance.PROMPT_LENGTH)],
)
def test_encoder_output_and_logits(case, prompt_length):
  model = conformance.transformer(prompt_length)
  features = conformance.batch()

  def encode_and_decode(model, inputs, *targets):
    encoded = model.encode(inputs, enable_dropout=False)
    logits = model.decode(encoded, inputs, *targets, enable_dropout=False)
    return encoded, logits

  apply = functools.partial(model.apply, method=encode_and_decode)
  encoded, logits = jax.jit(apply)(
    {"params": conformance.parameters(prompt_length)},
    *conformance.network_inputs(features),
  )
  real = features["decoder_target_tokens"] > 0
  assert_close(encoded, f"{case}/encoder_output", atol=1e-5)
  assert_close(logits, f"{case}/logits", real, atol=1e-5)


def test_gradients_of_all_parameters():
  model = conformance.transformer()
  features = conformance.batch()

  @jax.jit
  @jax.grad
  def gradients_of(params):
    logits = model.apply(
      {"params": params},
      *conformance.network_inputs(features),
      enable_dropout=False,
    )
    loss, _, _ = losses.compute_weighted_cross_entropy(
      logits,
      features["decoder_target_tokens"],
      features["decoder_loss_weights"],
      z_loss=1e-4,
    )
    return loss

  gradients = traverse_util.flatten_dict(
    gradients_of(conformance.parameters()), sep="/"
  )
  names = conformance.FACTS["grad_norms_order"]
  norms = [
    np.linalg.norm(gradients[conformance.our_name(name)]) for name in names
  ]
  tolerance = {"rtol": 1e-5, "atol": 1e-6}
  assert_close(np.stack(norms), "prompt/grad_norms", **tolerance)
  prompt = gradients["encoder/prompt/prompt"]
  assert_close(prompt, "prompt/grad_prompt_ls0.0", **tolerance)
  for name in (
    "decoder/decoder_norm/scale",
    "decoder/relpos_bias/rel_embedding",
    "encoder/layers_0/mlp/wi_0/kernel",
    "encoder/relpos_bias/rel_embedding",
  ):
    assert_close(gradients[name], f"prompt/grad/{name}", **tolerance)


def test_decoding_with_a_cache_equals_the_full_forward_pass():
  features = conformance.batch()
  logits = conformance.decode_step_by_step(
    conformance.transformer(), conformance.parameters(), features
  )
  real = features["decoder_target_tokens"] > 0
  assert_close(logits, "prompt/logits", real, atol=1e-5)
