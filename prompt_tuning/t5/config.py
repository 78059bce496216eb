"""The sizes of a T5 1.1, and the modules that a method adds to it."""

from collections.abc import Callable
import dataclasses
import re

import flax.linen as nn

from prompt_tuning.types import DType


@dataclasses.dataclass(frozen=True)
class T5Config:
  """Sizes and settings of a T5 1.1.

  Attributes:
    vocab_size: Rows of the embedding, V.
    emb_dim: Model width, H.
    num_heads: N.
    num_encoder_layers: L of the encoder.
    num_decoder_layers: L of the decoder.
    head_dim: D. N * D need not be H.
    mlp_dim: F.
    dtype: Of activations and matrix products (which accumulate in float32).
    param_dtype: Of the parameters. A prompt is float32 whatever this says.
    mlp_activations: Functions of flax.linen, or "linear"; the branches are
      multiplied with each other.
    dropout_rate: In [0, 1). One mask for all positions of an example.
    logits_via_embedding: Whether the embedding is the output head as well.
    relative_attention_num_buckets: Distances that a head tells apart.
    relative_attention_max_distance: In positions; the last bucket takes
      everything beyond.
    remat: Whether the backward pass computes each layer's activations again
      instead of keeping them.
  """

  vocab_size: int
  emb_dim: int
  num_heads: int
  num_encoder_layers: int
  num_decoder_layers: int
  head_dim: int
  mlp_dim: int
  dtype: DType = "bfloat16"
  param_dtype: DType = "float32"
  mlp_activations: tuple[str, ...] = ("gelu", "linear")
  dropout_rate: float = 0.1
  logits_via_embedding: bool = False
  relative_attention_num_buckets: int = 32
  relative_attention_max_distance: int = 128
  remat: bool = False


@dataclasses.dataclass(frozen=True)
class Injections:
  """Modules that a parameter-efficient method adds to a T5.

  A field is a module class (from gin, `@module.Class`), or None. It is called
  once for every place where it belongs, with `name` alone, inside the module
  that it extends, and so its parameters get a path below that module's. The
  names of logical axes that some are told, `axes`, are those of the base
  model's parameter there, so that theirs can lie on the mesh as it does.

  Attributes:
    prompt: `(tokens [B, T], embedded [B, T, H]) -> [P, H] or [B, P, H]`, put
      in front of the encoder's input. Path: `encoder/prompt`.
    prefix: `(L, H, N * D) -> L pairs of keys and values, [X, N * D] each`, put
      in front of those of the sequence, layer by layer; every query sees them.
      Paths: `encoder/attention_prefix`, `decoder/self_attention_prefix`,
      `decoder/encoder_decoder_attention_prefix`.
    delta: `(inputs [B, T, in], features, axes) -> [B, T, features]`, added to
      a kernel's product. Paths:
      `*/{query,key,value,out,wi_0,wi_1,wo}/delta`,
      `decoder/logits_dense/delta`.
    adapter: `[B, T, H] -> [B, T, H]`, follows the last kernel of an attention
      or MLP block. Paths: `*attention/adapter`, `*/mlp/adapter`.
    rescale: `([B, T, features], axes) -> [B, T, features]`, of keys and values
      before they are split into heads, and of the first branch of an MLP.
      Paths: `*attention/{key,value}_rescale`, `*/mlp/rescale`.
    where: A regular expression that must match the whole path of a module
      other than the prompt, for example ".*/(query|value)/delta". Elsewhere
      none is added.
  """

  prompt: Callable[..., nn.Module] | None = None
  prefix: Callable[..., nn.Module] | None = None
  delta: Callable[..., nn.Module] | None = None
  adapter: Callable[..., nn.Module] | None = None
  rescale: Callable[..., nn.Module] | None = None
  where: str = ".*"

  def build(
    self, factory: Callable[..., nn.Module] | None, owner: nn.Module, name: str
  ) -> nn.Module | None:
    """Makes a module in the compact method of `owner`, if one belongs there."""
    path = "/".join((*owner.path, name))
    if factory is None or not re.fullmatch(self.where, path):
      return None
    return factory(name=name)
