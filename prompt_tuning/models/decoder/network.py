"""A decoder: Llama, Mistral, Qwen and Gemma, by `DecoderConfig`.

The inputs, and a prompt in front of them, run through the layers once. Targets
then attend to their keys and values. The output at the last input predicts the
first target, so T5X's start token 0 takes the place of the last input.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from prompt_tuning import masks, prompts
from prompt_tuning.injections import Injections
from prompt_tuning.models.decoder.config import DecoderConfig
from prompt_tuning.models.layers import Embed, logits_of
from prompt_tuning.models.multi_head import in_front, rotary_views
from prompt_tuning.models.network import Network
from prompt_tuning.models.stack import DECODER, apply_layers
from prompt_tuning.types import Array

_ATTENTIONS = DECODER[:1]
# The position of padding, which no query sees.
NOWHERE = -1


class Encoded(NamedTuple):
  """The part of the inputs' computation that targets read.

  Attributes:
    positions: [B, P + T] int32; -1 at padding.
    last: [B, H] The output at the last input; None for a prompt.
    past: Keys and values of every layer.
  """

  positions: Array
  last: Any
  past: Any


class Decoder(nn.Module):
  """The layers, the prompt and the output head."""

  config: DecoderConfig
  injections: Injections
  embedder: Embed

  @nn.compact
  def __call__(
    self,
    tokens: Array,
    encoded: Any = None,
    *,
    embedded: Array | None = None,
    enable_dropout: bool,
    decoder_segment_ids: Array | None = None,
    decode: bool = False,
    max_decode_length: int | None = None,
    **of_inputs: Any,
  ) -> Any:
    """Encodes the inputs, or computes the logits of targets.

    Args:
      tokens: [B, T] Inputs, where 0 is padding, or targets, shifted right.
      encoded: For targets, the result for their inputs. For inputs, the result
        for a prompt in front of them that was encoded before, or None.
      embedded: [B, T, H] The embedded inputs; None for targets.
      enable_dropout: Whether to drop activations.
      decoder_segment_ids: As in `Network.decode`, like those below.
      decode: Whether to use the cache.
      max_decode_length: Most tokens of the cache.
      **of_inputs: Unused.

    Returns:
      An `Encoded`; or [B, S, V] in float32.
    """
    del of_inputs
    if embedded is not None:
      return self._encode(embedded, tokens, enable_dropout, encoded)
    arguments = self.embedder(tokens), enable_dropout, encoded
    if decode:
      hidden = self._next(*arguments, max_decode_length)
    else:
      hidden = self._all(*arguments, decoder_segment_ids)
      self.sow("intermediates", "last_hidden", hidden)
    return logits_of(self, self.embedder, hidden)

  def _encode(
    self,
    embedded: Array,
    tokens: Array,
    enable_dropout: bool,
    before: Encoded | None,
  ) -> Encoded:
    visible = tokens > 0
    if self.injections.prompt:
      prompt = self.injections.prompt(name="prompt")(tokens, embedded)
      embedded = prompts.prepend_prompt(prompt, embedded)
      visible = masks.prepend_visible(visible, prompt.shape[-2])
    ends = jnp.cumsum(visible, axis=1, dtype=jnp.int32) - 1
    if before is not None:
      ends += before.positions.max(axis=1, keepdims=True) + 1
    keys = positions = jnp.where(visible, ends, NOWHERE)
    if before is not None:
      keys = jnp.concatenate([before.positions, positions], axis=1)
    hidden, past = self._layers(
      embedded,
      positions,
      keys,
      enable_dropout,
      past=before and before.past,
      hands_on=True,
    )
    if before is not None:
      past = jax.tree.map(in_front, before.past, past)
    place = jnp.argmax(positions, axis=1)[:, None, None]
    last = jnp.take_along_axis(hidden, place, axis=1)[:, 0]
    return Encoded(keys, last, past)

  def _all(
    self,
    embedded: Array,
    enable_dropout: bool,
    encoded: Encoded,
    segments: Array | None,
  ) -> Array:
    """Returns the outputs for all targets at once, [B, S, H]."""
    if segments is None:
      segments = jnp.ones(embedded.shape[:2], jnp.int32)
    same = segments[:, :, None] == segments[:, None, :]  # [B, S, S]
    # The targets of a segment follow the input.
    steps = jnp.arange(same.shape[1], dtype=jnp.int32)[None]
    steps = steps - jnp.argmax(same, axis=-1).astype(jnp.int32)
    ends = jnp.max(encoded.positions, axis=1, keepdims=True)  # [B, 1]
    is_first, positions = steps == 0, ends + steps
    keys = jnp.where(is_first, NOWHERE, positions)
    width = ((0, 0), (0, 0), (encoded.positions.shape[1], 0))
    hidden, _ = self._layers(
      embedded,
      positions,
      jnp.concatenate([encoded.positions, keys], axis=1),
      enable_dropout,
      among=jnp.pad(same, width, constant_values=True)[:, None],
      past=encoded.past,
    )
    return jnp.where(is_first[..., None], encoded.last[:, None], hidden)

  def _next(
    self,
    embedded: Array,
    enable_dropout: bool,
    encoded: Encoded,
    max_decode_length: int | None,
  ) -> Array:
    """Returns the output at the next target, [B, 1, H], by the cache.

    The first call creates the cache, for as many targets as it gets.
    """
    exists = self.has_variable("cache", "cache_index")
    steps = embedded.shape[1]

    def positions() -> Array:
      width = ((0, 0), (0, steps))
      return jnp.pad(encoded.positions, width, constant_values=NOWHERE)

    index = self.variable("cache", "cache_index", jnp.zeros, (), jnp.int32)
    keys = self.variable("cache", "positions", positions)
    last = self.variable("cache", "last", lambda: encoded.last)
    # The start token has the place of the last input; others come after it.
    is_first, ends = index.value == 0, keys.value.max(axis=1, keepdims=True)
    queries = jnp.where(is_first, ends, ends + 1)
    slot = jnp.int32(0)
    if exists:
      if max_decode_length is None:
        raise ValueError(
          "Expected max_decode_length, the length of the cache, got None. Pass "
          "it to every step of decoding."
        )
      slot = keys.value.shape[1] - max_decode_length + index.value
      keys.value = jax.lax.dynamic_update_slice_in_dim(
        keys.value, jnp.where(is_first, NOWHERE, queries), slot, axis=1
      )
      index.value += 1
    hidden, _ = self._layers(
      embedded,
      jnp.broadcast_to(queries, (len(queries), steps)),
      keys.value,
      enable_dropout,
      past=None if exists else encoded.past,
      cache_index=slot,
    )
    return jnp.where(is_first, last.value[:, None], hidden)

  def _layers(
    self,
    embedded: Array,
    queries: Array,
    keys: Array,
    enable_dropout: bool,
    among: Array | None = None,
    cache_index: Array | None = None,
    **options: Any,
  ) -> tuple[Array, Any]:
    """Applies the layers.

    Args:
      embedded: [B, Q, H]
      queries: [B, Q] Their positions.
      keys: [B, K] Positions of keys.
      enable_dropout: Whether to drop activations.
      among: [B, 1, Q, K] False where a query must not see a key.
      cache_index: As in `View`.
      **options: More arguments of `apply_layers`.
    """
    mask = masks.position_mask(queries, keys) & (keys >= 0)[:, None, None]
    views = rotary_views(
      self.config,
      queries,
      mask if among is None else mask & among,
      lambda window: masks.position_mask(queries, keys, window - 1),
    )
    return apply_layers(
      self,
      self.config.num_layers,
      _ATTENTIONS,
      embedded,
      *(view._replace(cache_index=cache_index) for view in views),
      enable_dropout=enable_dropout,
      **options,
    )


class Transformer(Network):
  """A decoder with the modules of `injections`."""

  config: DecoderConfig

  def setup(self):
    self.token_embedder = Embed(self.config)
    self.decoder = Decoder(self.config, self.injections, self.token_embedder)

  def encode_embedded(
    self,
    embedded: Array,
    tokens: Array,
    segment_ids: Array | None = None,
    enable_dropout: bool = True,
    before: Encoded | None = None,
  ) -> Encoded:
    """Encodes inputs that are embedded already, behind others; see `Decoder`.

    Args:
      embedded: [B, T, H]
      tokens: [B, T] For the padding mask.
      segment_ids: None, as packed examples are not supported.
      enable_dropout: Whether to drop activations.
      before: The result for a prompt in front of them, or None.
    """
    if segment_ids is not None:
      raise ValueError(
        "A decoder needs one example per row, but got packed examples. Set "
        "utils.DatasetConfig.pack = False."
      )
    return self.decoder(
      tokens, before, embedded=embedded, enable_dropout=enable_dropout
    )
