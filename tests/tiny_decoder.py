"""Folders with decoders and T5Gemmas so small that a run takes seconds."""

from collections.abc import Sequence
import json
import pathlib
from typing import Any

import numpy as np

from prompt_tuning.interop import (
  decoder_configs,
  hugging_face,
  parameter_names,
  safetensors_files,
)
from prompt_tuning.models.decoder.config import DecoderConfig
from t5x.formats import stored_arrays

WIDTH = 16
SPECIAL = ["<pad>", "<end>", "<user>", "<answer>"]
CHAT_TEMPLATE = """
{%- for message in messages %}
    {{- '<' + message['role'] + '>' + message['content'] }}
{%- endfor %}
{%- if add_generation_prompt %}<answer>{% endif %}"""
CONFIG: dict[str, Any] = {
  "model_type": "llama",
  "vocab_size": 384,
  "hidden_size": WIDTH,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
  "num_hidden_layers": 2,
  "intermediate_size": 32,
  "rms_norm_eps": 1e-5,
  "tie_word_embeddings": True,
  "eos_token_id": 1,
}
# A window in the first of two layers, and fewer keys than queries.
_GEMMA = {
  **CONFIG,
  "hidden_activation": "gelu_pytorch_tanh",
  "head_dim": 4,
  "sliding_window": 3,
  "layer_types": ["sliding_attention", "full_attention"],
}
# Both stacks have the same end token.
_STACKS = {"encoder": _GEMMA, "decoder": _GEMMA, "eos_token_id": 1}
CONFIGS = {
  "tiny_decoder": CONFIG,
  "tiny_t5gemma": {"model_type": "t5gemma", **_STACKS},
  "tiny_t5gemma2": {
    "model_type": "t5gemma2",
    **_STACKS,
    "encoder": {"text_config": _GEMMA},
  },
}


def config() -> DecoderConfig:
  return decoder_configs.read_config(pathlib.Path("config.json"), CONFIG)


def save(
  folder: pathlib.Path, name: str = "tiny_decoder", **changes: Any
) -> str:
  """Writes a random model of 384 pieces, for `seqio.ByteVocabulary`.

  Args:
    folder: A new folder.
    name: A key of `CONFIGS`.
    **changes: Changes of that configuration.
  """
  folder.mkdir(parents=True)
  (folder / hugging_face.CONFIG).write_text(json.dumps(CONFIGS[name] | changes))
  sizes = hugging_face.read_config(folder)
  rng, tensors = np.random.default_rng(0), {}
  for name, shape in parameter_names.shapes(sizes).items():
    is_scale = name.endswith("/scale")
    shape = shape[::-1] if parameter_names.is_transposed(name) else shape
    values = is_scale + rng.normal(size=shape) * (0.1 if is_scale else 0.3)
    theirs = parameter_names.hugging_face_name(name, sizes)
    tensors[theirs] = stored_arrays.in_memory(values.astype(np.float32))
  safetensors_files.write(folder / safetensors_files.WEIGHTS, tensors)
  return str(folder)


def save_tokenizer(
  folder: pathlib.Path, merges: Sequence[tuple[str, str]] = ()
) -> None:
  """Writes a tokenizer of bytes beside the model, with a chat template.

  Args:
    folder: The model's folder.
    merges: Pairs of bytes that form one piece.
  """
  import tokenizers
  from tokenizers import decoders, models, pre_tokenizers

  letters = sorted(pre_tokenizers.ByteLevel.alphabet())
  pieces = [*SPECIAL, *letters, *map("".join, merges)]
  ids = {piece: i for i, piece in enumerate(pieces)}
  tokenizer = tokenizers.Tokenizer(models.BPE(vocab=ids, merges=[*merges]))
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  tokenizer.add_special_tokens(SPECIAL)
  tokenizer.save(str(folder / hugging_face.TOKENIZER))
  config = {"eos_token": "<end>", "chat_template": CHAT_TEMPLATE}
  (folder / "tokenizer_config.json").write_text(json.dumps(config))
