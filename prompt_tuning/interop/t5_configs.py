"""The configuration of a Hugging Face T5, of version 1.0 or 1.1."""

import json
import pathlib
from typing import Annotated, Any

import pydantic

from prompt_tuning.models.t5.config import T5Config
from t5x.files import parsing

# A ByT5 is a "t5" too.
MODEL_TYPES = ("t5", "mt5")
# Some old checkpoints have this tensor, and no model reads it.
UNREAD = (
  r"decoder\.block\.0\.layer\.1\.EncDecAttention"
  r"\.relative_attention_bias\.weight"
)
# Our name of a size -> Hugging Face's.
SIZES = {
  "vocab_size": "vocab_size",
  "emb_dim": "d_model",
  "head_dim": "d_kv",
  "mlp_dim": "d_ff",
  "num_heads": "num_heads",
  "num_encoder_layers": "num_layers",
  "num_decoder_layers": "num_decoder_layers",
  "relative_attention_num_buckets": "relative_attention_num_buckets",
}
# Hugging Face's name of the MLP -> ours: that of T5 1.0, whose head is its
# embedding, and that of T5 1.1.
_RELU = "relu"
_ACTIVATIONS = {_RELU: ("relu",), "gated-gelu": ("gelu", "linear")}
# The configuration of every T5, without what differs.
FIXED = json.loads(
  pathlib.Path(__file__).with_name("t5_config.json").read_text()
)
# Its settings that our checkpoints do not record.
_SETTINGS = ("layer_norm_epsilon", "relative_attention_max_distance")
# Limits of the layers of a stack, and of the rows or columns of a matrix: far
# above those of any T5, and small enough to count with.
_Layers: Any = Annotated[int, pydantic.Field(ge=1, le=1_000)]
_Size = Annotated[int, pydantic.Field(ge=1, le=10**7)]
_SHAPE = {
  **{x: _Layers if x.endswith("layers") else _Size for x in SIZES.values()},
  "num_decoder_layers": (_Layers | None, None),  # null for "as many".
  "relative_attention_num_buckets": (_Size, 32),
}


def read_config(file: pathlib.Path, config: dict[str, Any]) -> T5Config:
  """Returns the configuration of a T5 1.0 or 1.1.

  Args:
    file: The configuration's file, for messages.
    config: Its content, whose `model_type` is one of `MODEL_TYPES`.

  Raises:
    ValueError: if it is another model.
  """
  activation = config.get("feed_forward_proj", _RELU)
  if activation not in [*_ACTIVATIONS]:  # It may be of any type.
    raise ValueError(
      f"{file}: expected feed_forward_proj {' or '.join(_ACTIVATIONS)}, got "
      f"{activation}."
    )
  # transformers 5 writes "tied" for every model, and "scaled" where it matters.
  # It never scales the output of an mT5.
  tied, scaled = "tie_word_embeddings", "scale_decoder_outputs"
  key = scaled if scaled in config else tied
  is_tied = config["model_type"] != "mt5" and bool(config.get(key, True))
  if is_tied != (activation == _RELU):
    raise ValueError(
      f"{file}: expected {key} {str(not is_tied).lower()} beside {activation}, "
      f"got {str(is_tied).lower()}. The embedding of a T5 1.0 (relu) is its "
      "head, for outputs that are scaled; a T5 1.1 (gated-gelu) has a head."
    )
  for name in _SETTINGS:
    expected = FIXED[name]
    if (value := config.get(name, expected)) != expected:
      raise ValueError(f"{file}: expected {name} {expected}, got {value}.")

  what = "the configuration of a T5"
  given = parsing.json_file(file, what, _SHAPE)
  config = {"relative_attention_num_buckets": 32, **given}
  config["num_decoder_layers"] = (
    config.get("num_decoder_layers") or config["num_layers"]
  )
  with parsing.of(file, what):
    return T5Config(
      **{ours: config[name] for ours, name in SIZES.items()},
      mlp_activations=_ACTIVATIONS[activation],
      logits_via_embedding=is_tied,
    )


def content(config: T5Config) -> dict[str, Any]:
  """Returns the content of `config.json`, as transformers reads it."""
  names = {ours: name for name, ours in _ACTIVATIONS.items()}
  return {
    **FIXED,
    "feed_forward_proj": names[config.mlp_activations],
    "tie_word_embeddings": config.logits_via_embedding,
    **{name: getattr(config, ours) for ours, name in SIZES.items()},
  }
