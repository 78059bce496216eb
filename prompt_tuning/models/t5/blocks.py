"""One layer of the encoder, and one of the decoder."""

from typing import ClassVar

import flax.linen as nn

from prompt_tuning.injections import Injections
from prompt_tuning.models.t5.attention import Attention
from prompt_tuning.models.t5.config import T5Config
from prompt_tuning.models.t5.layers import Mlp, RMSNorm, constrain, make_dropout
from prompt_tuning.models.t5.stack import Draw, Keys, Prefix
from prompt_tuning.types import Array

ACTIVATION_AXES = ("batch", "length", "embed")


class EncoderLayer(nn.Module):
  """Self-attention and an MLP, each with a residual sum."""

  config: T5Config
  injections: Injections
  enable_dropout: bool

  draws: ClassVar[tuple[Draw, ...]] = (
    ("attention", "Dropout_0", 1),
    ("Dropout_0", 1),
    ("mlp", "Dropout_0", 1),
    ("Dropout_0", 2),
  )

  @nn.compact
  def __call__(
    self,
    inputs: Array,
    prefixes: tuple[Prefix],
    mask: Array,
    bias: Array,
    keys: Keys | None = None,
  ) -> tuple[Array, None]:
    """Computes one layer.

    Args:
      inputs: [B, T, H]
      prefixes: The prefix of its attention; see `Attention`.
      mask: [B, 1, T or 1, T]
      bias: [1, N, T, T]
      keys: A key for each of `draws`, or None to let flax make them.

    Returns:
      [B, T, H], and None, as `scan` expects a pair.
    """
    config, enable_dropout = self.config, self.enable_dropout
    (prefix,) = prefixes
    keys = keys or (None,) * len(self.draws)
    dropout = make_dropout(config, enable_dropout)
    normed = RMSNorm(config, name="pre_attention_layer_norm")(inputs)
    attention = Attention(config, self.injections, name="attention")
    attended = attention(
      *(normed, normed, mask, bias, prefix),
      enable_dropout=enable_dropout,
      dropout_key=keys[0],
    )
    hidden = inputs + dropout(attended, rng=keys[1])
    normed = RMSNorm(config, name="pre_mlp_layer_norm")(hidden)
    mlp = Mlp(config, self.injections, name="mlp")
    hidden += dropout(mlp(normed, enable_dropout, keys[2]), rng=keys[3])
    return constrain(hidden, ACTIVATION_AXES), None


class DecoderLayer(nn.Module):
  """Self-attention, attention to the encoder's output, and an MLP."""

  config: T5Config
  injections: Injections
  enable_dropout: bool

  draws: ClassVar[tuple[Draw, ...]] = (
    ("self_attention", "Dropout_0", 1),
    ("Dropout_0", 1),
    ("encoder_decoder_attention", "Dropout_0", 1),
    ("Dropout_0", 2),
    ("mlp", "Dropout_0", 1),
    ("Dropout_0", 3),
  )

  @nn.compact
  def __call__(
    self,
    inputs: Array,
    prefixes: tuple[Prefix, Prefix],
    encoded: Array,
    mask: Array,
    encoder_decoder_mask: Array,
    bias: Array,
    cache_index: Array | None,
    keys: Keys | None = None,
  ) -> tuple[Array, None]:
    """Computes one layer.

    Args:
      inputs: [B, S, H]
      prefixes: The prefixes of the self-attention and of the other attention.
      encoded: [B, T, H] The encoder's output.
      mask: [B, 1, S, K], where K is S or the length of the cache.
      encoder_decoder_mask: [B, 1, S or 1, T]
      bias: [1, N, S, K]
      cache_index: As in `Attention`.
      keys: A key for each of `draws`, or None to let flax make them.

    Returns:
      [B, S, H], and None, as `scan` expects a pair.
    """
    config, injections = self.config, self.injections
    enable_dropout = self.enable_dropout
    prefix, encoder_decoder_prefix = prefixes
    keys = keys or (None,) * len(self.draws)
    dropout = make_dropout(config, enable_dropout)
    normed = RMSNorm(config, name="pre_self_attention_layer_norm")(inputs)
    attention = Attention(config, injections, name="self_attention")
    attended = attention(
      *(normed, normed, mask, bias, prefix, cache_index),
      enable_dropout=enable_dropout,
      dropout_key=keys[0],
    )
    hidden = inputs + dropout(attended, rng=keys[1])
    normed = RMSNorm(config, name="pre_cross_attention_layer_norm")(hidden)
    attention = Attention(
      config, injections, keeps=True, name="encoder_decoder_attention"
    )
    attended = attention(
      *(normed, encoded, encoder_decoder_mask),
      prefix=encoder_decoder_prefix,
      enable_dropout=enable_dropout,
      dropout_key=keys[2],
    )
    hidden += dropout(attended, rng=keys[3])
    normed = RMSNorm(config, name="pre_mlp_layer_norm")(hidden)
    mlp = Mlp(config, injections, name="mlp")
    hidden += dropout(mlp(normed, enable_dropout, keys[4]), rng=keys[5])
    return constrain(hidden, ACTIVATION_AXES), None
