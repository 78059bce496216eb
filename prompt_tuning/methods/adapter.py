"""Adapters (Houlsby et al., 2019): a bottleneck after a block's last kernel."""

from typing import ClassVar

import flax.linen as nn
from pydantic import PositiveInt

from prompt_tuning.methods.einsum import einsum
from prompt_tuning.methods.parameters import KERNEL_INIT, parameter
from prompt_tuning.types import Array


class Bottleneck(nn.Module):
  """A small MLP whose output is added to its input; initially zero.

  It is placed before the residual sum, as in the paper. T5 normalises before a
  block, not after it, so no norm is added to train. The parameters are `down`,
  [H, bottleneck], `up`, [bottleneck, H], and their biases, in float32.

  Attributes:
    bottleneck: Width of the MLP.
  """

  bottleneck: PositiveInt

  replicated_axes: ClassVar[tuple[str, ...]] = ("adapter",)

  @nn.compact
  def __call__(self, inputs: Array) -> Array:
    """[B, T, H] -> [B, T, H] in the dtype of `inputs`."""
    dtype = inputs.dtype
    width, zeros = inputs.shape[-1], nn.initializers.zeros

    def own(name, init, *named_sizes):
      axes, shape = zip(*named_sizes, strict=True)
      return parameter(name, init, shape, axes).astype(dtype)

    outer, inner = ("embed", width), ("adapter", self.bottleneck)
    down = own("down", KERNEL_INIT, outer, inner)
    down_bias = own("down_bias", zeros, inner)
    up = own("up", zeros, inner, outer)
    up_bias = own("up_bias", zeros, outer)
    hidden = einsum("bth,ha->bta", inputs, down, dtype)
    hidden = nn.gelu(hidden + down_bias[None, None, :])
    outputs = einsum("bta,ah->bth", hidden, up, dtype)
    return inputs + outputs + up_bias[None, None, :]
