"""T5Gemmas of Hugging Face's: configurations and names of parameters."""

from collections.abc import Mapping
import pathlib
import re
from typing import Any

from prompt_tuning.interop import decoder_names
from prompt_tuning.models.config import TOKEN_EMBEDDING
from prompt_tuning.models.t5gemma.config import T5GemmaConfig
from t5x.files import parsing

# The decoder whose layers each family has.
_FAMILIES = {"t5gemma": "gemma2", "t5gemma2": "gemma3_text"}
MODEL_TYPES = tuple(_FAMILIES)
_HEAD = "lm_head.out_proj.weight"
_OTHERS = {
  TOKEN_EMBEDDING: "model.encoder.embed_tokens.weight",
  "decoder_embedder/embedding": "model.decoder.embed_tokens.weight",
  "encoder/encoder_norm/scale": "model.encoder.norm.weight",
  "decoder/decoder_norm/scale": "model.decoder.norm.weight",
  "decoder/logits_dense/kernel": _HEAD,
}
_BLOCKS = {
  "attention": "self_attn",
  "self_attention": "self_attn",
  "cross_attention": "cross_attn",
  "encoder_decoder_attention": "cross_attn",
}
# Of the encoder for images, and of the end of an image.
_OF_IMAGES = (
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
  with parsing.of(file, "the configuration of a T5Gemma"):
    family = content["model_type"]
    is_merged = family == "t5gemma2"
    encoder, decoder = content["encoder"], content["decoder"]
    encoder = encoder["text_config"] if is_merged else encoder
    of_all = {
      "model_type": _FAMILIES[family],
      "tie_word_embeddings": content.get("tie_word_embeddings", True),
    }
    first, second = (
      vars(decoder_names.read_config(file, {**stack, **of_all}))
      for stack in (encoder, decoder)
    )
    return T5GemmaConfig(
      **first,
      of_decoder=tuple(x for x in second.items() if first[x[0]] != x[1]),
      start_id=decoder.get("bos_token_id", 2),
      is_merged=is_merged,
    )


def hugging_face_name(name: str, config: T5GemmaConfig) -> str:
  """Returns the name of a parameter in a Hugging Face T5Gemma's state dict.

  Args:
    name: Ours, such as "encoder/layers_0/attention/query/kernel".
    config: The model's configuration.
  """
  if name in _OTHERS:
    return _OTHERS[name]
  stack, layer, block, inside = name.split("/", 3)
  place = f"model.{stack}.layers."
  if norm := re.fullmatch(r"(pre|post)_(\w+)_layer_norm", block):
    of = _BLOCKS.get(norm[2], "feedforward")
    number = layer.removeprefix("layers_")
    return f"{place}{number}.{norm[1]}_{of}_layernorm.weight"
  # The parts of each block have the same names as a decoder's.
  of_decoder = block if block == "mlp" else "self_attention"
  found = decoder_names.hugging_face_name(
    f"decoder/{layer}/{of_decoder}/{inside}", config
  )
  found = found.replace("self_attn", _BLOCKS.get(block, ""))
  return found.replace("model.layers.", place)


def is_unread(name: str, config: T5GemmaConfig) -> bool:
  """Returns whether a tensor is a copy, or one for images."""
  return bool(
    (name == _HEAD and config.logits_via_embedding)
    or (name == _OTHERS["decoder_embedder/embedding"] and config.is_merged)
    or re.fullmatch(_OF_IMAGES, name)
  )
