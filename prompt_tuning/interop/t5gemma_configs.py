"""Configurations of Hugging Face T5Gemmas."""

from collections.abc import Mapping
import pathlib
from typing import Any

from prompt_tuning.interop import decoder_configs
from prompt_tuning.models.t5gemma.config import T5GemmaConfig
from t5x.files import parsing

# The decoder whose layers each family has.
_FAMILIES = {"t5gemma": "gemma2", "t5gemma2": "gemma3_text"}
MODEL_TYPES = tuple(_FAMILIES)
# Copies of the embedding, the encoder for images, and the end of an image.
UNREAD = (
  r"lm_head\.out_proj\.weight|model\.decoder\.embed_tokens\.weight|"
  r"model\.encoder\.(vision_tower|multi_modal_projector)\..*|.*\.eoi_embedding"
)


def read_config(file: pathlib.Path, content: Mapping[str, Any]) -> Any:
  """Returns the `T5GemmaConfig` of a configuration.

  Args:
    file: Its file, for messages.
    content: The file's content, whose `model_type` is one of `MODEL_TYPES`.

  Raises:
    ValueError: if our network does not compute the model.
  """
  with parsing.of(
    file, "the configuration of a T5Gemma", decoder_configs.REMEDY
  ):
    family = content["model_type"]
    is_merged = family == "t5gemma2"
    encoder, decoder = content["encoder"], content["decoder"]
    encoder = encoder["text_config"] if is_merged else encoder
    of_all = {
      "model_type": _FAMILIES[family],
      "tie_word_embeddings": content.get("tie_word_embeddings", True),
    }
    first, second = (
      vars(decoder_configs.read_config(file, {**stack, **of_all}))
      for stack in (encoder, decoder)
    )
    return T5GemmaConfig(
      **first,
      of_decoder=tuple(x for x in second.items() if first[x[0]] != x[1]),
      start_id=decoder.get("bos_token_id", 2),
      is_merged=is_merged,
    )
