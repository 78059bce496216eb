"""Tests of the network, its layers and its configuration."""

import functools
import re
from typing import Any

import conformance
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from prompt_tuning.injections import Injections
from prompt_tuning.models import layers, multi_head
from prompt_tuning.models.network import parameter_shapes
from prompt_tuning.models.t5 import config as config_lib
from prompt_tuning.models.t5 import network

# One layer in each stack, because compiling takes most of the time.
transformer = functools.partial(
  conformance.transformer, num_encoder_layers=1, num_decoder_layers=1
)


@functools.partial(jax.jit, static_argnums=0)
def forward(model: network.Transformer, params: Any, features: Any):
  """Returns the logits without dropout, [B, S, V]."""
  return model.apply(
    {"params": params},
    *conformance.network_inputs(features),
    enable_dropout=False,
  )


@functools.cache
def logits_and_gradients(dtype: str, param_dtype: str):
  """Returns real targets' logits and the gradients of the logits' squares."""
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


@pytest.mark.slow
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
  """Products of bfloat16 are exact in float32, and both are summed there."""
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
  # Each example has its own mask.
  assert (dropped != (first[1] == 0).all(axis=0)).any()


def test_the_embedding_can_be_the_output_head():
  params = conformance.parameters()
  model = transformer(logits_via_embedding=True)
  tied = forward(model, params, conformance.batch())
  head = params["token_embedder"]["embedding"].T / np.sqrt(32)
  params["decoder"]["logits_dense"]["kernel"] = head
  apart = forward(transformer(), params, conformance.batch())
  np.testing.assert_allclose(tied, apart, atol=1e-5)


