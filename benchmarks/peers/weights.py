"""One random T5 1.1 for all sides: ours is converted from transformers'."""

import pathlib
import sys

import numpy as np
import torch
import transformers

from peers import cases
from prompt_tuning.interop import checkpoint_conversion

# Standard deviation of a random prompt: as large as token embeddings.
_PROMPT_STD = 1.0


def make(size: str, folder: pathlib.Path) -> None:
  """Writes `hf/`, `t5x/` and `prompts.npy`, [8, P, H], if they are not there.

  Args:
    size: A key of `cases.SIZES`.
    folder: Where.
  """
  prompts = folder / "prompts.npy"
  if prompts.exists():
    return
  sizes = cases.SIZES[size]
  torch.manual_seed(0)
  model = transformers.T5ForConditionalGeneration(
    transformers.T5Config(
      vocab_size=cases.VOCAB_SIZE,
      d_model=sizes["emb_dim"],
      num_heads=sizes["num_heads"],
      d_kv=sizes["head_dim"],
      d_ff=sizes["mlp_dim"],
      num_layers=sizes["num_layers"],
      num_decoder_layers=sizes["num_layers"],
      feed_forward_proj="gated-gelu",
      dropout_rate=0.0,
      tie_word_embeddings=False,
      decoder_start_token_id=0,
      scale_decoder_outputs=False,
    )
  )
  # transformers 5 ties the head of a model that is made from a configuration.
  head = torch.randn(cases.VOCAB_SIZE, sizes["emb_dim"])
  model.lm_head.weight = torch.nn.Parameter(head / sizes["emb_dim"] ** 0.5)
  model.all_tied_weights_keys.pop("lm_head.weight", None)
  model.save_pretrained(folder / "hf")
  checkpoint_conversion.convert(
    checkpoint_conversion.open_model("hf", str(folder / "hf")),
    "t5x",
    str(folder / "t5x"),
  )
  shape = (cases.PROMPTS, 100, sizes["emb_dim"])
  np.save(
    prompts,
    np.random.default_rng(0).normal(0, _PROMPT_STD, shape).astype(np.float32),
  )


if __name__ == "__main__":
  make(sys.argv[1], pathlib.Path(sys.argv[2]))
