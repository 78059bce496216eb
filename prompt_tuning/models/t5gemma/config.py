"""The sizes and settings of a T5Gemma."""

import dataclasses
from typing import Any

from prompt_tuning.models.decoder.config import DecoderConfig


@dataclasses.dataclass(frozen=True)
class T5GemmaConfig(DecoderConfig):
  """Sizes and settings of a T5Gemma 1 or of the text part of a T5Gemma 2.

  The fields of `DecoderConfig` describe the encoder.

  Attributes:
    of_decoder: Names and values of the fields that differ in the decoder.
    start_id: The token in front of targets.
    is_merged: Whether one attention takes the decoder's own positions and the
      encoder's output, and both stacks share the embedding (T5Gemma 2).
  """

  of_decoder: tuple[tuple[str, Any], ...] = ()
  start_id: int = 2
  is_merged: bool = False

  @property
  def decoder(self) -> "T5GemmaConfig":
    """The decoder's sizes and settings."""
    return dataclasses.replace(self, **dict(self.of_decoder))

  @property
  def stacks(self) -> tuple[int, ...]:
    """The number of layers of each stack."""
    return self.num_layers, self.decoder.num_layers