def test_packed_examples_equal_separate_ones():
  model, params = transformer(0), conformance.parameters(0)
  tokens = np.array([[5, 6, 7], [8, 9, 9]])
  inputs = (tokens, np.array([[0, 5, 6], [0, 8, 9]]), tokens)
  segments = np.array([[1, 1, 1, 2, 2, 2]])

  @jax.jit
  def logits_of(inputs, *segments):
    return model.apply(
      {"params": params}, *inputs, *segments, enable_dropout=False
    )

  packed = [x.reshape(1, 6) for x in inputs]
  np.testing.assert_allclose(
    logits_of(packed, segments, segments).reshape(2, 3, -1),
    logits_of(inputs),
    atol=1e-5,
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


@pytest.mark.parametrize("bidirectional", [True, False])
def test_relative_buckets_follow_the_formula_of_t5(bidirectional):
  offsets = np.arange(-200, 201)
  half = 16 if bidirectional else 32
  expected = []
  for offset in offsets:
    bucket = half if bidirectional and offset > 0 else 0
    distance = abs(offset) if bidirectional else max(-offset, 0)
    if distance >= half // 2:
      octaves = np.log2(2 * distance / half) / np.log2(2 * 128 / half)
      distance = half // 2 + int(octaves * half / 2 + 1e-9)
    expected.append(bucket + min(distance, half - 1))
  buckets = network.relative_buckets(
    jnp.asarray(offsets), bidirectional, 32, 128
  )
  np.testing.assert_array_equal(buckets, expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_embedding_of_tokens_and_of_one_outside_the_vocabulary(dtype):
  config = conformance.config(dtype=dtype, param_dtype=dtype)
  table = conformance.parameters()["token_embedder"]["embedding"].astype(dtype)
  tokens = jnp.array([[255, 3, 3, 256]])

  def embed(table):
    variables = {"params": {"embedding": table}}
    return layers.Embed(config).apply(variables, tokens)

  embedded, pull_back = jax.vjp(embed, table)
  np.testing.assert_array_equal(embedded[0, :3], table[tokens[0, :3]])
  assert np.isnan(embedded[0, 3]).all()
  (gradient,) = pull_back(jnp.ones_like(embedded))
  assert gradient.dtype == dtype
  rows = np.asarray(gradient[:, 0], np.float32)
  assert rows[[255, 3]].tolist() == [1, 2]
  assert rows.sum() == 3


def test_norm_in_bfloat16_is_computed_in_float32():
  norm = layers.RMSNorm(conformance.config(dtype="bfloat16"))
  inputs = jnp.asarray(
    np.random.default_rng(0).normal(size=(1, 3, 32)) * 1e4, jnp.bfloat16
  )
  variables = {"params": {"scale": jnp.full(32, 3.0)}}
  x = np.asarray(inputs, np.float64)
  expected = 3 * x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6)
  np.testing.assert_array_equal(
    norm.apply(variables, inputs), jnp.asarray(expected, jnp.bfloat16)
  )


def test_kernels_start_with_the_spread_of_t5():
  config = conformance.config(emb_dim=256, head_dim=16, mlp_dim=512)
  module = multi_head.Attention(config, Injections())
  inputs = jnp.ones((1, 2, 256))
  view = multi_head.View(jnp.ones((1, 1, 2, 2), bool))
  init = jax.jit(lambda rng: module.init(rng, inputs, view))
  params = init(jax.random.key(0))["params"]
  assert np.std(params["query"]["kernel"]) == pytest.approx(1 / 64, rel=0.05)
  assert np.std(params["key"]["kernel"]) == pytest.approx(1 / 16, rel=0.05)
  assert np.std(params["out"]["kernel"]) == pytest.approx(1 / 8, rel=0.05)


def test_a_prefix_is_attended_to_like_text_but_without_a_bias():
  rng = np.random.default_rng(0)
  text, more = (rng.normal(size=(1, n, 32)).astype(np.float32) for n in (3, 2))
  bias = rng.normal(size=(1, 4, 3, 3)).astype(np.float32)
  mask = np.array([True, True, False]).reshape(1, 1, 1, 3)
  params = conformance.parameters()["encoder"]["layers_0"]["attention"]

  @jax.jit
  def apply(attended, *view, prefix=None):
    return multi_head.Attention(conformance.config(), Injections()).apply(
      {"params": params},
      text,
      multi_head.View(*view, attended=attended),
      prefix,
    )[0]

  prefix = tuple(more[0] @ params[x]["kernel"] for x in ("key", "value"))
  width = ((0, 0), (0, 0), (0, 0), (2, 0))
  expected = apply(
    np.concatenate([more, text], axis=1),
    np.pad(mask, width, constant_values=True),
    np.pad(bias, width),
  )
  found = apply(text, mask, bias, prefix=prefix)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
  "changes",
  [
    {},
    {"num_encoder_layers": 3, "logits_via_embedding": True},
    {"mlp_activations": ("relu",), "relative_attention_num_buckets": 16},
  ],
)
def test_config_is_found_again(changes):
  changes = {"dtype": "bfloat16", "dropout_rate": 0.1, "head_dim": 4} | changes
  config = conformance.config(**changes)
  shapes = {
    name: jax.ShapeDtypeStruct(shape, jnp.float32)
    for name, shape in parameter_shapes(network.Transformer(config)).items()
  }
  assert config_lib.config_of(shapes) == config


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    *(
      ({"dropout_rate": rate}, "Expected a dropout rate in")
      for rate in (10, 1.0, -0.1)
    ),
    *(
      ({"dtype": dtype}, rf"such as float32 or bfloat16, got '{dtype}'")
      for dtype in ("bf16", "float33", "int8", "complex64")
    ),
    ({"remat_keeps": ("mpl",)}, "remat_keeps"),
    ({"mlp_activations": ("gelus",)}, r"of jax.nn and linear.*'gelus'"),
    ({"remat_keeps": ("mlp",)}, "give remat=True"),
  ],
)
def test_settings_that_no_model_has_are_refused(settings, message):
  with pytest.raises(ValueError, match=message):
    conformance.config(**settings)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="for a CPU")
@pytest.mark.parametrize("rows", [1, 4])
def test_loop_reads_its_matrix_and_table_as_they_lie(rows):
  embed = layers.Embed(tiny.config(dtype="bfloat16", param_dtype="bfloat16"))
  tokens = jnp.zeros((rows, 1), jnp.int32)
  params = embed.init(jax.random.key(0), tokens)

  @jax.jit
  def loop(params, tokens):
    def step(_, tokens):
      hidden = embed.apply(params, tokens)
      logits = embed.apply(params, hidden, method="attend")
      return jnp.argmax(logits, -1).astype(jnp.int32)

    return lax.fori_loop(0, 8, step, tokens)

  program = loop.lower(params, tokens).compile().as_text()
  table = ",".join(map(str, params["params"]["embedding"].shape))
  assert f"bf16[{table}]" in program
  # The table is copied neither to float32 nor, for the gather, to integers.
  assert not re.search(rf"= (f32|u16)\[{table}\]\S* (fusion|copy)\(", program)
