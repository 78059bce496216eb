"""Small random transformers models, one for each family."""

import pathlib
from typing import Any

import torch
import transformers

_SIZES = {
  "vocab_size": 64,
  "hidden_size": 16,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
  "num_hidden_layers": 3,
  "intermediate_size": 24,
  "max_position_embeddings": 64,
  "pad_token_id": 0,
  "bos_token_id": None,
  "eos_token_id": 1,
}
_GEMMA = {"head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 6}
_LLAMA_3 = {
  "rope_type": "llama3",
  "rope_theta": 1e4,
  "factor": 4.0,
  "low_freq_factor": 1.0,
  "high_freq_factor": 4.0,
  "original_max_position_embeddings": 16,
}
_GEMMA_3_ROPES = {
  "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
  "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
_GEMMA_3_LAYERS = ["sliding_attention", "sliding_attention", "full_attention"]
_GEMMA_2 = {
  **_GEMMA,
  "attn_logit_softcapping": 2.0,
  "final_logit_softcapping": 3.0,
}
_GEMMA_3 = {
  **_GEMMA,
  "rope_parameters": _GEMMA_3_ROPES,
  "layer_types": _GEMMA_3_LAYERS,
}
_IMAGES = {
  "model_type": "siglip_vision_model",
  **dict.fromkeys(("hidden_size", "intermediate_size", "patch_size"), 8),
  **dict.fromkeys(("num_hidden_layers", "num_attention_heads"), 1),
  "image_size": 16,
}
_T5 = {
  **{"vocab_size": 64, "d_model": 16, "d_kv": 6, "d_ff": 24, "num_heads": 3},
  **{"num_layers": 3, "num_decoder_layers": 2, "dropout_rate": 0.0},
  "feed_forward_proj": "gated-gelu",
  "tie_word_embeddings": False,
  "decoder_start_token_id": 0,
}
# Name -> the class of transformers' configuration, and its settings.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
  "llama": ("LlamaConfig", {"tie_word_embeddings": False}),
  "llama 3.1": (
    "LlamaConfig",
    {"tie_word_embeddings": True, "rope_parameters": _LLAMA_3},
  ),
  "mistral": (
    "MistralConfig",
    {"sliding_window": 4, "tie_word_embeddings": False},
  ),
  "qwen2": ("Qwen2Config", {"tie_word_embeddings": True}),
  "qwen3": ("Qwen3Config", {"head_dim": 8, "tie_word_embeddings": False}),
  "gemma": ("GemmaConfig", {"head_dim": 8}),
  "gemma2": ("Gemma2Config", _GEMMA_2),
  "gemma3": ("Gemma3TextConfig", _GEMMA_3),
}


def _both(encoder: dict[str, Any], **decoder: Any) -> dict[str, Any]:
  """Returns the settings of an encoder and of a decoder like it."""
  sizes = {**_SIZES, "bos_token_id": 2, **encoder}
  return {"encoder": sizes, "decoder": {**sizes, **decoder}}


_WITH_IMAGES = _both(_GEMMA_3)
FAMILIES |= {
  "t5gemma": ("T5GemmaConfig", _both(_GEMMA_2)),
  "t5gemma 9b-2b": (
    "T5GemmaConfig",
    {
      **_both(_GEMMA, hidden_size=24, num_hidden_layers=2, head_dim=6),
      "tie_word_embeddings": False,
    },
  ),
  "t5gemma2": (
    "T5Gemma2Config",
    {
      **_WITH_IMAGES,
      "encoder": {
        "text_config": _WITH_IMAGES["encoder"],
        "vision_config": _IMAGES,
        "mm_tokens_per_image": 4,
      },
    },
  ),
}


# The numbers of rows and layers distinguish a ByT5.
_T5S: dict[str, tuple[str, dict[str, Any]]] = {
  "t5": ("T5Config", _T5),
  "t5 1.0": (
    "T5Config",
    {**_T5, "feed_forward_proj": "relu", "tie_word_embeddings": True},
  ),
  "mt5": ("MT5Config", _T5),
  "byt5": ("T5Config", {**_T5, "vocab_size": 384, "num_decoder_layers": 1}),
}
FAMILIES |= _T5S


def make(family: str, folder: pathlib.Path) -> Any:
  """Makes a model with random parameters only, and saves it in shards."""
  name, settings = FAMILIES[family]
  sizes = {} if family in _T5S else _SIZES
  config = getattr(transformers, name)(**{**sizes, **settings})
  config._attn_implementation = "eager"
  torch.manual_seed(0)
  kind = "Seq2SeqLM" if config.is_encoder_decoder else "CausalLM"
  make_model = getattr(transformers, f"AutoModelFor{kind}").from_config
  model = make_model(config)
  if family in _T5S and not settings["tie_word_embeddings"]:
    # transformers 5 ties the head of a model made from a configuration.
    head = torch.zeros(config.vocab_size, config.d_model)
    model.lm_head.weight = torch.nn.Parameter(head)
    model.all_tied_weights_keys.pop("lm_head.weight", None)
  for parameter in model.parameters():
    offset = float(parameter.ndim == 1 and "gemma" not in family)
    torch.nn.init.normal_(parameter, offset, 0.3)
  model.eval().save_pretrained(folder, max_shard_size="10KB")
  return model
