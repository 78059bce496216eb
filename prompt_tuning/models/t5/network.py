"""T5 1.1: encoder, decoder, and the module that T5X's models call."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from prompt_tuning import masks, prompts
from prompt_tuning.injections import Injections
from prompt_tuning.methods.parameters import parameter
from prompt_tuning.models.layers import Embed, logits_of
from prompt_tuning.models.multi_head import View
from prompt_tuning.models.network import Network
from prompt_tuning.models.stack import DECODER, ENCODER, apply_layers
from prompt_tuning.models.t5.config import T5Config
from prompt_tuning.types import Array


class Encoder(nn.Module):
  """The encoder stack, with a prompt before its input if one is injected."""

  config: T5Config
  injections: Injections

  @nn.compact
  def __call__(
    self,
    embedded: Array,
    tokens: Array,
    segment_ids: Array | None,
    enable_dropout: bool,
  ) -> Array:
    """Encodes a batch.

    Args:
      embedded: [B, T, H] The embedded tokens.
      tokens: [B, T] Token ids; 0 is padding.
      segment_ids: [B, T] As in `masks.key_mask`.
      enable_dropout: Whether to drop activations.

    Returns:
      [B, P + T, H], zero at padding.
    """
    config, injections = self.config, self.injections
    prompt_length = 0
    if injections.prompt:
      prompt = injections.prompt(name="prompt")(tokens, embedded)
      prompt_length = prompt.shape[-2]
      embedded = prompts.prepend_prompt(prompt, embedded)
    mask = masks.key_mask(tokens, prompt_length, segment_ids, segment_ids)
    positions = jnp.arange(embedded.shape[1])
    hidden, _ = apply_layers(
      self,
      config.stacks[0],
      ENCODER,
      embedded,
      *self.views(mask, positions, positions),
      enable_dropout=enable_dropout,
    )
    visible = masks.prepend_visible(tokens > 0, prompt_length)
    return jnp.where(visible[..., None], hidden, 0)

  def views(self, mask: Array, queries: Array, keys: Array) -> list[View]:
    """Returns the arguments of self-attention, and those of local layers.

    Args:
      mask: [B, 1, Q or 1, K]
      queries: [Q] Their positions.
      keys: [K]
    """
    bias = RelativeBias(self.config, bidirectional=True, name="relpos_bias")
    return [View(mask, bias(queries, keys))]


class Decoder(nn.Module):
  """The decoder stack and the output head."""

  config: T5Config
  injections: Injections
  embedder: Embed

  @nn.compact
  def __call__(
    self,
    input_tokens: Array,
    encoded: Array,
    *,
    encoder_input_tokens: Array,
    decoder_target_tokens: Array,
    encoder_segment_ids: Array | None,
    decoder_segment_ids: Array | None,
    enable_dropout: bool,
    decode: bool,
    max_decode_length: int | None,
  ) -> Array:
    """Computes the logits of every next token; see `Network.decode`.

    If the collection "attended" exists, `encoded`, [B, P + T, H], is not read.
    With `decode`, it is filled if it is mutable. The other arguments may have
    several rows for each row of "attended".
    """
    config = self.config
    query_positions = jnp.arange(input_tokens.shape[1])
    key_positions = query_positions
    mask = masks.decoder_mask(decoder_target_tokens, decoder_segment_ids)
    encoder_decoder_mask = masks.key_mask(
      encoder_input_tokens,
      encoded.shape[1] - encoder_input_tokens.shape[1],
      decoder_segment_ids,
      encoder_segment_ids,
    )
    cache_index = None
    if decode:
      exists = self.has_variable("cache", "cache_index")
      index = self.variable("cache", "cache_index", jnp.zeros, (), jnp.int32)
      cache_index = index.value
      if exists:
        if max_decode_length is None:
          raise ValueError(
            "Expected max_decode_length, the length of the cache, got None. "
            "Pass it to every step of decoding."
          )
        query_positions += cache_index
        key_positions = jnp.arange(max_decode_length)
        index.value += input_tokens.shape[1]
      mask = masks.position_mask(query_positions[None], key_positions[None])
    attentions, views = self.attentions(
      [
        view._replace(cache_index=cache_index)
        for view in self.views(mask, query_positions, key_positions)
      ],
      View(encoder_decoder_mask, attended=encoded),
    )
    hidden, _ = apply_layers(
      self,
      config.stacks[1],
      attentions,
      self.embedder(input_tokens),
      *views,
      enable_dropout=enable_dropout,
    )
    self.sow("intermediates", "last_hidden", hidden)
    if config.logits_via_embedding and not config.scales_embedding:
      # The embedding is not scaled, and so the output is.
      hidden = hidden.astype(jnp.float32) / config.emb_dim**0.5
    return logits_of(self, self.embedder, hidden)

  def views(self, mask: Array, queries: Array, keys: Array) -> list[View]:
    """Returns the arguments of self-attention; see `Encoder.views`."""
    bias = RelativeBias(self.config, bidirectional=False, name="relpos_bias")
    return [View(mask, bias(queries, keys))]

  def attentions(
    self, own: list[View], cross: View
  ) -> tuple[tuple[tuple[str, str], ...], list[View]]:
    """Returns the attentions of a layer, and their arguments.

    Args:
      own: From `views`.
      cross: The arguments of the attention to the encoder's output.
    """
    return DECODER, [own[0], cross, *own[1:]]


class Transformer(Network):
  """A T5 1.1 with the modules of `injections`."""

  config: T5Config

  def setup(self):
    self.token_embedder = Embed(self.config)
    self.encoder = Encoder(self.config, self.injections)
    self.decoder = Decoder(self.config, self.injections, self.token_embedder)

  def encode_embedded(
    self,
    embedded: Array,
    tokens: Array,
    segment_ids: Array | None = None,
    enable_dropout: bool = True,
  ) -> Array:
    """Encodes inputs that are embedded already; see `Encoder`."""
    return self.encoder(embedded, tokens, segment_ids, enable_dropout)


class RelativeBias(nn.Module):
  """A term of attention scores that depends on the distance of the key."""

  config: T5Config
  bidirectional: bool

  @nn.compact
  def __call__(self, query_positions: Array, key_positions: Array) -> Array:
    """[Q], [K] -> [1, N, Q, K] in float32."""
    table = parameter(
      "rel_embedding",
      nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"),
      (self.config.num_heads, self.config.relative_attention_num_buckets),
      ("heads", "relpos_buckets"),
      self.config.param_dtype,
    )
    buckets = relative_buckets(
      key_positions[None, :] - query_positions[:, None],
      self.bidirectional,
      self.config.relative_attention_num_buckets,
      self.config.relative_attention_max_distance,
    )
    return table.astype(jnp.float32)[None, :, buckets]


def relative_buckets(
  offsets: Array, bidirectional: bool, num_buckets: int, max_distance: int
) -> Array:
  """Maps offsets to buckets that grow with the distance.

  Half of the buckets hold one distance each. The others grow by a constant
  factor up to `max_distance`; the last one takes all larger distances.

  Args:
    offsets: Position of the key minus that of the query, any shape.
    bidirectional: Whether the second half of the buckets is for keys after
      the query. If not, these keys have distance 0.
    num_buckets: Total number of buckets.
    max_distance: In positions.

  Returns:
    Bucket numbers, in the shape of `offsets`.
  """
  if bidirectional:
    num_buckets //= 2
  # A table of integers, because logarithms at the edge of a bucket differ
  # between devices. The small term keeps an edge in the upper bucket.
  single = num_buckets // 2
  distances = np.arange(max_distance + 1)
  growth = np.log(np.maximum(distances, single) / single) + 1e-6
  grown = single + growth / np.log(max_distance / single) * (
    num_buckets - single
  )
  bucket_of = np.where(distances < single, distances, grown).astype(np.int32)
  bucket_of = np.minimum(bucket_of, num_buckets - 1)

  distance = jnp.abs(offsets) if bidirectional else jnp.maximum(-offsets, 0)
  buckets = jnp.asarray(bucket_of)[jnp.minimum(distance, max_distance)]
  if bidirectional:
    buckets += jnp.where(offsets > 0, num_buckets, 0)
  return buckets
