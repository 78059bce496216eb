"""The parameters of a T5 1.1 under Hugging Face's names."""

from collections.abc import Mapping
import functools

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
_OTHERS = {
  TOKEN_EMBEDDING: "shared",
  "decoder/logits_dense/kernel": "lm_head",
  **{f"{x}/{x}_norm/scale": f"{x}.final_layer_norm" for x in _SUBLAYERS},
  **{
    f"{stack}/relpos_bias/rel_embedding": (
      f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias"
    )
    for stack in _SUBLAYERS
  },
}


def hugging_face_name(name: str) -> str:
  """Returns the name of a parameter in a Hugging Face T5's state dict.

  Args:
    name: T5X's name in a T5 1.1: "encoder/layers_0/attention/query/kernel".
  """
  if name in _OTHERS:
    return f"{_OTHERS[name]}.weight"
  stack, layer, sublayer, leaf, *_ = name.split("/")
  place = f"{stack}.block.{layer.removeprefix('layers_')}"
  norm = _SUBLAYERS[stack].get(f"{sublayer}/{leaf}")
  if norm is not None:
    return f"{place}.{norm}.weight"
  kernel = _KERNELS.get(leaf, leaf)
  return f"{place}.{_SUBLAYERS[stack][sublayer]}.{kernel}.weight"


def is_transposed(name: str) -> bool:
  """Returns whether Hugging Face transposes the parameter with T5X's name."""
  return name.endswith(("/kernel", "/rel_embedding"))


@functools.lru_cache(maxsize=8)
def shapes(config: T5Config) -> Mapping[str, tuple[int, ...]]:
  """Returns T5X's name -> shape for every parameter of the network."""
  return parameter_shapes(Transformer(config))


def differences(
  expected: Mapping[str, tuple[int, ...]], got: Mapping[str, tuple[int, ...]]
) -> list[str]:
  """Lists the parameters that are missing, too many, or of another shape."""
  return [
    f"{name}: expected {expected.get(name)}, got {got.get(name)}"
    for name in sorted(expected.keys() | got.keys())
    if expected.get(name) != got.get(name)
  ]
