"""T5Gemma 1 and 2: T5 with Gemma's layers."""

import jax.numpy as jnp

from prompt_tuning import masks
from prompt_tuning.models import layers
from prompt_tuning.models.multi_head import View, rotary_views
from prompt_tuning.models.stack import DECODER
from prompt_tuning.models.t5 import network as t5
from prompt_tuning.models.t5gemma.config import T5GemmaConfig
from prompt_tuning.types import Array


class Encoder(t5.Encoder):
  """The encoder stack, with a prompt before its input if one is injected."""

  config: T5GemmaConfig  # pyright: ignore[reportIncompatibleVariableOverride]

  def views(self, mask: Array, queries: Array, keys: Array) -> list[View]:
    """Returns the arguments of self-attention; see `t5.Encoder.views`."""

    def near(window: int) -> Array:
      # T5Gemma 1 has the whole window on either side, 2 has half of it.
      before = after = window
      if self.config.is_merged:
        before, after = (window - 1) // 2, window // 2
      return masks.position_mask(queries[None], keys[None], before, after)

    return rotary_views(self.config, queries[None], mask, near)


class Decoder(t5.Decoder):
  """The decoder stack and the output head."""

  config: T5GemmaConfig  # pyright: ignore[reportIncompatibleVariableOverride]

  def views(self, mask: Array, queries: Array, keys: Array) -> list[View]:
    """Returns the arguments of self-attention; see `t5.Encoder.views`."""
    # Among the targets of the same segment.
    positions = jnp.sum(mask[:, 0], axis=-1, dtype=jnp.int32) - 1
    return rotary_views(
      self.config,
      positions,
      mask,
      lambda window: masks.position_mask(queries[None], keys[None], window - 1),
    )

  def attentions(
    self, own: list[View], cross: View
  ) -> tuple[tuple[tuple[str, str], ...], list[View]]:
    """Returns the attentions of a layer; see `t5.Decoder.attentions`."""
    if not self.config.is_merged:
      return super().attentions(own, cross)
    return DECODER[:1], [_joined(view, cross) for view in own]


def _joined(own: View, cross: View) -> View:
  """Returns the arguments of one attention, which sees both."""
  rows = jnp.broadcast_shapes(own.mask.shape[:3], cross.mask.shape[:3])
  both = [
    jnp.broadcast_to(x, (*rows, x.shape[3])) for x in (cross.mask, own.mask)
  ]
  index = own.cache_index
  return own._replace(
    mask=jnp.concatenate(both, axis=-1),
    attended=cross.attended,
    cache_index=None if index is None else index + cross.mask.shape[3],
  )


class Embed(layers.Embed):
  """Token embeddings; 0, in front of targets, is the start token."""

  config: T5GemmaConfig  # pyright: ignore[reportIncompatibleVariableOverride]

  def __call__(self, tokens: Array) -> Array:
    """[B, T] -> [B, T, H]. A token outside the vocabulary becomes NaN."""
    return super().__call__(
      jnp.where(tokens == 0, self.config.start_id, tokens)
    )


class Transformer(t5.Transformer):
  """A T5Gemma with the modules of `injections`."""

  config: T5GemmaConfig  # pyright: ignore[reportIncompatibleVariableOverride]

  def setup(self):
    config, injections = self.config, self.injections
    of_targets = self.token_embedder = Embed(config)
    if not config.is_merged:
      of_targets = self.decoder_embedder = Embed(config.decoder)
    self.encoder = Encoder(config, injections)
    self.decoder = Decoder(config.decoder, injections, of_targets)
