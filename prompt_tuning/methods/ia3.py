"""IA3 (Liu et al., 2022): learned factors of keys, values and MLP features."""

import flax.linen as nn

from prompt_tuning.methods.parameters import parameter
from prompt_tuning.types import Array


class Rescale(nn.Module):
  """A factor `scale` for each feature, [features] in float32; initially one.

  In a gated MLP it multiplies the branch with the activation function, which
  equals multiplying the product of the branches.
  """

  @nn.compact
  def __call__(self, inputs: Array, axes: tuple[str]) -> Array:
    """Rescales.

    Args:
      inputs: [B, T, features]
      axes: The name of the logical axis of the features.

    Returns:
      [B, T, features] in the dtype of `inputs`.
    """
    scale = parameter("scale", nn.initializers.ones, inputs.shape[-1:], axes)
    return inputs * scale.astype(inputs.dtype)[None, None, :]
