"""Multi-head attention: projections, cache, and the additions of methods."""

from collections.abc import Callable
import functools
from typing import NamedTuple

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from prompt_tuning.injections import Injections
from prompt_tuning.models.attention import attention
from prompt_tuning.models.decoder.config import DecoderConfig
from prompt_tuning.models.layers import (
  KERNEL_INIT,
  Config,
  Dense,
  RMSNorm,
  constrain,
)
from prompt_tuning.models.rotary import rotate, rotation
from prompt_tuning.types import Array, PRNGKey

# Keys and values of one attention, [B, N, K, D] each; as a prefix, [X, N * D].
KeysAndValues = tuple[Array, Array]


class View(NamedTuple):
  """The arguments of one attention that all layers share.

  Attributes:
    mask: [B or 1, 1, Q or 1, K] True where a query sees a key.
    bias: [1, N, Q, K] Added to the scores, or None.
    attended: [B, T, H] The source of keys and values, or None for the layer's
      own input. With a rotation, that input follows it, and `attended` is not
      rotated (T5Gemma 2).
    cache_index: Position of the first input in the cache, whose length is the
      K of `mask` and `bias`; None without a cache.
    rotation: The rotation of the inputs' positions; see `rotary`. None for no
      rotation.
  """

  mask: Array
  bias: Array | None = None
  attended: Array | None = None
  cache_index: Array | None = None
  rotation: tuple[Array, Array] | None = None


def rotary_views(
  config: DecoderConfig,
  positions: Array,
  mask: Array,
  near: Callable[[int], Array],
) -> list[View]:
  """Returns the views of rotary attention, the second with a window.

  Args:
    config: The sizes and settings of a decoder.
    positions: [B or 1, Q] Those of queries.
    mask: The mask without a window.
    near: Makes the mask of a window, which is added.
  """
  kinds = [(config.rope, mask)]
  if config.window is not None:
    local = config.local_rope or config.rope
    kinds.append((local, mask & near(config.window)))
  return [
    View(seen, rotation=rotation(positions, rope, config.head_dim))
    for rope, seen in kinds
  ]


