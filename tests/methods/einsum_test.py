"""Tests of products of few rows and of int8 inputs against NumPy's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning.methods.einsum import einsum, rounded_einsum

EQUATION = "bti,io->bto"
RNG = np.random.default_rng(0)
# Rows of several magnitudes and one of zeros.
INPUTS = RNG.normal(size=(2, 4, 40)) * [[[0], [1e-20], [1], [1e20]]]
KERNEL = RNG.integers(-127, 128, (40, 6)).astype(np.int8)


def _multiply(inputs, dtype):
  return jax.jit(lambda x: rounded_einsum(EQUATION, x, KERNEL, dtype))(inputs)


def test_sums_of_integers_get_the_scale_of_their_row():
  inputs = INPUTS.astype(np.float32)
  scale = np.abs(inputs).max(-1, keepdims=True) / 127
  rounded = np.rint(inputs / np.where(scale == 0, 1, scale)).astype(np.int64)
  assert {rounded.min(), rounded.max()} == {-127, 127}
  expected, found = (rounded @ KERNEL) * scale, _multiply(inputs, jnp.float32)
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  exact = inputs.astype(np.float64) @ KERNEL
  error = np.abs(found - exact).max(-1)
  assert (error <= 0.02 * np.abs(exact).max(-1)).all()
  halves = inputs.astype(jnp.bfloat16)
  np.testing.assert_array_equal(
    _multiply(halves, jnp.bfloat16),
    _multiply(halves.astype(np.float32), jnp.bfloat16),
  )


def test_integers_are_multiplied_as_integers():
  program = str(jax.make_jaxpr(_multiply, static_argnums=1)(INPUTS, "float32"))
  assert "preferred_element_type=int32" in program
  assert "i8[2,4,40]" in program


def test_gradient_is_that_of_the_product_in_floats():
  inputs = jnp.asarray(INPUTS, jnp.bfloat16)
  gradient = jnp.asarray(RNG.normal(size=(2, 4, 6)), jnp.bfloat16)
  found, expected = (
    jax.vjp(lambda x, f=f: f(EQUATION, x, KERNEL, jnp.bfloat16), inputs)[1](
      gradient
    )[0]
    for f in (rounded_einsum, einsum)
  )
  assert found.dtype == jnp.bfloat16
  np.testing.assert_array_equal(found, expected)


def test_a_value_that_is_not_finite_stays_in_its_row_and_shows():
  for value in (np.nan, np.inf):
    inputs = INPUTS.astype(np.float32)
    inputs[1, 2, 3] = value
    is_finite = np.isfinite(_multiply(inputs, jnp.float32)).all(-1)
    assert (is_finite == [[1, 1, 1, 1], [1, 1, 0, 1]]).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("rows", [1, 4, 40])
def test_few_rows_have_the_product_and_gradient_of_many(rows, dtype):
  inputs, gradient = (
    jnp.asarray(RNG.normal(size=(rows, 1, x)), jnp.bfloat16) for x in (40, 6)
  )
  matrix = jnp.asarray(RNG.normal(size=(6, 40)), jnp.bfloat16)

  def multiply(x, matrix):
    return einsum("bti,oi->bto", x, matrix, dtype)

  found, backward = jax.vjp(multiply, inputs, matrix)
  a, b, change = (np.asarray(x, np.float64) for x in (inputs, matrix, gradient))
  expected = a @ b.T
  np.testing.assert_allclose(found.astype(float), expected, rtol=1e-2, atol=0.1)
  assert found.dtype == dtype
  of_row = jax.vmap(lambda x: multiply(x[None], matrix)[0])(inputs)
  np.testing.assert_allclose(of_row, found, rtol=1e-2, atol=0.1)
  of_inputs, of_matrix = backward(gradient.astype(dtype))
  np.testing.assert_allclose(
    of_inputs.astype(float), change @ b, rtol=1e-2, atol=0.1
  )
  expected = np.einsum("bto,bti->oi", change, a)
  np.testing.assert_allclose(
    of_matrix.astype(float), expected, rtol=1e-2, atol=0.1
  )
