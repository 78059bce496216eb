"""The base of all networks: the module that T5X's models call."""

from typing import Any

from flax import traverse_util
import flax.linen as nn
import jax
import jax.numpy as jnp

from prompt_tuning.injections import Injections
from prompt_tuning.types import Array


class Network(nn.Module):
  """A network that answers inputs with targets, in two parts.

  `encode` computes everything that targets need from the inputs, and `decode`
  the logits of targets. A decoder is such a network too: its inputs become the
  keys and values of its layers. A subclass has `encode_embedded`, for inputs
  that are embedded already and may include a prompt, and `decoder`, which gets
  the arguments of `decode`.

  Tokens are ids, and 0 is padding. Position arguments are accepted because T5X
  passes them, but a network finds positions itself.

  Attributes:
    config: Sizes and settings.
    injections: Modules of a parameter-efficient method.
  """

  config: Any
  injections: Injections = Injections()

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
      encoder_segment_ids: [B, T] The number of the packed example that each
        token is part of; None if each row is one example.
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
  ) -> Any:
    """Encodes inputs for `decode`; the first array's columns are positions."""
    return self.encode_embedded(
      self.token_embedder(encoder_input_tokens),
      encoder_input_tokens,
      encoder_segment_ids,
      enable_dropout,
    )

  def decode(
    self,
    encoded: Any,
    encoder_input_tokens: Array,
    decoder_input_tokens: Array,
    decoder_target_tokens: Array,
    encoder_segment_ids: Array | None = None,
    decoder_segment_ids: Array | None = None,
    enable_dropout: bool = True,
    decode: bool = False,
    max_decode_length: int | None = None,
  ) -> Array:
    """Computes logits from the result of `encode`.

    Args:
      encoded: From `encode`. Not read while decoding with a cache.
      encoder_input_tokens: [B, T] For the padding mask.
      decoder_input_tokens: [B, S] With `decode` and a cache, the tokens after
        those that the cache holds.
      decoder_target_tokens: [B, S] For the padding mask; unused with `decode`.
      encoder_segment_ids: As in `__call__`.
      decoder_segment_ids: As in `__call__`.
      enable_dropout: Whether to drop activations.
      decode: Whether to use the collection "cache": its arrays have the batch
        as axis 0, its scalar counts the decoded tokens.
      max_decode_length: Most tokens of the cache, the S of its creation.

    Returns:
      [B, S, V] in float32.
    """
    return self.decoder(
      decoder_input_tokens,
      encoded,
      encoder_input_tokens=encoder_input_tokens,
      decoder_target_tokens=decoder_target_tokens,
      encoder_segment_ids=encoder_segment_ids,
      decoder_segment_ids=decoder_segment_ids,
      enable_dropout=enable_dropout,
      decode=decode,
      max_decode_length=max_decode_length,
    )


def parameter_shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
  """Returns path -> shape of every parameter of a network, without making it.

  Args:
    network: A `Network`, with its injections.

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
