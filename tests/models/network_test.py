import functools
import re
from typing import Any

import conformance
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning.models.t5 import network

# One layer in each stack: the time goes into compiling.
transformer = functools.partial(
  conformance.transformer, num_encoder_layers=1, num_decoder_layers=1
)


@functools.partial(jax.jit, static_argnums=0)
def forward(model: network.Transformer, params: Any, features: Any):
  """Logits without dropout, [B, S, V]."""
  return model.apply(
    {"params": params},
    *conformance.network_inputs(features),
    enable_dropout=False,
  )


def test_padding_and_order_of_a_batch_do_not_change_logits():
  model = transformer()
  params = conformance.parameters()
  features = conformance.batch()
  padded = {
    name: np.pad(tokens, ((0, 0), (0, 3))) for name, tokens in features.items()
  }
  logits = forward(model, params, features)
  real = features["decoder_target_tokens"] > 0
  np.testing.assert_allclose(
    forward(model, params, padded)[:, : real.shape[1]][real],
    logits[real],
    atol=1e-5,
  )
  order = np.array([2, 0, 3, 1])
  permuted = {name: tokens[order] for name, tokens in features.items()}
  np.testing.assert_allclose(
    forward(model, params, permuted), logits[order], atol=1e-5
  )


@functools.cache
def logits_and_gradients(dtype: str, param_dtype: str):
  """Of the real targets, and of all parameters for a sum over these."""
  model = transformer(dtype=dtype, param_dtype=param_dtype)
  features = conformance.batch()
  real = features["decoder_target_tokens"] > 0

  def objective(params):
    logits = forward(model, params, features)
    return jnp.sum(jnp.square(logits) * real[..., None]), logits

  params = jax.tree.map(
    lambda array: array.astype(param_dtype), conformance.parameters()
  )
  gradients, logits = jax.jit(jax.grad(objective, has_aux=True))(params)
  return np.asarray(logits)[real], gradients


@pytest.mark.parametrize("param_dtype", ["float32", "bfloat16"])
def test_bfloat16_is_close_to_float32(param_dtype):
  exact, exact_gradients = logits_and_gradients("float32", "float32")
  logits, gradients = logits_and_gradients("bfloat16", param_dtype)
  assert logits.dtype == np.float32
  assert np.abs(logits - exact).max() < 0.03 * np.abs(exact).max()

  def check(gradient, exact):
    error = np.asarray(gradient, np.float32) - exact
    assert np.linalg.norm(error) <= 0.05 * np.linalg.norm(exact)

  jax.tree.map(check, gradients, exact_gradients)


def test_logits_of_a_kernel_in_bfloat16_are_those_of_products_in_float32():
  """Products of bfloat16 are exact in float32, in which both add them up."""
  model = transformer(dtype="bfloat16")
  params = conformance.parameters()
  stored = params["decoder"]["logits_dense"]["kernel"].astype(jnp.bfloat16)

  def logits_of(kernel):
    decoder = {**params["decoder"], "logits_dense": {"kernel": kernel}}
    return forward(model, {**params, "decoder": decoder}, conformance.batch())

  wide = stored.astype(jnp.float32)
  np.testing.assert_allclose(
    logits_of(stored), logits_of(wide), rtol=1e-5, atol=1e-5
  )
  # No copy of the kernel is made.
  copied = f"f32[{','.join(map(str, stored.shape))}]"
  assert copied in str(jax.make_jaxpr(logits_of)(wide))
  assert copied not in str(jax.make_jaxpr(logits_of)(stored))


def test_parameter_dtypes():
  variables = conformance.variable_shapes(transformer(param_dtype="bfloat16"))
  dtypes = jax.tree.map(lambda array: array.dtype, variables["params"])
  assert dtypes["encoder"].pop("prompt") == {"prompt": jnp.float32}
  assert set(jax.tree.leaves(dtypes)) == {jnp.dtype("bfloat16")}


def test_gradients_in_bfloat16_accumulate_in_float32():
  model = transformer(dtype="bfloat16", remat=True)
  params = conformance.parameters()
  features = conformance.batch()
  gradient = jax.grad(lambda params: forward(model, params, features).sum())
  lowered = jax.jit(gradient).lower(params).as_text()
  products = [line for line in lowered.splitlines() if "dot_general" in line]
  assert len(products) > 60
  for product in products:
    operands, result = product.rsplit(" : ", 1)[1].split(" -> ")
    # The output head has float32 operands.
    assert operands.count("bf16") == 2 or operands.count("f32") == 2
    assert re.search(r"[<x]f32>", result)


def test_dropout_is_random_and_reaches_the_prompt():
  model = transformer(dropout_rate=0.5)
  params = conformance.parameters()
  features = conformance.batch()

  @jax.jit
  def encode(seed):
    return model.apply(
      {"params": params},
      features["encoder_input_tokens"],
      enable_dropout=True,
      rngs={"dropout": jax.random.key(seed)},
      method=model.encode,
    )

  first, second = np.asarray(encode(0)), np.asarray(encode(1))
  assert (first != second).any()
  # The last dropout has one mask for all positions, prompt and text.
  dropped = (first[0] == 0).all(axis=0)
  assert 0 < dropped.sum() < len(dropped)
  np.testing.assert_array_equal((first[0] == 0), np.tile(dropped, (17, 1)))


def test_the_embedding_can_be_the_output_head():
  model = transformer(logits_via_embedding=True)
  params = conformance.parameters()
  table = np.asarray(params["token_embedder"]["embedding"])
  kernel = params["decoder"].pop("logits_dense")["kernel"]
  features = conformance.batch()
  tied = forward(model, params, features)
  params["decoder"]["logits_dense"] = {"kernel": table.T / np.sqrt(32)}
  assert kernel.shape == table.T.shape
  np.testing.assert_allclose(
    tied, forward(transformer(), params, features), atol=1e-5
  )


def test_packed_examples_equal_separate_ones():
  model = transformer(0)
  params = conformance.parameters(0)
  apart = {
    name: np.array([[5, 6, 7], [8, 9, 9]])
    for name in ("encoder_input_tokens", "decoder_target_tokens")
  }
  apart["decoder_input_tokens"] = np.array([[0, 5, 6], [0, 8, 9]])
  packed = {name: tokens.reshape(1, 6) for name, tokens in apart.items()}
  segments = np.array([[1, 1, 1, 2, 2, 2]])
  apply = functools.partial(
    model.apply,
    encoder_segment_ids=segments,
    decoder_segment_ids=segments,
    enable_dropout=False,
  )
  logits = jax.jit(apply)(
    {"params": params}, *conformance.network_inputs(packed)
  )
  np.testing.assert_allclose(
    logits.reshape(2, 3, -1), forward(model, params, apart), atol=1e-5
  )


def test_decoding_needs_the_length_of_its_cache():
  model = transformer(0)
  params = conformance.parameters(0)
  inputs = conformance.network_inputs(conformance.batch())
  apply = functools.partial(
    model.apply, decode=True, enable_dropout=False, mutable=["cache"]
  )
  _, cache = jax.eval_shape(apply, {"params": params}, *inputs)
  with pytest.raises(ValueError, match="max_decode_length"):
    jax.eval_shape(apply, {"params": params} | cache, *inputs)
