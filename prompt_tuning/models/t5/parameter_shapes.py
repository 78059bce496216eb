"""The shapes of a network's parameters, without making them."""

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp


def parameter_shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
  """Returns path -> shape of every parameter that a network makes.

  Args:
    network: A `network.Transformer`, with whatever a method adds to it.

  Returns:
    Such as {"encoder/layers_0/attention/query/kernel": (512, 384)}.
  """
  tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  variables = jax.eval_shape(
    lambda rng, tokens: network.init(
      rng, tokens, tokens, tokens, enable_dropout=False
    ),
    jax.random.key(0),
    tokens,
  )
  flat = traverse_util.flatten_dict(variables["params"], sep="/")
  return {path: leaf.shape for path, leaf in flat.items()}
