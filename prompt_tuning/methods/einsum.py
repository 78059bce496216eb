"""Products of arrays that accumulate in float32, forwards and backwards."""

import functools
import re

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from prompt_tuning.types import Array, DType


def _einsum(equation: str, a: Array, b: Array, dtype: DType) -> Array:
  """Multiplies two arrays of one dtype, accumulating in float32.

  So does its gradient. Plain `jnp.einsum` would compute the gradient from a
  bfloat16 and a float32 operand: a float32 product, slow where bfloat16 is
  fast.

  Args:
    equation: "a,b->c" with explicit axes, each of which is in two of the
      three.
    a: First operand.
    b: Second operand; or integers, which have no gradient.
    dtype: Dtype of the result.

  Returns:
    The product.
  """

  def product(a: Array, b: Array, of: DType) -> Array:
    return jnp.einsum(equation, a, b, preferred_element_type=of).astype(dtype)

  if jnp.issubdtype(b.dtype, jnp.integer):
    # If they did not depend on a layer's input, XLA on a CPU would convert the
    # weights of all layers ahead of the first, and keep them.
    b += lax.platform_dependent(
      a,
      cpu=lambda a: (0 * a.ravel()[0]).astype(b.dtype),
      default=lambda a: jnp.zeros((), b.dtype),
    )
    b = b.astype(a.dtype)
  if dtype == jnp.float32:
    return product(a, b, jnp.float32)
  # Other matrix units accumulate in float32 for any dtype of the result. With
  # float32 results, devices that share a product would exchange twice the
  # bytes, and product by product, because a cast would precede their sum.
  return lax.platform_dependent(
    a,
    b,
    cpu=functools.partial(product, of=jnp.float32),
    default=functools.partial(product, of=dtype),
  )


def _rounded_einsum(equation: str, a: Array, b: Array, dtype: DType) -> Array:
  """Rounds an array to int8 and multiplies it by integers, summing in int32.

  Each row has its own scale. The gradient is that of `einsum`, as if nothing
  were rounded.

  Args:
    equation: As for `einsum`. The last axis of `a` is summed over; its others
      are the first of the result.
    a: [..., in] Floats.
    b: The integers, int8.
    dtype: Dtype of the result.

  Returns:
    The product. NaN in a row of `a` makes its results NaN.
  """
  # On a CPU, the greatest of bfloat16 values takes ten times as long.
  a = a.astype(jnp.float32)
  largest = jnp.abs(a).max(axis=-1, keepdims=True)
  # Not 0 for a row of zeros; unlike `where`, this keeps NaN.
  scale = jnp.maximum(largest / 127, jnp.finfo(jnp.float32).tiny)
  rounded = jnp.rint(a / scale).astype(jnp.int8)
  sums = jnp.einsum(equation, rounded, b, preferred_element_type=jnp.int32)
  return (sums.astype(jnp.float32) * scale).astype(dtype)


einsum = jax.custom_vjp(_einsum, nondiff_argnums=(0, 3))
rounded_einsum = jax.custom_vjp(_rounded_einsum, nondiff_argnums=(0, 3))


def _einsum_forward(equation, a, b, dtype):
  return einsum(equation, a, b, dtype), (a, b)


def _rounded_einsum_forward(equation, a, b, dtype):
  return rounded_einsum(equation, a, b, dtype), (a, b)


def _einsum_backward(equation, dtype, operands, gradient):
  del dtype
  a, b = operands
  a_axes, b_axes, axes = re.split(",|->", equation)
  gradient = gradient.astype(a.dtype)
  of_a = einsum(f"{axes},{b_axes}->{a_axes}", gradient, b, a.dtype)
  if jnp.issubdtype(b.dtype, jnp.integer):
    return of_a, np.zeros(b.shape, jax.dtypes.float0)
  return of_a, einsum(f"{axes},{a_axes}->{b_axes}", gradient, a, b.dtype)


einsum.defvjp(_einsum_forward, _einsum_backward)
rounded_einsum.defvjp(_rounded_einsum_forward, _einsum_backward)
