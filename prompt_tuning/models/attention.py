"""Attention as one function, for every platform."""

import functools
from typing import Any

import jax
from jax import lax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from prompt_tuning.methods.einsum import einsum
from prompt_tuning.models import attention_kernels, blocked_attention
from prompt_tuning.types import Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def attention(
  query: Array,
  key: Array,
  value: Array,
  bias: Array | None = None,
  mask: Array | None = None,
  kernel: str | None = None,
) -> Array:
  """Averages values by how well their keys match the queries.

  Scores and their softmax are float32. Products have operands in their own
  dtype and accumulate in float32. Neither pass keeps the weights: the backward
  pass computes them again. T5 drops weights with one mask for all queries,
  which equals dropping whole values.

  Args:
    query: [B, N, Q, D] Scores are not divided by sqrt(D).
    key: [B, N, K, D]
    value: [B, N, K, D]
    bias: [1, N, Q, K] Added to the scores, float32. Its gradient is computed
      only if it depends on trainable parameters.
    mask: [B or 1, 1, Q or 1, K] True where a query sees a key. A query that
      sees nothing attends to everything equally.
    kernel: A key of `attention_kernels.KERNELS`. By default, if the kernel does
      not support the operands or if the bias trains, a CPU computes blocks and
      other devices compute all scores at once.

  Returns:
    [B, N, Q, D] in the dtype of the operands.
  """
  return _forward((query, key, value, bias, mask), kernel)[0]


def _forward(
  operands: blocked_attention.Operands,
  kernel: str | None,
  differentiated: bool = False,
) -> tuple[Array, ...]:
  """Returns the outputs, and statistics for the backward pass."""
  *differentiable, bias, mask = operands
  if run := attention_kernels.choose(kernel, *differentiable[:2], mask):
    if not differentiated:
      return (run(operands),)
    # The backward pass has exactly the same call: XLA runs it once.
    return (jax.vjp(lambda *x: run((*x, bias, mask)), *differentiable)[0],)
  return lax.platform_dependent(
    operands, cpu=blocked_attention.forward, default=plain_forward
  )


def _attention_forward(*arguments: Any):
  operands, kernel = arguments[:-1], arguments[-1]
  bias = operands[3]
  # The residuals of a backward pass are arrays and None only.
  bias_trains = () if bias is not None and bias.perturbed else None
  values = jax.tree.map(
    lambda operand: operand.value,
    operands,
    is_leaf=lambda node: hasattr(node, "perturbed"),
  )
  if bias_trains is None:
    results = _forward(values, kernel, differentiated=True)
  else:
    results = _forward(values, None)
  # The backward pass needs nothing else of the forward pass.
  results = checkpoint_name(results, "attention")
  return results[0], (values, results, bias_trains)


def _attention_backward(kernel: str | None, residuals: Any, gradient: Array):
  operands, results, bias_trains = residuals
  query, key, value, *bias_and_mask = operands
  run = attention_kernels.choose(kernel, query, key, bias_and_mask[1])
  if run and bias_trains is None:
    _, pull_back = jax.vjp(
      lambda *differentiated: run((*differentiated, *bias_and_mask)),
      *(query, key, value),
    )
    return (*pull_back(gradient), None, None)
  options = {"bias_trains": bias_trains is not None}
  gradients = lax.platform_dependent(
    operands,
    results,
    gradient,
    cpu=functools.partial(blocked_attention.backward, **options),
    default=functools.partial(plain_backward, **options),
  )
  return (*gradients, None)


attention.defvjp(_attention_forward, _attention_backward, symbolic_zeros=True)


def plain_forward(
  operands: blocked_attention.Operands,
) -> tuple[Array, Array, Array]:
  """Computes attention by its definition."""
  query, key, value, bias, mask = operands
  scores = einsum("bnqd,bnkd->bnqk", query, key, jnp.float32)
  if bias is not None:
    scores += bias
  if mask is not None:
    scores = jnp.where(mask, scores, blocked_attention.MASKED)
  maximum = lax.stop_gradient(jnp.max(scores, axis=-1))
  weights = jnp.exp(scores - maximum[..., None])
  total = jnp.sum(weights, axis=-1)
  weights = (weights / total[..., None]).astype(value.dtype)
  outputs = einsum("bnqk,bnkd->bnqd", weights, value, value.dtype)
  return outputs, maximum, total


def plain_backward(
  operands: blocked_attention.Operands,
  results: tuple[Array, Array, Array],
  gradient: Array,
  bias_trains: bool,
) -> blocked_attention.Gradients:
  """Differentiates `plain_forward`."""
  del results
  *differentiated, mask = operands
  _, pull_back = jax.vjp(
    lambda *x: plain_forward((*x, mask))[0], *differentiated
  )
  *gradients, bias_gradient = pull_back(gradient)
  return (*gradients, bias_gradient if bias_trains else None)
