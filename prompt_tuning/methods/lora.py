"""LoRA (Hu et al., 2021): a product of two thin matrices beside a kernel."""

from typing import ClassVar

import flax.linen as nn
from pydantic import PositiveInt

from prompt_tuning.methods.einsum import einsum
from prompt_tuning.methods.parameters import KERNEL_INIT, parameter
from prompt_tuning.types import Array


class LowRankDelta(nn.Module):
  """The product `alpha / rank * inputs @ down @ up`; initially zero.

  The parameters are `down`, [in, rank], and `up`, [rank, features], in float32.
  They are laid out on the mesh as the kernel is.

  Attributes:
    rank: Columns of `down`.
    alpha: The product is multiplied by alpha / rank, so that the learning rate
      does not depend on the rank.
  """

  rank: PositiveInt
  alpha: float

  replicated_axes: ClassVar[tuple[str, ...]] = ("lora_rank",)

  @nn.compact
  def __call__(
    self, inputs: Array, features: int, axes: tuple[str, str]
  ) -> Array:
    """Returns the term to add to a kernel's product.

    Args:
      inputs: [B, T, in] The inputs of the kernel.
      features: Its output width.
      axes: The names of its two logical axes.

    Returns:
      [B, T, features] in the dtype of `inputs`.
    """
    dtype = inputs.dtype
    shape, zeros = (inputs.shape[-1], self.rank), nn.initializers.zeros
    down = parameter("down", KERNEL_INIT, shape, (axes[0], "lora_rank"))
    shape = (self.rank, features)
    up = parameter("up", zeros, shape, ("lora_rank", axes[1]))
    hidden = einsum("bti,ir->btr", inputs, down.astype(dtype), dtype)
    hidden *= self.alpha / self.rank
    return einsum("btr,ro->bto", hidden, up.astype(dtype), dtype)
