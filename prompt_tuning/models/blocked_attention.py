"""Attention on a CPU: blocks of examples and heads that fit its caches.

No array of all scores is made, and the backward pass computes the weights again
from the scores, their maximum and their total (Dao et al., 2022,
https://arxiv.org/abs/2205.14135). On T5 base with 612 positions and bfloat16
this takes a third of the time of the plain form, which spends its time on
memory traffic and reductions rather than arithmetic.
"""

from collections.abc import Callable
import functools
import math
from typing import Any

import jax
from jax import lax
from jax.experimental import layout
import jax.numpy as jnp

from prompt_tuning.types import Array

# Query, key, value, bias and mask of `attention.attention`.
Operands = tuple[Array, Array, Array, Array | None, Array | None]
# Gradients of query, key, value and bias.
Gradients = tuple[Array, Array, Array, Array | None]

# The score of masked keys.
MASKED = -1e10
# Size of the float32 scores of a block, that of one example of T5 base with 612
# positions. With smaller blocks, calls cost more than caches save.
_BLOCK_BYTES = 20_000_000
# The row maximum of scores first compares this many parts of a row.
_PARTS = 8


def forward(operands: Operands) -> tuple[Array, Array, Array]:
  """Computes attention.

  Args:
    operands: As in `attention.attention`.

  Returns:
    The outputs, [B, N, Q, D], and for `backward` the maximum of the scores and
    the total of exp(scores - maximum), [B, N, Q] each.
  """
  *rows, bias, mask = operands

  def step(carry, block, biases):
    query, key, value, mask = block
    scores = _scores(query, key, *biases, mask)
    # The barriers keep XLA from computing an array once for every use of it.
    maximum = lax.optimization_barrier(_row_maximum(scores))
    weights = lax.optimization_barrier(
      jnp.exp(scores - maximum[..., None]).astype(value.dtype)
    )
    # A column of ones makes the product add up the weights too: XLA's sum over
    # the last axis is not vectorised on a CPU.
    ones = jnp.ones((*value.shape[:-1], 1), value.dtype)
    products = _product(
      "bnqk,bnkd->bnqd", weights, jnp.concatenate([value, ones], axis=-1)
    )
    total = products[..., -1]
    outputs = products[..., :-1] / total[..., None]
    return carry, (outputs.astype(value.dtype), maximum, total)

  outputs, maximum, total = _by_blocks(step, False, rows, mask, (bias,))[1]
  return outputs, maximum, total


def backward(
  operands: Operands,
  results: tuple[Array, Array, Array],
  gradient: Array,
  bias_trains: bool,
) -> Gradients:
  """Computes the gradients of attention.

  Blocks are [K, Q]: then only keys and the gradient of queries, which are
  small, are transposed for a product.

  Args:
    operands: As in `attention.attention`.
    results: The results of `forward`.
    gradient: [B, N, Q, D] The gradient of the outputs.
    bias_trains: Whether to compute the gradient of the bias.

  Returns:
    Gradients of query, key, value and, with `bias_trains`, of the bias.
  """
  query, key, value, bias, mask = operands
  outputs, maximum, total = results
  # Weights are exp(scores - maximum) / total. The division is done once, on the
  # smaller array that they are multiplied with.
  scaled = gradient.astype(jnp.float32) / total[..., None]
  correction = jnp.sum(scaled * outputs.astype(jnp.float32), axis=-1)

  def step(bias_gradient, block, biases):
    query, key, value, scaled, maximum, correction, mask = block
    mask = None if mask is None else jnp.swapaxes(mask, 2, 3)
    scores = _scores(key, query, *biases, mask)
    weights = jnp.exp(scores - maximum[..., None, :]).astype(query.dtype)
    changes = _product("bnkd,bnqd->bnkq", value, scaled)
    changes = weights.astype(jnp.float32) * (changes - correction[..., None, :])
    changes = _visible(changes, mask, 0)
    if bias_trains:
      bias_gradient += jnp.sum(changes, axis=0, keepdims=True)
    changes = changes.astype(query.dtype)
    query_gradient = _product(
      "bndk,bnkq->bndq", jnp.swapaxes(key, 2, 3), changes
    )
    gradients = (
      jnp.swapaxes(query_gradient, 2, 3),
      _product("bnkq,bnqd->bnkd", changes, query),
      _product("bnkq,bnqd->bnkd", weights, scaled),
    )
    return bias_gradient, tuple(x.astype(query.dtype) for x in gradients)

  bias_gradient, (query_gradient, key_gradient, value_gradient) = _by_blocks(
    step,
    bias_trains,
    [query, key, value, scaled.astype(query.dtype), maximum, correction],
    mask,
    (None if bias is None else jnp.swapaxes(bias, 2, 3),),
  )
  if bias_gradient is not None:
    bias_gradient = jnp.swapaxes(bias_gradient, 2, 3)
  return query_gradient, key_gradient, value_gradient, bias_gradient


