"""How programs are compiled for the devices of a mesh."""

import jax
import jax.numpy as jnp

from t5x import partitioning

LAYERS, ROWS, WIDTH = 6, 1024, 256


def test_what_is_computed_again_is_not_kept_until_then():
  """XLA's default order for CPUs computes it again at once."""

  @jax.checkpoint
  def activate(x):
    return jnp.tanh(x) * jnp.sin(x) * jnp.exp(-x)

  def objective(x, weights):
    for weight in weights:
      x = activate(x @ weight)
    return x.sum()

  x = jnp.ones((ROWS, WIDTH))
  weights = [jnp.ones((WIDTH, WIDTH))] * LAYERS
  partitioner = partitioning.PjitPartitioner(num_partitions=1)
  program = partitioner.partition(jax.grad(objective))
  temporaries = (
    program.trace(x, weights)
    .lower()
    .compile()
    .memory_analysis()
    .temp_size_in_bytes
  )
  # A product for each layer, and some for the layer that is worked on.
  assert temporaries < (LAYERS + 5) * x.nbytes
