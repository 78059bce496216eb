"""A small random T5 1.1 of transformers', its head untied."""

import torch
import transformers

from prompt_tuning.models.t5.config import T5Config

SIZES = {"vocab_size": 64, "num_heads": 3}
# The same for our network.
CONFIG = T5Config(
  **SIZES,
  emb_dim=16,
  head_dim=6,
  mlp_dim=24,
  num_encoder_layers=3,
  num_decoder_layers=2,
  dtype="float32",
  dropout_rate=0.0,
)


def make(seed: int = 0) -> transformers.T5ForConditionalGeneration:
  torch.manual_seed(seed)
  model = transformers.T5ForConditionalGeneration(
    transformers.T5Config(
      **SIZES,
      d_model=16,
      d_kv=6,
      d_ff=24,
      num_layers=3,
      num_decoder_layers=2,
      feed_forward_proj="gated-gelu",
      dropout_rate=0.0,
      tie_word_embeddings=False,
      decoder_start_token_id=0,
    )
  )
  # transformers 5 ties the head of a model that is made from a configuration.
  model.lm_head.weight = torch.nn.Parameter(torch.randn(64, 16))
  model.all_tied_weights_keys.pop("lm_head.weight", None)
  for name, parameter in model.named_parameters():
    if "layer_norm" in name:
      torch.nn.init.uniform_(parameter, 0.5, 1.5)
  return model.eval()