class Attention(nn.Module):
  """Multi-head attention.

  Attributes:
    config: The model's configuration.
    injections: The model's injections.
  """

  config: Config
  injections: Injections

  @nn.compact
  def __call__(
    self,
    inputs: Array,
    view: View,
    prefix: KeysAndValues | None = None,
    past: KeysAndValues | None = None,
    enable_dropout: bool = False,
    dropout_key: PRNGKey | None = None,
  ) -> tuple[Array, KeysAndValues]:
    """Lets every input attend to what its mask makes visible.

    If the attended sequence is not the inputs, it stays the same while
    decoding: its keys and values are written to the collection "attended" if
    that is mutable, and read from it if they exist.

    Args:
      inputs: [B, Q, H] The source of queries. If keys and values were kept, it
        may have several adjacent rows for each row of theirs.
      view: The other arguments.
      prefix: Additional keys and values, [X, N * D] each, for every query.
      past: Keys and values in front of the attended ones.
      enable_dropout: Whether to drop attention weights.
      dropout_key: The key for dropout, or None to let flax make it.

    Returns:
      [B, Q, H], and the keys and values of the attended sequence alone.
    """
    config, injections = self.config, self.injections
    mask, bias = view.mask, view.bias
    project = functools.partial(
      Dense,
      config,
      injections,
      axes=("embed", "joined_kv"),
      use_bias=config.has_qkv_bias,
    )
    # Queries start divided by sqrt(D), as T5 does not divide scores.
    query = project(
      features=config.num_heads * config.head_dim,
      kernel_init=lambda *args: KERNEL_INIT(*args) / config.head_dim**0.5,
      name="query",
    )(inputs)
    query = self._positioned("query", self._split_heads(query), view.rotation)
    past, own = self._past_and_own(inputs, view, past, project)
    key, value = own
    if view.cache_index is not None:
      key, value = self._extend_cache(own, past, view.cache_index)
    elif past is not None:
      key, value = map(in_front, past, own)
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
    if len(query) != len(key):
      query = _side_by_side(query, len(key))
    outputs: jax.Array = attention(
      query,
      key,
      dropout(value, rng=dropout_key),
      bias,
      mask,
      config.attention_kernel,
      config.attention_soft_cap,
    )
    outputs = jnp.swapaxes(outputs, 1, 2).reshape(*inputs.shape[:2], -1)
    outputs = constrain(outputs, ("batch", "length", "joined_kv"))
    outputs = Dense(
      config, injections, config.emb_dim, ("joined_kv", "embed"), name="out"
    )(outputs)
    if adapter := injections.build("adapter", self, "adapter"):
      outputs = adapter(outputs)
    return outputs, own

  def _positioned(
    self, name: str, heads: Array, rotation: tuple[Array, Array] | None
  ) -> Array:
    """Normalises and rotates the heads of queries or keys; scales queries."""
    if self.config.has_qk_norm:
      heads = RMSNorm(self.config, "kv", name=f"{name}_norm")(heads)
    if rotation is not None:
      heads = rotate(heads, rotation)
    if name == "query" and self.config.query_scale != 1:
      heads *= jnp.asarray(self.config.query_scale, heads.dtype)
    return heads

  def _keys_and_values(
    self, inputs: Array, view: View, project: Callable[..., Dense]
  ) -> KeysAndValues:
    """[B, K, H] -> [B, N, K, D] each, computed or from "attended"."""
    keeps = view.attended is not None
    attended = inputs if view.attended is None else view.attended
    if self.has_variable("attended", "key"):
      return tuple(self.get_variable("attended", x) for x in ("key", "value"))
    heads = {}
    features = self.config.num_kv_heads * self.config.head_dim
    for name in ("key", "value"):
      joined = project(features=features, name=name)(attended)
      if rescale := self.injections.build("rescale", self, f"{name}_rescale"):
        joined = rescale(joined, ("joined_kv",))
      heads[name] = self._split_heads(joined)
      if (
        keeps
        and self.is_mutable_collection("attended")
        and not self.is_initializing()
      ):
        self.put_variable("attended", name, heads[name])
    return self._positioned("key", heads["key"], view.rotation), heads["value"]

  def _past_and_own(
    self,
    inputs: Array,
    view: View,
    past: KeysAndValues | None,
    project: Callable[..., Dense],
  ) -> tuple[KeysAndValues | None, KeysAndValues]:
    """Returns the keys and values in front, and those of the layer's own.

    If the layer attends to another sequence and to its input, the other is in
    front, or in the cache.
    """
    attended, rotation = view.attended, view.rotation
    if attended is None or rotation is None:
      return past, self._keys_and_values(inputs, view, project)
    view = view._replace(attended=None)
    if self.has_variable("cache", "cached_key"):
      return None, self._keys_and_values(inputs, view, project)
    length = attended.shape[1]
    width = ((0, 0), (0, 0), (length, 0), (0, 0))
    cos, sin = rotation
    # At position 0 nothing is rotated.
    cos, sin = jnp.pad(cos, width, constant_values=1), jnp.pad(sin, width)
    key, value = self._keys_and_values(
      jnp.concatenate([attended, inputs], axis=1),
      view._replace(rotation=(cos, sin)),
      project,
    )
    before, after = jnp.s_[:, :, :length], jnp.s_[:, :, length:]
    return (key[before], value[before]), (key[after], value[after])

  def _split_heads(self, joined: Array) -> Array:
    """[B, T, N * D] -> [B, N, T, D]

    With positions before heads, XLA fails on a CPU to run some of the bfloat16
    products of the backward pass.
    """
    split = joined.reshape(*joined.shape[:2], -1, self.config.head_dim)
    return constrain(
      jnp.swapaxes(split, 1, 2), ("batch", "heads", "length", "kv")
    )

  def _extend_cache(
    self, own: KeysAndValues, past: KeysAndValues | None, cache_index: Array
  ) -> KeysAndValues:
    """Writes [B, N, Q, D] at `cache_index`; returns the cache, [B, N, K, D].

    The first call only creates a cache, as long as the past and its input.
    """
    exists = self.has_variable("cache", "cached_key")
    cached = []
    for name, new, old in zip(
      ("cached_key", "cached_value"), own, past or (None, None), strict=True
    ):

      def empty(new=new, old=old) -> Array:
        zeros = jnp.zeros_like(new)
        return zeros if old is None else in_front(old, zeros)

      variable = self.variable("cache", name, empty)
      if exists:
        variable.value = lax.dynamic_update_slice_in_dim(
          variable.value, new, cache_index, axis=2
        )
      cached.append(variable.value)
    return cached[0], cached[1]


def _side_by_side(query: Array, batch: int) -> Array:
  """[B * R, N, Q, D] -> [B, N, R * Q, D]"""
  _, heads, _, head_dim = query.shape
  rows = query.reshape(batch, -1, *query.shape[1:])
  return jnp.swapaxes(rows, 1, 2).reshape(batch, heads, -1, head_dim)


def in_front(past: Array, own: Array) -> Array:
  """[B, N, P, D], [B, N, K, D] -> [B, N, P + K, D]"""
  return jnp.concatenate([past.astype(own.dtype), own], axis=2)


def _prepend(prefix: Array, sequence: Array) -> Array:
  """[X, N * D], [B, N, K, D] -> [B, N, X + K, D]"""
  batch, heads, _, head_dim = sequence.shape
  # [X, N * D] -> [N, X, D]
  prefix = jnp.swapaxes(prefix.reshape(-1, heads, head_dim), 0, 1)
  prefix = prefix.astype(sequence.dtype)
  prefix = jnp.broadcast_to(prefix, (batch, *prefix.shape))
  return jnp.concatenate([prefix, sequence], axis=2)
