"""A test that the installed jaxlib computes right on a CPU."""

import jax
import jax.numpy as jnp
import numpy as np


def test_a_reduction_of_matrix_vector_products_is_right_under_jit():
  """jaxlib 0.10.2 is 0.8% off (https://github.com/jax-ml/jax/issues/39103)."""
  # One row more than XLA computes in one piece. Its square is exact.
  rows = np.zeros((32_769, 3), np.float32)
  rows[:, 0] = np.arange(len(rows))
  squared_norms = jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2))
  usual = {"xla_backend_optimization_level": 3}
  compiled = jax.jit(squared_norms, compiler_options=usual)
  np.testing.assert_array_equal(compiled(rows), rows[:, 0] ** 2)
