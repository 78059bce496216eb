"""Products of arrays that accumulate in float32, forwards and backwards."""

import functools
import re

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from prompt_tuning.types import Array, DType

# A product of at most this many rows takes the time of reading the matrix.
_FEW = 32


def _einsum(equation: str, a: Array, b: Array, dtype: DType) -> Array:
  """Multiplies two arrays of one dtype, accumulating in float32.

  The gradient does the same. Plain `jnp.einsum` would compute it from a
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
  operands, axes = equation.split("->")
  sums_last = b.ndim == 2 and operands[-1] not in axes
  is_few = sums_last and a.size // a.shape[-1] <= _FEW
  on_cpu = functools.partial(product, of=jnp.float32)
  if is_few and b.dtype == jnp.bfloat16:
    on_cpu = functools.partial(_of_few_rows, equation, dtype=dtype)
  elif dtype == jnp.float32:
    return on_cpu(a, b)
  # Other matrix units accumulate in float32 for any dtype of the result. With
  # float32 results, devices that share a product would exchange twice the
  # bytes, and product by product, because a cast would precede their sum.
  default = functools.partial(product, of=dtype)
  return lax.platform_dependent(a, b, cpu=on_cpu, default=default)


def _of_few_rows(equation: str, a: Array, b: Array, dtype: DType) -> Array:
  """Multiplies a few rows by a matrix [out, in] of bfloat16, on a CPU.

  As the first operand, the matrix is read once. As the second, XLA would write
  it in another order first, which takes longer than the product.
  """
  # Otherwise XLA would convert the whole matrix to float32 ahead of a loop.
  a, b = lax.optimization_barrier((a, b))
  a_axes, b_axes, axes = re.split(",|->", equation)
  out = b_axes[0]
  turned = f"{b_axes},{a_axes}->{out}{axes.replace(out, '')}"
  found = jnp.einsum(turned, b, a, preferred_element_type=jnp.float32)
  # Otherwise XLA would swap the operands back.
  found = lax.optimization_barrier(found)
  return jnp.moveaxis(found, 0, axes.index(out)).astype(dtype)


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
