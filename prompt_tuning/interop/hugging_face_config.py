"""The sizes of a T5 1.1 in the `config.json` of a Hugging Face folder."""

import dataclasses
import json
import pathlib

from prompt_tuning.interop import local_files
from prompt_tuning.models.t5.config import T5Config

FILE = "config.json"
# Our name of a size -> Hugging Face's.
_SIZES = {
  "vocab_size": "vocab_size",
  "emb_dim": "d_model",
  "head_dim": "d_kv",
  "mlp_dim": "d_ff",
  "num_heads": "num_heads",
  "num_encoder_layers": "num_layers",
  "num_decoder_layers": "num_decoder_layers",
  "relative_attention_num_buckets": "relative_attention_num_buckets",
}
# Settings that our checkpoints do not record, as they are in every T5 1.1.
_SETTINGS = {"layer_norm_epsilon": 1e-6, "relative_attention_max_distance": 128}
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
  config = local_files.read_json(file, "a model configuration", "model_type")
  if (model_type := config["model_type"]) != "t5":
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
  for name, expected in _SETTINGS.items():
    if (value := config.get(name, expected)) != expected:
      raise ValueError(f"{file}: expected {name} {expected}, got {value}.")

  config.setdefault("relative_attention_num_buckets", 32)
  # Some write null for "as many".
  if not config.get("num_decoder_layers"):
    config["num_decoder_layers"] = config.get("num_layers")
  sizes = {}
  for ours, name in _SIZES.items():
    if (size := config.get(name)) is None:
      raise ValueError(f"{file} does not say {name!r}.")
    most = _MAX_LAYERS if name.endswith("layers") else _MAX_SIZE
    if type(size) is not int or not 1 <= size <= most:
      raise ValueError(
        f"{file}: expected {name} in [1, {most}], got {size!r:.60}."
      )
    sizes[ours] = size
  return T5Config(**sizes)


def write(folder: pathlib.Path, config: T5Config, dtype: str) -> None:
  """Writes the configuration that transformers loads.

  Args:
    folder: Folder of the model.
    config: Its sizes.
    dtype: The widest dtype of its arrays.
  """
  sizes = dataclasses.asdict(config)
  content = {
    "architectures": ["T5ForConditionalGeneration"],
    "model_type": "t5",
    "is_encoder_decoder": True,
    **{name: sizes[ours] for ours, name in _SIZES.items()},
    **_SETTINGS,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "dropout_rate": 0.1,
    "initializer_factor": 1.0,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "use_cache": True,
    "dtype": dtype,
  }
  (folder / FILE).write_text(json.dumps(content, indent=2) + "\n")
