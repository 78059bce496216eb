"""The parameters of a T5 1.1 under Hugging Face's names."""

import re

from prompt_tuning.models.t5.config import TOKEN_EMBEDDING, T5Config
from prompt_tuning.models.t5.network import Transformer, parameter_shapes

_SUBLAYERS = {
  "encoder": {
    "pre_attention_layer_norm/scale": "layer.0.layer_norm",
    "attention": "layer.0.SelfAttention",
    "pre_mlp_layer_norm/scale": "layer.1.layer_norm",
    "mlp": "layer.1.DenseReluDense",
  },
  "decoder": {
    "pre_self_attention_layer_norm/scale": "layer.0.layer_norm",
    "self_attention": "layer.0.SelfAttention",
    "pre_cross_attention_layer_norm/scale": "layer.1.layer_norm",
    "encoder_decoder_attention": "layer.1.EncDecAttention",
    "pre_mlp_layer_norm/scale": "layer.2.layer_norm",
    "mlp": "layer.2.DenseReluDense",
  },
}
_KERNELS = {"query": "q", "key": "k", "value": "v", "out": "o"}
_LAYER_PARAMETER = re.compile(
  r"(?P<stack>encoder|decoder)/layers_(?P<layer>\d+)/"
  r"(?:(?P<norm>\w+/scale)|(?P<sublayer>\w+)/(?P<kernel>\w+)/kernel)"
)


def hugging_face_name(name: str) -> str:
  """Returns the name of a parameter in a Hugging Face T5's state dict.

  Args:
    name: T5X's name in a T5 1.1: "encoder/layers_0/attention/query/kernel".
  """
  bias = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
  top_level = {
    TOKEN_EMBEDDING: "shared.weight",
    "decoder/logits_dense/kernel": "lm_head.weight",
  }
  for stack in _SUBLAYERS:
    top_level[f"{stack}/{stack}_norm/scale"] = (
      f"{stack}.final_layer_norm.weight"
    )
    top_level[f"{stack}/relpos_bias/rel_embedding"] = f"{stack}.{bias}"
  if name in top_level:
    return top_level[name]
  match = _LAYER_PARAMETER.fullmatch(name)
  assert match, f"{name} is a parameter of a T5 1.1"
  sublayer = _SUBLAYERS[match["stack"]][match["norm"] or match["sublayer"]]
  kernel = match["kernel"]
  leaf = f".{_KERNELS.get(kernel, kernel)}" if kernel else ""
  return f"{match['stack']}.block.{match['layer']}.{sublayer}{leaf}.weight"


def is_transposed(name: str) -> bool:
  """Returns whether Hugging Face transposes the parameter with T5X's name."""
  return name.endswith(("/kernel", "/rel_embedding"))


def shapes(config: T5Config) -> dict[str, tuple[int, ...]]:
  """Returns T5X's name -> shape for every parameter of the network."""
  return parameter_shapes(Transformer(config))
