"""Attention: one function for every platform, and the module around it."""

from collections.abc import Callable
import functools
from typing import Any

import flax.linen as nn
import jax
from jax import lax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from prompt_tuning.injections import Injections
from prompt_tuning.methods.einsum import einsum
from prompt_tuning.models.t5 import attention_kernels, blocked_attention
from prompt_tuning.models.t5.config import T5Config
from prompt_tuning.models.t5.layers import KERNEL_INIT, Dense, constrain
from prompt_tuning.types import Array, DType, Initializer, PRNGKey


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def attention(
  query: Array,
  key: Array,
  value: Array,
  bias: Array | None = None,
  mask: Array | None = None,
  kernel: str | None = None,
) -> Array:
  """Averages values by how well their keys answer the queries.

  Scores and their softmax are float32; what is multiplied with them is in the
  dtype of the operands, and accumulates in float32. Neither pass keeps the
  weights: the backward pass computes them again. Dropout of weights with one
  mask for all queries, as in T5, is dropout of whole values.

  Args:
    query: [B, N, Q, D] Scores are not divided by sqrt(D).
    key: [B, N, K, D]
    value: [B, N, K, D]
    bias: [1, N, Q, K] Added to the scores, float32. Its gradient is computed
      only where it depends on what trains.
    mask: [B or 1, 1, Q or 1, K] True where a query sees a key. A query that
      sees nothing attends to everything equally.
    kernel: Of `attention_kernels`, to be used where it takes the operands. By
      default, and where it does not or the bias trains, a CPU goes through
      blocks and other devices compute all scores at once.

  Returns:
    [B, N, Q, D] in the dtype of the operands.
  """
  return _forward((query, key, value, bias, mask), kernel)[0]


def _forward(
  operands: blocked_attention.Operands,
  kernel: str | None,
  differentiated: bool = False,
) -> tuple[Array, ...]:
  """Returns outputs, and what the backward pass needs of the weights."""
  *differentiable, bias, mask = operands
  if run := attention_kernels.choose(kernel, *differentiable[:2], mask):
    if not differentiated:
      return (run(*operands),)
    # What the backward pass asks for again, to the letter: XLA runs it once.
    return (jax.vjp(lambda *x: run(*x, bias, mask), *differentiable)[0],)
  return lax.platform_dependent(
    operands, cpu=blocked_attention.forward, default=plain_forward
  )


def _attention_forward(*arguments: Any):
  operands, kernel = arguments[:-1], arguments[-1]
  bias = operands[3]
  # Only arrays and their absence can be handed to the backward pass.
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
  # The backward pass needs no more of the forward pass.
  results = checkpoint_name(results, "attention")
  return results[0], (values, results, bias_trains)


