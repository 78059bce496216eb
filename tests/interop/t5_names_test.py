"""Hugging Face's names of T5X's parameters."""

import pytest

from prompt_tuning.interop import t5_names
from prompt_tuning.models.t5.config import T5Config


def test_every_parameter_has_its_own_name():
  """`transformers_test` compares the names with the models'."""
  config = T5Config(32, 8, 2, 3, 2, head_dim=4, mlp_dim=16)
  names = [t5_names.hugging_face_name(x) for x in t5_names.shapes(config)]
  assert len(set(names)) == len(names) == 9 * 3 + 14 * 2 + 6


@pytest.mark.parametrize(
  ("name", "expected"),
  [
    (
      "decoder/layers_1/encoder_decoder_attention/out/kernel",
      "decoder.block.1.layer.1.EncDecAttention.o.weight",
    ),
    (
      "encoder/layers_0/pre_mlp_layer_norm/scale",
      "encoder.block.0.layer.1.layer_norm.weight",
    ),
    (
      "decoder/relpos_bias/rel_embedding",
      "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    ),
  ],
)
def test_names(name, expected):
  assert t5_names.hugging_face_name(name) == expected
