"""Parameters with named axes; those that methods add are in float32."""

from collections.abc import Sequence

import flax.linen as nn
from flax.linen import partitioning
import jax.numpy as jnp

from prompt_tuning.types import Array, DType, Initializer

# For kernels whose products should be about as large as their inputs.
KERNEL_INIT = nn.initializers.variance_scaling(1.0, "fan_in", "normal")


def parameter(
  name: str,
  init: Initializer,
  shape: Sequence[int],
  axes: Sequence[str],
  dtype: DType = jnp.float32,
  module: nn.Module | None = None,
) -> Array:
  """Returns a parameter of a module, by default the one being called."""
  return partitioning.param_with_axes(
    name,
    init,
    tuple(shape),
    jnp.dtype(dtype),
    axes=tuple(axes),
    module=module,
  )
