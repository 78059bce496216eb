"""Conversion of Llama models in GGUF files to Hugging Face folders."""

from collections.abc import Mapping
import json
import os
import pathlib
from typing import Any

import numpy as np

from prompt_tuning.data import chat_templates
from prompt_tuning.data.chat_templates import ChatTemplate
from prompt_tuning.interop import (
  decoder_configs,
  hugging_face,
  local_files,
  parameter_names,
  safetensors_files,
)
from t5x.files import parsing, safe_files
from t5x.formats import stored_arrays

# The type of special pieces.
_CONTROL = 3


def convert(
  file: str | os.PathLike[str],
  folder: pathlib.Path,
  with_chat_template: bool = True,
) -> None:
  """Writes a model to a new folder, in float32, with its tokenizer.

  Args:
    file: The GGUF file of a Llama with byte pairs.
    folder: Receives `tokenizer.json`, `model.safetensors`, perhaps
      `tokenizer_config.json` and, last, `config.json`.
    with_chat_template: Whether the file's chat template is kept, if it has one.

  Raises:
    ValueError: if it is another model, or the folder is not empty.
  """
  import gguf

  local_files.check_new(folder)
  with parsing.of(file, "a GGUF file of a Llama", decoder_configs.REMEDY):
    reader = gguf.GGUFReader(file)
    fields = {name: x.contents() for name, x in reader.fields.items()}
    config = _config(fields)
    tokenizer = _tokenizer(fields)
    heads = {
      "attn_q": config["num_attention_heads"],
      "attn_k": config["num_key_value_heads"],
    }
    arrays = {}
    for tensor in reader.tensors:
      stem, _, suffix = tensor.name.rpartition(".")
      name = f"{parameter_names.translated(stem, 'gguf')}.{suffix}"
      kind = stem.rpartition(".")[2]
      values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
      if kind in heads:
        values = _unpermuted(values, heads[kind])
      arrays[name] = np.asarray(values, np.float32)
  config["tie_word_embeddings"] = "lm_head.weight" not in arrays
  folder.mkdir(parents=True, exist_ok=True)
  tokenizer.save(str(folder / "tokenizer.json"))
  template = fields.get("tokenizer.chat_template")
  if template and with_chat_template:
    tokens = {
      f"{x}_token": fields["tokenizer.ggml.tokens"][config[f"{x}_token_id"]]
      for x in ("bos", "eos")
      if config[f"{x}_token_id"] is not None
    }
    chat_templates.write(folder, ChatTemplate(template, tokens))
  safetensors_files.write(
    folder / safetensors_files.WEIGHTS,
    {name: stored_arrays.in_memory(x) for name, x in arrays.items()},
  )
  content = json.dumps(config, indent=2) + "\n"
  safe_files.write(folder / hugging_face.CONFIG, content.encode())


def _unpermuted(kernel: np.ndarray, heads: int) -> np.ndarray:
  """Undoes the order of rows, which alternates between halves of a head."""
  rows, columns = kernel.shape
  apart = kernel.reshape(heads, rows // heads // 2, 2, columns)
  return apart.swapaxes(1, 2).reshape(rows, columns)


def _config(fields: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the content of `config.json`."""
  if (kind := fields["general.architecture"]) != "llama":
    raise ValueError(f"expected the architecture llama, got {kind!r:.60}.")
  own = {
    key.removeprefix("llama."): x
    for key, x in fields.items()
    if key.startswith("llama.")
  }
  if scaled := [x for x in own if x.startswith("rope.scaling")]:
    raise ValueError(f"expected rotary positions as trained, got {scaled[0]}.")
  heads = own["attention.head_count"]
  return {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": len(fields["tokenizer.ggml.tokens"]),
    "hidden_size": own["embedding_length"],
    "num_hidden_layers": own["block_count"],
    "num_attention_heads": heads,
    "num_key_value_heads": own.get("attention.head_count_kv", heads),
    "intermediate_size": own["feed_forward_length"],
    "max_position_embeddings": own["context_length"],
    "rms_norm_eps": own["attention.layer_norm_rms_epsilon"],
    "rope_theta": own.get("rope.freq_base", 10_000.0),
    "hidden_act": "silu",
    "bos_token_id": fields.get("tokenizer.ggml.bos_token_id"),
    "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
    "dtype": "float32",
  }


def _tokenizer(fields: Mapping[str, Any]) -> Any:
  """Returns a `tokenizers.Tokenizer` of byte pairs."""
  from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
  )

  kind = fields["tokenizer.ggml.model"], fields["tokenizer.ggml.pre"]
  if kind not in (("gpt2", "smollm"), ("gpt2", "gpt-2")):
    raise ValueError(f"expected the tokenizer of SmolLM or GPT-2, got {kind}.")
  if fields.get("tokenizer.ggml.add_bos_token"):
    raise ValueError("expected a tokenizer that adds no start token.")
  tokens = fields["tokenizer.ggml.tokens"]
  merges = [tuple(x.split(" ")) for x in fields["tokenizer.ggml.merges"]]
  ids = {token: i for i, token in enumerate(tokens)}
  tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges))
  steps: list[Any] = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
  if kind[1] == "smollm":
    steps.insert(0, pre_tokenizers.Digits(individual_digits=True))
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
  tokenizer.decoder = decoders.ByteLevel()
  types = fields["tokenizer.ggml.token_type"]
  tokenizer.add_special_tokens(
    [
      AddedToken(token, special=True, normalized=False)
      for token, x in zip(tokens, types, strict=True)
      if x == _CONTROL
    ]
  )
  return tokenizer
