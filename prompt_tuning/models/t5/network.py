"""T5 1.1: encoder, decoder, and the module that T5X's models drive."""

from flax import traverse_util
import flax.linen as nn
import jax
import jax.numpy as jnp

from prompt_tuning import masks, prompts
from prompt_tuning.injections import Injections
from prompt_tuning.models.t5.config import T5Config
from prompt_tuning.models.t5.layers import (
  Dense,
  Embed,
  RelativeBias,
  constrain,
)
from prompt_tuning.models.t5.stack import DECODER, ENCODER, View, apply_layers
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
    bias = RelativeBias(config, bidirectional=True, name="relpos_bias")(
      positions, positions
    )
    hidden = apply_layers(
      self,
      config.num_encoder_layers,
      ENCODER,
      embedded,
      View(mask, bias),
      enable_dropout=enable_dropout,
    )
    visible = masks.prepend_visible(tokens > 0, prompt_length)
    return jnp.where(visible[..., None], hidden, 0)


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
    mask: Array,
    encoder_decoder_mask: Array,
    enable_dropout: bool,
    decode: bool,
    max_decode_length: int | None,
  ) -> Array:
    """Computes the logits of every next token.

    Args:
      input_tokens: [B, S] Token ids.
      encoded: [B, T, H] The encoder's output.
      mask: [B, 1, S, S] Not used if `decode`.
      encoder_decoder_mask: [B, 1, S or 1, T]
      enable_dropout: Whether to drop activations.
      decode: Whether to read and extend the cache of decoded tokens, or to
        create one of length S.
      max_decode_length: Length of the cache, once it exists.

    Returns:
      [B, S, V] in float32.
    """
    config, injections = self.config, self.injections
    query_positions = jnp.arange(input_tokens.shape[1])
    key_positions = query_positions
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
      mask = masks.causal_mask(query_positions, key_positions)
    bias = RelativeBias(config, bidirectional=False, name="relpos_bias")(
      query_positions, key_positions
    )
    hidden = apply_layers(
      self,
      config.num_decoder_layers,
      DECODER,
      self.embedder(input_tokens),
      View(mask, bias, cache_index=cache_index),
      View(encoder_decoder_mask, attended=encoded),
      enable_dropout=enable_dropout,
    )
    if config.logits_via_embedding:
      logits = self.embedder.attend(hidden)
    else:
      logits = Dense(
        config,
        injections,
        config.vocab_size,
        ("embed", "vocab"),
        # A frozen kernel may be stored in bfloat16. Its products with bfloat16
        # are equal in either dtype, and accumulate in float32.
        output_dtype=jnp.float32,
        name="logits_dense",
      )(hidden)
    return constrain(logits, ("batch", "length", "vocab"))


class Transformer(nn.Module):
  """A T5 1.1 with the modules of `injections`.

  Tokens are ids, and 0 is padding. Position arguments are accepted because T5X
  passes them, but T5 uses relative positions only.

  Attributes:
    config: Sizes and settings.
    injections: Modules of a parameter-efficient method.
  """

  config: T5Config
  injections: Injections = Injections()

  def setup(self):
    self.token_embedder = Embed(self.config)
    self.encoder = Encoder(self.config, self.injections)
    self.decoder = Decoder(self.config, self.injections, self.token_embedder)

  def __call__(
    self,
    encoder_input_tokens: Array,
    decoder_input_tokens: Array,
    decoder_target_tokens: Array,
    encoder_segment_ids: Array | None = None,
    decoder_segment_ids: Array | None = None,
    encoder_positions: Array | None = None,
    decoder_positions: Array | None = None,
    *,
    enable_dropout: bool = True,
    decode: bool = False,
  ) -> Array:
    """Computes the logits of the targets.

    Args:
      encoder_input_tokens: [B, T]
      decoder_input_tokens: [B, S] The targets, shifted right by one.
      decoder_target_tokens: [B, S]
      encoder_segment_ids: [B, T] Which of several packed examples a token is
        part of; None if there is one example a row.
      decoder_segment_ids: [B, S] The same for targets.
      encoder_positions: Unused.
      decoder_positions: Unused.
      enable_dropout: Whether to drop activations.
      decode: Whether to create a cache for S tokens, in the collection "cache".

    Returns:
      [B, S, V] in float32.

    Raises:
      ValueError: if packed examples would have to share a prompt.
    """
    del encoder_positions, decoder_positions
    encoded = self.encode(
      encoder_input_tokens, encoder_segment_ids, enable_dropout=enable_dropout
    )
    return self.decode(
      encoded,
      encoder_input_tokens,
      decoder_input_tokens,
      decoder_target_tokens,
      encoder_segment_ids,
      decoder_segment_ids,
      enable_dropout=enable_dropout,
      decode=decode,
    )

  def encode(
    self,
    encoder_input_tokens: Array,
    encoder_segment_ids: Array | None = None,
    enable_dropout: bool = True,
  ) -> Array:
    """[B, T] -> [B, P + T, H], zero at padding."""
    return self.encoder(
      self.token_embedder(encoder_input_tokens),
      encoder_input_tokens,
      encoder_segment_ids,
      enable_dropout,
    )

  def decode(
    self,
    encoded: Array,
    encoder_input_tokens: Array,
    decoder_input_tokens: Array,
    decoder_target_tokens: Array,
    encoder_segment_ids: Array | None = None,
    decoder_segment_ids: Array | None = None,
    enable_dropout: bool = True,
    decode: bool = False,
    max_decode_length: int | None = None,
  ) -> Array:
    """Computes logits from the encoder's output.

    Args:
      encoded: [B, P + T, H]. Not read if the collection "attended" exists,
        which `decode` fills if it is mutable. The other arguments may have
        several rows for each row of "attended".
      encoder_input_tokens: [B, T] For the padding mask.
      decoder_input_tokens: [B, S] With `decode` and a cache, the tokens after
        those that the cache holds.
      decoder_target_tokens: [B, S] For the padding mask; unused with `decode`.
      encoder_segment_ids: As in `__call__`.
      decoder_segment_ids: As in `__call__`.
      enable_dropout: Whether to drop activations.
      decode: Whether to use the collection "cache": its arrays have the batch
        as axis 0, its scalar counts the decoded tokens.
      max_decode_length: Length of the cache, the S of its creation.

    Returns:
      [B, S, V] in float32.
    """
    prompt_length = encoded.shape[1] - encoder_input_tokens.shape[1]
    return self.decoder(
      decoder_input_tokens,
      encoded,
      masks.decoder_mask(decoder_target_tokens, decoder_segment_ids),
      masks.key_mask(
        encoder_input_tokens,
        prompt_length,
        decoder_segment_ids,
        encoder_segment_ids,
      ),
      enable_dropout,
      decode,
      max_decode_length,
    )


def parameter_shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
  """Returns path -> shape of every parameter of a network, without making it.

  Args:
    network: A `Transformer`, with its injections.

  Returns:
    Such as {"encoder/layers_0/attention/query/kernel": (512, 384)}.
  """
  tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  variables = jax.eval_shape(
    lambda rng, tokens: network.init(
      rng, tokens, tokens, tokens, enable_dropout=False
    ),
    jax.random.key(0),
    tokens,
  )
  flat = traverse_util.flatten_dict(variables["params"], sep="/")
  return {path: leaf.shape for path, leaf in flat.items()}
