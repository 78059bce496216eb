"""T5X's names and Hugging Face's."""

import pytest

from prompt_tuning.interop import t5_names
from prompt_tuning.models.t5.layers import T5Config

CONFIG = T5Config(
  vocab_size=32,
  emb_dim=8,
  num_heads=2,
  head_dim=4,
  mlp_dim=16,
  num_encoder_layers=3,
  num_decoder_layers=2,
)


@pytest.mark.parametrize(
  "module",
  [
    "enc/block.0/layer.2/DenseReluDense/wo",
    "enc/block.0/layer.0/SelfAttention/r",
    "enc/block.0/layer.0",
    "enc/pooler",
  ],
)
def test_refuses_an_unknown_module(module):
  with pytest.raises(ValueError, match=r"module of a T5 1\.1 encoder"):
    t5_names.t5x_name("encoder", module)


def test_names_of_both_sides_belong_together():
  names = list(t5_names.shapes(CONFIG))
  theirs = [t5_names.hugging_face_name(name) for name in names]
  assert len(set(theirs)) == len(names) == 9 * 3 + 14 * 2 + 6
  for name, their_name in zip(names, theirs, strict=True):
    stack, _, path = their_name.removesuffix(".weight").partition(".")
    module = path.replace(".", "/")
    for number in range(3):
      module = module.replace(f"/{number}", f".{number}")
    module = module or stack
    assert t5_names.t5x_name(stack, module) == name


def test_some_names():
  name = t5_names.hugging_face_name
  assert name("decoder/layers_1/encoder_decoder_attention/out/kernel") == (
    "decoder.block.1.layer.1.EncDecAttention.o.weight"
  )
  assert name("encoder/layers_0/pre_mlp_layer_norm/scale") == (
    "encoder.block.0.layer.1.layer_norm.weight"
  )
  assert name("decoder/relpos_bias/rel_embedding") == (
    "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
  )
