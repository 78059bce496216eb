import functools

import conformance
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning.injections import Injections
from prompt_tuning.models.t5 import attention, layers


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
  buckets = layers.relative_buckets(
    jnp.asarray(offsets), bidirectional, 32, 128
  )
  np.testing.assert_array_equal(buckets, expected)


def test_einsum_has_the_gradient_of_jax():
  rng = np.random.default_rng(0)
  a = jnp.asarray(rng.normal(size=(2, 3, 4, 5)), jnp.float32)
  b = jnp.asarray(rng.normal(size=(2, 6, 4, 5)), jnp.float32)
  equation = "bqnd,bknd->bnqk"
  ours = functools.partial(layers.einsum, equation, dtype=jnp.float32)
  theirs = functools.partial(jnp.einsum, equation)

  def objective(product, a, b):
    return jnp.sum(jnp.sin(product(a, b)))

  gradient = jax.grad(objective, argnums=(1, 2))
  for mine, other in zip(
    gradient(ours, a, b), gradient(theirs, a, b), strict=True
  ):
    np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-5)


def test_dropout_has_one_mask_for_all_positions():
  dropout = layers.make_dropout(conformance.config(dropout_rate=0.5), True)
  dropped = dropout.apply(
    {}, jnp.ones((2, 7, 64)), rngs={"dropout": jax.random.key(0)}
  )
  assert set(np.unique(dropped)) == {0, 2}
  np.testing.assert_array_equal(dropped, np.tile(dropped[:, :1], (1, 7, 1)))
  assert (dropped[0] != dropped[1]).any()


def test_embedding_a_token_outside_the_vocabulary_gives_nan():
  embed = layers.Embed(conformance.config())
  variables = {"params": conformance.parameters()["token_embedder"]}
  embedded = embed.apply(variables, jnp.array([[255, 256]]))
  assert np.isfinite(embedded[0, 0]).all()
  assert np.isnan(embedded[0, 1]).all()


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
  module = attention.Attention(config, Injections())
  inputs = jnp.ones((1, 2, 256))
  params = module.init(
    jax.random.key(0), inputs, inputs, jnp.ones((1, 1, 2, 2), bool)
  )["params"]
  assert np.std(params["query"]["kernel"]) == pytest.approx(1 / 64, rel=0.05)
  assert np.std(params["key"]["kernel"]) == pytest.approx(1 / 16, rel=0.05)
  assert np.std(params["out"]["kernel"]) == pytest.approx(1 / 8, rel=0.05)


def test_a_prefix_is_seen_by_every_query():
  rng = np.random.default_rng(0)
  inputs = rng.normal(size=(1, 3, 32)).astype(np.float32)
  bias = rng.normal(size=(1, 4, 3, 3)).astype(np.float32)
  mask = np.array([True, True, False]).reshape(1, 1, 1, 3)
  # Two positions, 4 heads of 8.
  prefix_key, prefix_value = rng.normal(size=(2, 2, 32)).astype(np.float32)
  params = conformance.parameters()["encoder"]["layers_0"]["attention"]
  module = attention.Attention(conformance.config(), Injections())
  outputs = module.apply(
    {"params": params},
    inputs,
    inputs,
    mask,
    bias,
    (prefix_key, prefix_value),
  )

  def project(name):
    return (inputs[0] @ params[name]["kernel"]).reshape(3, 4, 8)

  key = np.concatenate([prefix_key.reshape(2, 4, 8), project("key")])
  value = np.concatenate([prefix_value.reshape(2, 4, 8), project("value")])
  scores = np.einsum("qnd,knd->nqk", project("query"), key)
  scores[..., 2:] += bias[0]
  weights = np.exp(scores)
  weights[..., 4] = 0  # Masked.
  weights /= weights.sum(axis=-1, keepdims=True)
  attended = np.einsum("nqk,knd->qnd", weights, value).reshape(3, 32)
  np.testing.assert_allclose(
    outputs[0], attended @ params["out"]["kernel"], rtol=1e-5, atol=1e-5
  )
