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
from prompt_tuning.types import Array, DType, Initializer, PRNGKey


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
