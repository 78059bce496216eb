"""Configurations of Hugging Face decoders."""

from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any

from prompt_tuning.models.decoder.config import DecoderConfig
from prompt_tuning.models.rotary import Rope
from t5x.files import parsing

# Settings of each family that its configurations do not spell out.
_FAMILIES: dict[str, dict[str, Any]] = {
  "llama": {},
  "mistral": {},
  "qwen2": {"has_qkv_bias": True},
  "qwen3": {"has_qk_norm": True},
  "gemma": {},
  "gemma2": {"has_post_norms": True},
  "gemma3_text": {"has_post_norms": True, "has_qk_norm": True},
}
MODEL_TYPES = tuple(_FAMILIES)
REMEDY = (
  "If the file is whole, this model is not supported: choose another one."
)
# The copy of a tied head, and what follows from the configuration.
UNREAD = r"lm_head\.weight|.*\.rotary_emb\.inv_freq"
_GEMMA = {"norm_offset": 1, "scales_embedding": True}
# Settings that the network computes in one way only.
_FIXED = {
  "attention_bias": False,
  "mlp_bias": False,
  "use_sliding_window": False,
  "use_bidirectional_attention": False,
}
# Far above that of any model, and small enough to count with.
_MAX_SIZE = 10**7
_SIZES = {
  "vocab_size": "vocab_size",
  "emb_dim": "hidden_size",
  "num_heads": "num_attention_heads",
  "num_layers": "num_hidden_layers",
  "mlp_dim": "intermediate_size",
}
# Layers between those without a window, in files that do not list the layers.
_GLOBAL_EVERY = {"gemma2": 2, "gemma3_text": 6}


def read_config(file: pathlib.Path, content: Mapping[str, Any]) -> Any:
  """Returns the `DecoderConfig` of a configuration.

  Args:
    file: Its file, for messages.
    content: The file's content, whose `model_type` is one of `MODEL_TYPES`.

  Raises:
    ValueError: if our network does not compute the model.
  """
  for name, expected in _FIXED.items():
    if (value := content.get(name, expected)) not in (expected, None):
      raise ValueError(f"{file}: expected {name} {expected}, got {value}.")
  with parsing.of(file, "the configuration of a decoder", REMEDY):
    return _config(content)


def _config(content: Mapping[str, Any]) -> DecoderConfig:
  family = content["model_type"]
  is_gemma = family.startswith("gemma")
  sizes = {ours: content[theirs] for ours, theirs in _SIZES.items()}
  heads = sizes["num_heads"]
  sizes["num_kv_heads"] = content.get("num_key_value_heads") or heads
  sizes["head_dim"] = content.get("head_dim") or sizes["emb_dim"] // heads
  for size in sizes.values():
    if type(size) is not int or not 1 <= size <= _MAX_SIZE:
      raise ValueError(f"expected sizes from 1, got {size!r:.60}.")
  act = content.get("hidden_activation") or content.get("hidden_act", "silu")
  known = ("gelu", "gelu_pytorch_tanh") if is_gemma else ("silu",)
  if act not in known:
    raise ValueError(f"expected the activation {known[-1]}, got {act!r:.60}.")
  window, global_every = _windows(content, family)
  ropes = _ropes(content)
  tied = content.get("tie_word_embeddings", is_gemma)
  return DecoderConfig(
    **sizes,
    **_FAMILIES[family] | (_GEMMA if is_gemma else {}),
    query_scale=content.get("query_pre_attn_scalar", sizes["head_dim"]) ** -0.5,
    mlp_activations=("gelu" if is_gemma else "silu", "linear"),
    logits_via_embedding=bool(tied),
    norm_epsilon=content["rms_norm_eps"],
    attention_soft_cap=content.get("attn_logit_softcapping"),
    logit_soft_cap=content.get("final_logit_softcapping"),
    rope=ropes[0],
    local_rope=ropes[1],
    window=window,
    global_every=global_every,
  )


def _windows(content: Mapping[str, Any], family: str) -> tuple[int | None, int]:
  """Returns the window, and the layers without it; see `DecoderConfig`."""
  window, layers = content.get("sliding_window"), content["num_hidden_layers"]
  every = content.get("sliding_window_pattern", _GLOBAL_EVERY.get(family, 0))
  kinds = content.get("layer_types")
  # In these, transformers ignores a window.
  if family in ("llama", "gemma") or (family[:4] == "qwen" and not kinds):
    return None, 0
  if window is None or not kinds:
    return window, every if window else 0
  is_global = [x != "sliding_attention" for x in kinds]
  if all(is_global):
    return None, 0
  every = is_global.index(True) + 1 if any(is_global) else 0
  if is_global != [bool(every) and (i + 1) % every == 0 for i in range(layers)]:
    raise ValueError(
      "expected every layer, or all but each n-th, to have a window, got "
      f"layer_types {kinds!r:.200}."
    )
  return window, every


def _ropes(content: Mapping[str, Any]) -> tuple[Rope, Rope | None]:
  """Returns the rotary positions, and those of layers with a window."""
  given = content.get("rope_parameters")
  if given and "full_attention" in given:
    return _rope(given["full_attention"]), _rope(given["sliding_attention"])
  given = given or content.get("rope_scaling") or {}
  rope = _rope({"rope_theta": content.get("rope_theta", 10_000.0), **given})
  if (theta := content.get("rope_local_base_freq")) is None:
    return rope, None
  return rope, Rope(theta)


def _rope(given: Mapping[str, Any]) -> Rope:
  kind = given.get("rope_type", given.get("type", "default"))
  rope = Rope(given["rope_theta"])
  if kind == "default":
    return rope
  if kind not in ("linear", "llama3"):
    raise ValueError(
      f"expected rope_type default, linear or llama3, got {kind!r:.60}."
    )
  rope = dataclasses.replace(rope, factor=given["factor"])
  if kind == "linear":
    return rope
  names = ("low_freq_factor", "high_freq_factor")
  length = given["original_max_position_embeddings"]
  low, high = (given[name] for name in names)
  return dataclasses.replace(rope, bands=(low, high, length))
