"""Small random T5 1.1s of transformers', their heads untied."""

import dataclasses

import torch
import transformers

from prompt_tuning.interop import t5_names
from prompt_tuning.models.t5.config import T5Config

# For our network.
CONFIG = T5Config(
  vocab_size=64,
  num_heads=3,
  emb_dim=16,
  head_dim=6,
  mlp_dim=24,
  num_encoder_layers=3,
  num_decoder_layers=2,
  dtype="float32",
  dropout_rate=0.0,
)
# The rows and layers tell a ByT5.
CONFIGS = {
  "t5": CONFIG,
  "mt5": CONFIG,
  "byt5": dataclasses.replace(CONFIG, vocab_size=384, num_decoder_layers=1),
}


def make(seed: int = 0, family: str = "t5") -> transformers.PreTrainedModel:
  torch.manual_seed(seed)
  config, name = CONFIGS[family], "MT5" if family == "mt5" else "T5"
  theirs = getattr(transformers, f"{name}Config")(
    **{name: getattr(config, x) for x, name in t5_names.SIZES.items()},
    feed_forward_proj="gated-gelu",
    dropout_rate=0.0,
    tie_word_embeddings=False,
    decoder_start_token_id=0,
  )
  model = getattr(transformers, f"{name}ForConditionalGeneration")(theirs)
  # transformers 5 ties the head of a model that is made from a configuration.
  model.lm_head.weight = torch.nn.Parameter(torch.randn(config.vocab_size, 16))
  model.all_tied_weights_keys.pop("lm_head.weight", None)
  for name, parameter in model.named_parameters():
    if "layer_norm" in name:
      torch.nn.init.uniform_(parameter, 0.5, 1.5)
  return model.eval()
