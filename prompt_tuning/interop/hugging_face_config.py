"""The sizes of a T5 1.1 in the `config.json` of a Hugging Face folder."""

from collections.abc import Mapping
import functools
import json
import pathlib
from typing import Any

from prompt_tuning.models.t5.config import T5Config

FILE = "config.json"
# Limits of the layers of a stack, and of the rows or columns of a matrix: far
# above those of any T5, and small enough to count with.
_MAX_LAYERS = 1_000
_MAX_SIZE = 10**7


def read(folder: pathlib.Path) -> T5Config:
  """Reads the sizes; refuses models that our network does not compute.

  Args:
    folder: Folder of a model.

  Raises:
    ValueError: if the configuration is missing, or another model's.
  """
  file = folder / FILE
  if not file.is_file():
    raise ValueError(f"{folder} is not a Hugging Face folder: no {FILE} in it.")
  try:
    config = json.loads(file.read_text())
    model_type = config["model_type"]
  except (ValueError, KeyError, TypeError, RecursionError) as error:
    raise ValueError(
      f"{file} is not a model configuration: {error!r}."
    ) from None
  if model_type != "t5":
    raise ValueError(f"{file}: expected model_type t5, got {model_type}.")
  activation = config.get("feed_forward_proj", "relu")
  if activation != "gated-gelu":
    reason = " It is a T5 1.0: no gate, and a tied head." * (
      activation == "relu"
    )
    raise ValueError(
      f"{file}: expected feed_forward_proj gated-gelu, that of T5 1.1, got "
      f"{activation}.{reason} Take a T5 1.1, an LM-adapted T5 or a FLAN-T5."
    )
  # transformers 5 writes "tied" for every model, and "scaled" where it matters.
  tied, scaled = "tie_word_embeddings", "scale_decoder_outputs"
  key = scaled if scaled in config else tied
  if config.get(key, True):
    head = "the embedding is the head, and " * (key == tied)
    raise ValueError(
      f"{file}: expected {key} false, got "
      f"{str(config.get(key, 'nothing')).lower()}: {head}the decoder's output "
      "is scaled, as in T5 1.0."
    )
  for name, default in (
    ("layer_norm_epsilon", 1e-6),
    ("relative_attention_max_distance", 128),
  ):
    if (value := config.get(name, default)) != default:
      raise ValueError(
        f"{file}: expected {name} {default}, which checkpoints do not record, "
        f"got {value}."
      )

  size = functools.partial(_size, file, config)
  return T5Config(
    vocab_size=size("vocab_size"),
    emb_dim=size("d_model"),
    num_heads=size("num_heads"),
    num_encoder_layers=size("num_layers"),
    num_decoder_layers=size(
      # Some write null for "as many".
      "num_decoder_layers" if config.get("num_decoder_layers") else "num_layers"
    ),
    head_dim=size("d_kv"),
    mlp_dim=size("d_ff"),
    relative_attention_num_buckets=size("relative_attention_num_buckets", 32),
  )


def _size(
  file: pathlib.Path,
  config: Mapping[str, Any],
  name: str,
  default: int | None = None,
) -> int:
  if (value := config.get(name, default)) is None:
    raise ValueError(f"{file} does not say {name!r}.")
  most = _MAX_LAYERS if name.endswith("layers") else _MAX_SIZE
  if type(value) is not int or not 1 <= value <= most:
    raise ValueError(
      f"{file}: expected {name} in [1, {most}], got {value!r:.60}."
    )
  return value
