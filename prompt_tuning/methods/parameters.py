"""Parameters that methods add: in float32, with named axes."""

from collections.abc import Sequence

import flax.linen as nn
from flax.linen import partitioning
import jax.numpy as jnp

from prompt_tuning.types import Array, Initializer

# For kernels whose products should be about as large as their inputs.
KERNEL_INIT = nn.initializers.variance_scaling(1.0, "fan_in", "normal")


def parameter(
  name: str, init: Initializer, shape: Sequence[int], axes: Sequence[str]
) -> Array:
  """Returns a parameter of the module whose compact method is running."""
  return partitioning.param_with_axes(
    name, init, tuple(shape), jnp.float32, axes=tuple(axes)
  )
