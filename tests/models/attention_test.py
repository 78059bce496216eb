"""Tests of attention against the plain form, which is written again here."""

import functools

import conformance
import jax
from jax import lax
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning.injections import Injections
from prompt_tuning.models import attention as attention_lib
from prompt_tuning.models import blocked_attention
from prompt_tuning.models.multi_head import Attention, View

BATCH, HEADS, HEAD_DIM = 4, 6, 8


def plain(query, key, value, bias=None, mask=None):
  scores = jnp.einsum("bnqd,bnkd->bnqk", query, key)
  if bias is not None:
    scores = scores + bias
  if mask is not None:
    scores = jnp.where(mask, scores, -1e10)
  return jnp.einsum("bnqk,bnkd->bnqd", jax.nn.softmax(scores), value)


def operands(queries, keys, with_bias, mask, dtype="float32"):
  rng = np.random.default_rng(0)

  def normal(*shape):
    return jnp.asarray(rng.normal(size=shape), dtype)

  shape = (BATCH, HEADS)
  *arrays, gradient = (
    normal(*shape, length, HEAD_DIM)
    for length in (queries, keys, keys, queries)
  )
  bias = None
  if with_bias:
    bias = 3 * normal(1, HEADS, queries, keys).astype(jnp.float32)
  lengths = np.array([keys, keys // 2, 1, 0])
  visible = {
    "none": None,
    "keys": np.arange(keys) < lengths[:, None, None, None],
    "causal": np.tri(queries, keys, dtype=bool)[None, None],
    "pairs": rng.random((BATCH, 1, queries, keys)) < 0.5,
  }[mask]
  return (*arrays, bias, visible), gradient


def in_float32(inputs):
  return jax.tree.map(
    lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x, inputs
  )


def results(function, arrays, gradient):
  """Returns the outputs and the gradients of the differentiable arrays."""
  *differentiable, mask = arrays
  differentiable = [x for x in differentiable if x is not None]

  @jax.jit
  def run(differentiable, gradient):
    def of(query, key, value, bias=None):
      return function(query, key, value, bias, mask)

    outputs, backward = jax.vjp(of, *differentiable)
    return outputs, *backward(gradient.astype(outputs.dtype))

  return run(differentiable, gradient)


def set_blocks(monkeypatch, blocks, queries, keys):
  """Sets a block to everything, one example, or two of six heads."""
  head = 4 * queries * keys
  limit = {"one": 1e9, "examples": head * HEADS, "heads": 2 * head}[blocks]
  monkeypatch.setattr(blocked_attention, "_BLOCK_BYTES", limit)
  jax.clear_caches()  # Traced programs have the old limit.


# Combinations of block sizes, masks and shapes, but not all of them.
@pytest.mark.parametrize(
  ("blocks", "mask", "queries", "keys", "with_bias"),
  [
    ("one", "none", 19, 19, True),
    ("one", "keys", 5, 21, False),
    ("one", "causal", 19, 19, True),
    ("examples", "none", 5, 21, False),
    ("examples", "keys", 19, 19, True),
    ("examples", "pairs", 1, 9, True),
    ("heads", "keys", 1, 9, True),
    ("heads", "causal", 5, 21, False),
    ("heads", "pairs", 19, 19, True),
  ],
)
def test_outputs_and_gradients_equal_the_plain_form(
  monkeypatch, blocks, mask, queries, keys, with_bias
):
  set_blocks(monkeypatch, blocks, queries, keys)
  arrays, gradient = operands(queries, keys, with_bias, mask)
  expected = results(plain, arrays, gradient)
  found = results(attention_lib.attention, arrays, gradient)
  assert_close(found, expected)
  # The form for other platforms, with a bias that trains and one that does not.
  forward = jax.jit(attention_lib.plain_forward)(arrays)
  backward = jax.jit(attention_lib.plain_backward, static_argnums=3)
  for bias_trains in {False, with_bias}:
    gradients = backward(arrays, forward, gradient, bias_trains)
    assert (gradients[3] is not None) == bias_trains
    count = 4 if bias_trains else 3
    assert_close((forward[0], *gradients[:count]), expected[: count + 1])


def assert_close(found, expected, rtol=1e-4, atol=1e-5):
  for ours, theirs in zip(found, expected, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol, atol)


@pytest.mark.parametrize("mask", ["keys", "causal"])
def test_bfloat16_is_about_as_close_to_float32_as_the_plain_form(mask):
  inputs = operands(24, 24, True, mask, "bfloat16")
  exact = results(plain, *in_float32(inputs))
  ours = results(attention_lib.attention, *inputs)
  theirs = results(lambda *args: attention_lib.plain_forward(args)[0], *inputs)
  assert [x.dtype for x in ours] == [x.dtype for x in theirs]
  for mine, other, expected in zip(ours, theirs, exact, strict=True):
    size = np.linalg.norm(expected)
    error = np.linalg.norm(np.asarray(mine, np.float32) - expected) / size
    other_error = np.linalg.norm(np.asarray(other, np.float32) - expected)
    assert error < max(3 * other_error / size, 2**-7)


def test_large_scores_do_not_overflow():
  (query, key, value, *_), gradient = operands(9, 9, False, "none")
  arrays = (100 * query, 100 * key, value, None, None)
  expected = results(plain, arrays, gradient)
  found = results(attention_lib.attention, arrays, gradient)
  assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("trains", [False, True])
def test_only_a_bias_that_trains_has_a_gradient(trains):
  (query, key, value, bias, mask), _ = operands(8, 8, True, "keys")

  def objective(query, bias):
    if not trains:
      bias = lax.stop_gradient(bias)
    return jnp.sum(attention_lib.attention(query, key, value, bias, mask))

  program = jax.make_jaxpr(jax.grad(objective, argnums=(0, 1)))(query, bias)
  # Only the gradient of the bias needs a sum over the batch.
  assert ("reduce_sum[axes=(0,)" in str(program)) == trains


def test_no_array_of_all_scores_is_made(monkeypatch):
  queries = 32
  (query, key, value, bias, mask), gradient = operands(
    queries, queries, True, "keys", "bfloat16"
  )
  scores = f"[{BATCH},{HEADS},{queries},{queries}]"

  def program():
    def backward(query, key, value):
      _, pullback = jax.vjp(
        lambda *qkv: attention_lib.attention(*qkv, bias, mask),
        *(query, key, value),
      )
      return pullback(gradient)

    return jax.jit(backward).lower(query, key, value).compile().as_text()

  set_blocks(monkeypatch, "one", queries, queries)
  assert scores in program()
  for blocks in ("examples", "heads"):
    set_blocks(monkeypatch, blocks, queries, queries)
    assert scores not in program()


def test_dropout_drops_weights_by_one_mask_for_all_queries():
  config = conformance.config(dropout_rate=0.5)
  heads = (config.num_heads, config.head_dim)
  zeros, eye = jnp.zeros((config.emb_dim,) * 2), jnp.eye(config.emb_dim)
  kernels = {"query": zeros, "key": zeros, "value": eye, "out": eye}
  inputs = jnp.broadcast_to(2.0 ** jnp.arange(5)[:, None], (2, 5, len(eye)))
  outputs, _ = Attention(config, Injections()).apply(
    {"params": {name: {"kernel": x} for name, x in kernels.items()}},
    *(inputs, View(jnp.ones((1, 1, 1, 5), bool))),
    enable_dropout=True,
    rngs={"dropout": jax.random.key(1)},
  )
  # All keys weigh the same, so the bits of a sum tell which keys are kept.
  kept = np.rint(outputs.reshape(2, 5, *heads) * 5 / 2)
  sums = kept.reshape(outputs.shape) * 2 / 5
  np.testing.assert_allclose(outputs, sums, rtol=1e-5)
  masks = kept[:, :1, :, :1]
  np.testing.assert_array_equal(kept, np.broadcast_to(masks, kept.shape))
  # Examples and heads have different masks.
  assert len(np.unique(masks)) > 3


@pytest.mark.parametrize(
  ("kernel", "dtype", "mask", "tolerance"),
  [
    ("flash", "float32", "keys", 1e-4),
    pytest.param(*("flash", "bfloat16", "none", 2e-2), marks=pytest.mark.slow),
    ("cudnn", "bfloat16", "keys", 2e-2),
    ("cudnn", "bfloat16", "none", 2e-2),
  ],
)
def test_kernels_give_the_plain_form_as_far_as_a_cpu_can_tell(
  monkeypatch, kernel, dtype, mask, tolerance
):
  """Kernels run without their device: interpreted, or replaced by XLA's."""
  fused = jax.nn.dot_product_attention

  monkeypatch.setattr(
    *(jax.nn, "dot_product_attention"),
    lambda *args, implementation, **kwargs: fused(
      *args, implementation={"cudnn": "xla"}[implementation], **kwargs
    ),
  )
  # Not a whole number of tiles.
  inputs = jax.tree.map(
    lambda x: x[:2, :2], operands(130, 130, True, mask, dtype)
  )
  query, key, *_, visible = inputs[0]
  chosen = attention_lib.choose_kernel(kernel, query, key, visible)
  assert chosen is attention_lib.KERNELS[kernel]
  with pltpu.force_tpu_interpret_mode():
    # A bias that trains would keep the kernel from running.
    found = results(
      lambda query, key, value, bias, mask: attention_lib.attention(
        query, key, value, lax.stop_gradient(bias), mask, kernel
      ),
      *inputs,
    )
  exact = results(plain, *in_float32(inputs))
  for ours, expected in zip(found[:4], exact[:4], strict=True):
    error = np.linalg.norm(np.asarray(ours, np.float32) - expected)
    assert error < tolerance * np.linalg.norm(expected)


def test_what_no_kernel_takes_goes_the_usual_way():
  """No kernel runs for a bias that trains, few positions or masks of pairs."""
  (query, key, value, bias, mask), _ = operands(
    130, 130, True, "keys", "bfloat16"
  )
  choose = functools.partial(attention_lib.choose_kernel, "cudnn")
  assert choose(query[:, :, :40], key[:, :, :40], None) is None
  assert choose(query, key, np.ones((1, 1, 130, 130), bool)) is None
  assert choose(query.astype("float32"), key, mask) is None

  def of_bias(bias):
    return attention_lib.attention(query, key, value, bias, mask, "cudnn").sum()

  # Neither kernel could run here.
  assert jnp.linalg.norm(jax.grad(of_bias)(bias)) > 0
  with pytest.raises(ValueError, match="one of"):
    attention_lib.choose_kernel("falsh", query, key, mask)