def _attention_backward(kernel: str | None, residuals: Any, gradient: Array):
  operands, results, bias_trains = residuals
  query, key, value, *bias_and_mask = operands
  run = attention_kernels.choose(kernel, query, key, bias_and_mask[1])
  if run and bias_trains is None:
    _, pull_back = jax.vjp(
      lambda *differentiated: run(*differentiated, *bias_and_mask),
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
  """Computes attention as it is written down."""
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
  """Differentiates the plain form."""
  del results
  *differentiated, bias, mask = operands

  def plain(query, key, value, bias=bias):
    return plain_forward((query, key, value, bias, mask))[0]

  if bias_trains:
    return jax.vjp(plain, *differentiated, bias)[1](gradient)
  return (*jax.vjp(plain, *differentiated)[1](gradient), None)


class Attention(nn.Module):
  """Multi-head attention whose scores are not divided by sqrt(D).

  Attributes:
    config: Of the model.
    injections: Of the model.
    keeps: Whether what is attended to stays the same while decoding. Then its
      keys and values are put into the collection "attended" where that can be
      written, and read from it where they are there.
  """

  config: T5Config
  injections: Injections
  keeps: bool = False

  @nn.compact
  def __call__(
    self,
    inputs: Array,
    attended: Array,
    mask: Array,
    bias: Array | None = None,
    prefix: tuple[Array, Array] | None = None,
    cache_index: Array | None = None,
    enable_dropout: bool = False,
    dropout_key: PRNGKey | None = None,
  ) -> Array:
    """Lets every input attend to what its mask makes visible.

    Args:
      inputs: [B, Q, H] Where queries come from. With kept keys and values there
        may be several rows for each of theirs, beside each other.
      attended: [B, K, H] Where keys and values come from.
      mask: [B or 1, 1, Q or 1, K] True where a query sees a key.
      bias: [1, N, Q, K] Added to the scores.
      prefix: Keys and values, [X, N * D] each, that every query sees too.
      cache_index: Position of the first input while decoding with a cache,
        whose length is then the K of `mask` and `bias`; or None.
      enable_dropout: Whether to drop attention weights.
      dropout_key: For that, or flax's own.

    Returns:
      [B, Q, H]
    """
    config, injections = self.config, self.injections
    project = functools.partial(
      Dense,
      config,
      injections,
      features=config.num_heads * config.head_dim,
      axes=("embed", "joined_kv"),
    )
    query = project(kernel_init=_query_init(config), name="query")(inputs)
    query = self._split_heads(query)
    key, value = self._keys_and_values(attended, project)
    if cache_index is not None:
      key, value = self._extend_cache(key, value, cache_index)
    if prefix:
      key, value, mask, bias = _prepend_prefix(*prefix, key, value, mask, bias)

    # One mask for all queries: a key's weights are dropped with its value.
    dropout = nn.Dropout(
      config.dropout_rate,
      broadcast_dims=(-1,),
      deterministic=not enable_dropout,
    )
    query = _beside_each_other(query, len(key))
    outputs: jax.Array = attention(
      query,
      key,
      dropout(value, rng=dropout_key),
      bias,
      mask,
      config.attention_kernel,
    )
    outputs = jnp.swapaxes(outputs, 1, 2).reshape(*inputs.shape[:2], -1)
    outputs = constrain(outputs, ("batch", "length", "joined_kv"))
    outputs = Dense(
      config, injections, config.emb_dim, ("joined_kv", "embed"), name="out"
    )(outputs)
    if adapter := injections.build(injections.adapter, self, "adapter"):
      outputs = adapter(outputs)
    return outputs

  def _keys_and_values(
    self, attended: Array, project: Callable[..., Dense]
  ) -> tuple[Array, Array]:
    """[B, K, H] -> [B, N, K, D] each, or those that are kept."""
    if self.has_variable("attended", "key"):
      return tuple(self.get_variable("attended", x) for x in ("key", "value"))
    heads = {}
    for name in ("key", "value"):
      joined = project(name=name)(attended)
      if rescale := self.injections.build(
        self.injections.rescale, self, f"{name}_rescale"
      ):
        joined = rescale(joined, ("joined_kv",))
      heads[name] = self._split_heads(joined)
      if (
        self.keeps
        and self.is_mutable_collection("attended")
        and not self.is_initializing()
      ):
        self.put_variable("attended", name, heads[name])
    return heads["key"], heads["value"]

  def _split_heads(self, joined: Array) -> Array:
    """[B, T, N * D] -> [B, N, T, D]

    With positions before heads, XLA fails to run some of the bfloat16 products
    of the backward pass on a CPU.
    """
    heads = (self.config.num_heads, self.config.head_dim)
    split = joined.reshape(*joined.shape[:2], *heads)
    return constrain(
      jnp.swapaxes(split, 1, 2), ("batch", "heads", "length", "kv")
    )

  def _extend_cache(
    self, key: Array, value: Array, cache_index: Array
  ) -> tuple[Array, Array]:
    """Puts [B, N, Q, D] at `cache_index`; returns all of it, [B, N, K, D].

    The first call only makes a cache as long as its input.
    """
    exists = self.has_variable("cache", "cached_key")
    cached = []
    for name, new in (("cached_key", key), ("cached_value", value)):
      variable = self.variable("cache", name, jnp.zeros_like, new)
      if exists:
        variable.value = lax.dynamic_update_slice_in_dim(
          variable.value, new, cache_index, axis=2
        )
      cached.append(variable.value)
    return cached[0], cached[1]


def _beside_each_other(query: Array, rows: int) -> Array:
  """[rows * K, N, Q, D] -> [rows, N, K * Q, D]"""
  if len(query) == rows:
    return query
  split = query.reshape(rows, -1, *query.shape[1:])
  return jnp.swapaxes(split, 1, 2).reshape(
    rows, query.shape[1], -1, query.shape[-1]
  )


def _query_init(config: T5Config) -> Initializer:
  """Takes the place of the division by sqrt(D), which T5 does not do."""

  def init(rng: PRNGKey, shape: tuple[int, ...], dtype: DType) -> Array:
    return KERNEL_INIT(rng, shape, dtype) / config.head_dim**0.5

  return init


def _prepend_prefix(
  prefix_key: Array,
  prefix_value: Array,
  key: Array,
  value: Array,
  mask: Array,
  bias: Array | None,
) -> tuple[Array, Array, Array, Array | None]:
  """Puts X keys and values, visible to all and without a bias, in front."""

  def prepend(prefix: Array, sequence: Array) -> Array:
    batch, heads, _, head_dim = sequence.shape
    # [X, N * D] -> [N, X, D]
    prefix = jnp.swapaxes(prefix.reshape(-1, heads, head_dim), 0, 1)
    prefix = jnp.broadcast_to(
      prefix.astype(sequence.dtype), (batch, *prefix.shape)
    )
    return jnp.concatenate([prefix, sequence], axis=2)

  width = ((0, 0), (0, 0), (0, 0), (len(prefix_key), 0))
  return (
    prepend(prefix_key, key),
    prepend(prefix_value, value),
    jnp.pad(mask, width, constant_values=True),
    None if bias is None else jnp.pad(bias, width),
  )
