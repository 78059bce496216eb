"""The multi-head attention of T5: projections, cache, and what methods add."""

from collections.abc import Callable
import functools

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from prompt_tuning.injections import Injections
from prompt_tuning.models.attention import attention
from prompt_tuning.models.t5.config import T5Config
from prompt_tuning.models.t5.layers import KERNEL_INIT, Dense, constrain
from prompt_tuning.types import Array, PRNGKey


class Attention(nn.Module):
  """Multi-head attention whose scores are not divided by sqrt(D).

  Attributes:
    config: The model's configuration.
    injections: The model's injections.
    keeps: Whether the attended sequence stays the same while decoding. If so,
      its keys and values are written to the collection "attended" if that is
      mutable, and read from it if they exist.
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
      inputs: [B, Q, H] The source of queries. With kept keys and values it may
        have several adjacent rows for each of their rows.
      attended: [B, K, H] The source of keys and values.
      mask: [B or 1, 1, Q or 1, K] True where a query sees a key.
      bias: [1, N, Q, K] Added to the scores.
      prefix: Additional keys and values, [X, N * D] each, for every query.
      cache_index: Position of the first input while decoding with a cache,
        whose length is the K of `mask` and `bias`; None without a cache.
      enable_dropout: Whether to drop attention weights.
      dropout_key: The key for dropout, or None to let flax make it.

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
    # Queries start divided by sqrt(D), as T5 does not divide scores.
    query = project(
      kernel_init=lambda *args: KERNEL_INIT(*args) / config.head_dim**0.5,
      name="query",
    )(inputs)
    query = self._split_heads(query)
    key, value = self._keys_and_values(attended, project)
    if cache_index is not None:
      key, value = self._extend_cache(key, value, cache_index)
    if prefix:  # All queries see it, without a bias.
      key, value = map(_prepend, prefix, (key, value))
      width = ((0, 0), (0, 0), (0, 0), (len(prefix[0]), 0))
      mask = jnp.pad(mask, width, constant_values=True)
      bias = None if bias is None else jnp.pad(bias, width)

    # One mask for all queries: a key's weights are dropped with its value.
    dropout = nn.Dropout(
      config.dropout_rate,
      broadcast_dims=(-1,),
      deterministic=not enable_dropout,
    )
    if len(query) != len(key):  # [B * R, N, Q, D] -> [B, N, R * Q, D]
      _, heads, _, head_dim = query.shape
      rows = query.reshape(len(key), -1, *query.shape[1:])
      query = jnp.swapaxes(rows, 1, 2).reshape(len(key), heads, -1, head_dim)
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
    if adapter := injections.build("adapter", self, "adapter"):
      outputs = adapter(outputs)
    return outputs

  def _keys_and_values(
    self, attended: Array, project: Callable[..., Dense]
  ) -> tuple[Array, Array]:
    """[B, K, H] -> [B, N, K, D] each, computed or from "attended"."""
    if self.has_variable("attended", "key"):
      return tuple(self.get_variable("attended", x) for x in ("key", "value"))
    heads = {}
    for name in ("key", "value"):
      joined = project(name=name)(attended)
      if rescale := self.injections.build("rescale", self, f"{name}_rescale"):
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

    With positions before heads, XLA fails on a CPU to run some of the bfloat16
    products of the backward pass.
    """
    heads = (self.config.num_heads, self.config.head_dim)
    split = joined.reshape(*joined.shape[:2], *heads)
    return constrain(
      jnp.swapaxes(split, 1, 2), ("batch", "heads", "length", "kv")
    )

  def _extend_cache(
    self, key: Array, value: Array, cache_index: Array
  ) -> tuple[Array, Array]:
    """Writes [B, N, Q, D] at `cache_index`; returns the cache, [B, N, K, D].

    The first call only creates a cache as long as its input.
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


def _prepend(prefix: Array, sequence: Array) -> Array:
  """[X, N * D], [B, N, K, D] -> [B, N, X + K, D]"""
  batch, heads, _, head_dim = sequence.shape
  # [X, N * D] -> [N, X, D]
  prefix = jnp.swapaxes(prefix.reshape(-1, heads, head_dim), 0, 1)
  prefix = prefix.astype(sequence.dtype)
  prefix = jnp.broadcast_to(prefix, (batch, *prefix.shape))
  return jnp.concatenate([prefix, sequence], axis=2)