def _product(equation: str, left: Array, right: Array) -> Array:
  """Multiplies into float32, all arrays in row-major layout.

  On a CPU, XLA converts bfloat16 in other layouts to float32 first, and it
  gives such layouts to transposed arrays.
  """
  product = jnp.einsum(
    equation,
    _row_major(left),
    _row_major(right),
    preferred_element_type=jnp.float32,
  )
  return _row_major(product)


def _row_major(array: Array) -> Array:
  order = layout.Layout(tuple(range(array.ndim)))
  return layout.with_layout_constraint(array, order)


def _scores(
  query: Array, key: Array, bias: Array | None, mask: Array | None
) -> Array:
  """[B, N, Q, K] in float32."""
  scores = _product("bnqd,bnkd->bnqk", query, key)
  if bias is not None:
    scores += bias
  return _visible(scores, mask, MASKED)


def _visible(scores: Array, mask: Array | None, otherwise: float) -> Array:
  return scores if mask is None else jnp.where(mask, scores, otherwise)


def _row_maximum(scores: Array) -> Array:
  """[..., K] -> [...]

  On a CPU, XLA vectorises the maximum of several arrays, but not that over the
  last axis. So the parts of a row are compared first. The last part may overlap
  the one before it.
  """
  size = scores.shape[-1]
  width = -(-size // _PARTS)
  starts = [min(start, size - width) for start in range(0, size, width)]
  parts = [scores[..., start : start + width] for start in starts]
  narrow = functools.reduce(jnp.maximum, parts)
  return jnp.max(lax.optimization_barrier(narrow), axis=-1)


def _by_blocks(
  step: Callable[..., Any],
  accumulate: bool,
  rows: list[Array],
  mask: Array | None,
  biases: tuple[Array | None, ...],
) -> tuple[Any, tuple[Array, ...]]:
  """Loops over examples, and over heads if an example is too large.

  Args:
    step: (sum, rows and mask of a block, its biases) -> (sum, outputs), where
      rows and outputs are [b, n, ...].
    accumulate: Whether to keep a sum, [1, n, K, Q], instead of None.
    rows: [B, N, ...] each; query and key come first.
    mask: As in `attention.attention`.
    biases: [1, N, ...] each, or None.

  Returns:
    The sum over the batch, [1, N, K, Q], or None; and the outputs.
  """
  batch, heads, queries, _ = rows[0].shape
  keys = rows[1].shape[2]
  head_bytes = 4 * queries * keys
  # A block has examples of every device that shares the batch.
  shards = math.gcd(batch, jax.device_count())
  block_heads = _largest_divisor(heads, _BLOCK_BYTES / head_bytes)
  block_size = _largest_divisor(
    batch // shards, _BLOCK_BYTES / (head_bytes * heads)
  )
  blocks = batch // (shards * block_size)
  if mask is not None:
    mask = jnp.broadcast_to(mask, (batch, *mask.shape[1:]))

  def through_examples(rows, biases):
    total = None
    if accumulate:
      total = jnp.zeros((1, rows[0].shape[1], keys, queries), jnp.float32)
    rows = (*rows, mask)
    if blocks == 1:
      return step(total, rows, biases)
    split = functools.partial(_split, axis=0, blocks=blocks, shards=shards)
    total, outputs = lax.scan(
      lambda total, block: step(total, block, biases),
      total,
      jax.tree.map(split, rows),
    )
    join = functools.partial(_join, axis=0, shards=shards)
    return total, jax.tree.map(join, outputs)

  if block_heads == heads:
    return through_examples(rows, biases)
  split = functools.partial(_split, axis=1, blocks=heads // block_heads)
  outputs = lax.map(
    lambda block: through_examples(*block), jax.tree.map(split, (rows, biases))
  )
  return jax.tree.map(functools.partial(_join, axis=1), outputs)


def _largest_divisor(number: int, limit: float) -> int:
  """Returns the largest divisor of `number` up to `limit`, but at least 1."""
  return max(
    d for d in range(1, number + 1) if number % d == 0 and d <= max(limit, 1)
  )


def _split(x: Array, axis: int, blocks: int, shards: int = 1) -> Array:
  """Moves blocks of an axis to the front, each with a part of every shard."""
  before, after = x.shape[:axis], x.shape[axis + 1 :]
  x = x.reshape(*before, shards, blocks, -1, *after)
  return jnp.moveaxis(x, axis + 1, 0).reshape(blocks, *before, -1, *after)


def _join(x: Array, axis: int, shards: int = 1) -> Array:
  """Undoes `_split`."""
  before, after = x.shape[1 : axis + 1], x.shape[axis + 2 :]
  x = x.reshape(len(x), *before, shards, -1, *after)
  return jnp.moveaxis(x, 0, axis + 1).reshape(*before, -1, *after)
