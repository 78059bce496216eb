"""The parameters of a T5 1.1 under T5X's names and under Hugging Face's."""

import re

from prompt_tuning.models.t5.config import T5Config
from prompt_tuning.models.t5.network import Transformer, parameter_shapes

_SUBLAYERS = {
  ("encoder", "layer.0/layer_norm"): "pre_attention_layer_norm/scale",
  ("encoder", "layer.0/SelfAttention"): "attention",
  ("encoder", "layer.1/layer_norm"): "pre_mlp_layer_norm/scale",
  ("encoder", "layer.1/DenseReluDense"): "mlp",
  ("decoder", "layer.0/layer_norm"): "pre_self_attention_layer_norm/scale",
  ("decoder", "layer.0/SelfAttention"): "self_attention",
  ("decoder", "layer.1/layer_norm"): "pre_cross_attention_layer_norm/scale",
  ("decoder", "layer.1/EncDecAttention"): "encoder_decoder_attention",
  ("decoder", "layer.2/layer_norm"): "pre_mlp_layer_norm/scale",
  ("decoder", "layer.2/DenseReluDense"): "mlp",
}
_SUBLAYER_MODULES = {
  (stack, ours): theirs for (stack, theirs), ours in _SUBLAYERS.items()
}
_KERNELS = {"q": "query", "k": "key", "v": "value", "o": "out"} | {
  name: name for name in ("wi_0", "wi_1", "wo")
}
_KERNEL_MODULES = {ours: theirs for theirs, ours in _KERNELS.items()}
_BLOCK_MODULE = re.compile(
  r"block\.(?P<block>\d+)/(?P<sublayer>layer\.\d+/\w+)"
  rf"(?:/(?P<leaf>{'|'.join(_KERNELS)}))?$"
)
_LAYER_PARAMETER = re.compile(
  r"(?P<stack>encoder|decoder)/layers_(?P<layer>\d+)/"
  r"(?:(?P<norm>\w+/scale)|(?P<sublayer>\w+)/(?P<kernel>\w+)/kernel)"
)


def t5x_name(stack: str, module: str) -> str:
  """Returns the T5X name of the one parameter of a Hugging Face T5 module.

  Args:
    stack: "encoder" or "decoder", the stack that the module belongs to.
    module: the module's path below the model, joined by "/", with any prefix:
      "enc/block.0/layer.0/SelfAttention/q".

  Raises:
    ValueError: if T5 1.1 has no such module.
  """
  top_level = {
    "embed_tokens": "token_embedder/embedding",
    "shared": "token_embedder/embedding",
    "final_layer_norm": f"{stack}/{stack}_norm/scale",
    "lm_head": "decoder/logits_dense/kernel",
    "relative_attention_bias": f"{stack}/relpos_bias/rel_embedding",
  }
  leaf = module.rpartition("/")[2]
  if leaf in top_level:
    return top_level[leaf]
  match = _BLOCK_MODULE.search(module)
  sublayer = match and _SUBLAYERS.get((stack, match["sublayer"]))
  if not match or not sublayer:
    raise ValueError(f"Expected a module of a T5 1.1 {stack}, got {module!r}.")
  layer = f"{stack}/layers_{match['block']}"
  if match["leaf"] is None:
    return f"{layer}/{sublayer}"
  return f"{layer}/{sublayer}/{_KERNELS[match['leaf']]}/kernel"


def hugging_face_name(name: str) -> str:
  """Returns the name of a parameter in a Hugging Face T5's state dict.

  Args:
    name: T5X's, of a T5 1.1: "encoder/layers_0/attention/query/kernel".
  """
  bias = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
  top_level = {
    "token_embedder/embedding": "shared.weight",
    "decoder/logits_dense/kernel": "lm_head.weight",
  }
  for stack in ("encoder", "decoder"):
    top_level[f"{stack}/{stack}_norm/scale"] = (
      f"{stack}.final_layer_norm.weight"
    )
    top_level[f"{stack}/relpos_bias/rel_embedding"] = f"{stack}.{bias}"
  if name in top_level:
    return top_level[name]
  match = _LAYER_PARAMETER.fullmatch(name)
  assert match, f"{name} is a parameter of a T5 1.1"
  sublayer = match["norm"] or match["sublayer"]
  module = _SUBLAYER_MODULES[match["stack"], sublayer].replace("/", ".")
  kernel = f".{_KERNEL_MODULES[match['kernel']]}" if match["kernel"] else ""
  return f"{match['stack']}.block.{match['layer']}.{module}{kernel}.weight"


def is_transposed(name: str) -> bool:
  """Whether Hugging Face stores a parameter, by T5X's name, transposed."""
  return name.endswith(("/kernel", "/rel_embedding"))


def shapes(config: T5Config) -> dict[str, tuple[int, ...]]:
  """Returns T5X name -> shape for every parameter of the network."""
  return parameter_shapes(Transformer(config))
