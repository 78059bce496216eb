"""Fused kernels against the plain form, as far as a CPU can tell."""

import functools

import jax
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning.models import attention as attention_lib

# Not a whole number of tiles.
POSITIONS, HEAD_DIM = 130, 16


def operands(dtype, with_mask=True):
  keys = jax.random.split(jax.random.key(0), 5)
  shape = (2, 2, POSITIONS, HEAD_DIM)
  query, key, value, gradient = (
    jax.random.normal(k, shape).astype(dtype) for k in keys[:4]
  )
  bias = jax.random.normal(keys[4], (1, 2, POSITIONS, POSITIONS))
  lengths = np.array([POSITIONS, 70])
  mask = jnp.asarray(np.arange(POSITIONS) < lengths[:, None, None, None])
  return (query, key, value, bias), mask if with_mask else None, gradient


def results(kernel, arrays, mask, gradient):
  query, key, value, bias = arrays
  outputs, pull_back = jax.vjp(
    lambda *x: attention_lib.attention(*x, bias, mask, kernel),
    *(query, key, value),
  )
  return [np.asarray(x, np.float32) for x in (outputs, *pull_back(gradient))]


@pytest.fixture
def emulated(monkeypatch):
  """Runs kernels without their device: interpreted, or XLA's in their place."""
  fused = jax.nn.dot_product_attention

  def by_xla(*args, implementation, **kwargs):
    assert implementation == "cudnn"
    return fused(*args, implementation="xla", **kwargs)

  monkeypatch.setattr(jax.nn, "dot_product_attention", by_xla)
  with pltpu.force_tpu_interpret_mode():
    yield
  jax.clear_caches()


@pytest.mark.parametrize(
  ("kernel", "dtype", "with_mask", "tolerance"),
  [
    ("flash", "float32", True, 1e-4),
    ("flash", "bfloat16", False, 2e-2),
    ("cudnn", "bfloat16", True, 2e-2),
    ("cudnn", "bfloat16", False, 2e-2),
  ],
)
def test_outputs_and_gradients_are_those_of_the_plain_form(
  emulated, kernel, dtype, with_mask, tolerance
):
  case = operands(dtype, with_mask=with_mask)
  chosen = attention_lib.choose_kernel(kernel, *case[0][:2], case[1])
  assert chosen is attention_lib.KERNELS[kernel]
  exact = results(
    None,
    *jax.tree.map(
      lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x, case
    ),
  )
  for found, expected in zip(results(kernel, *case), exact, strict=True):
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert error < tolerance


def test_what_no_kernel_takes_goes_the_usual_way():
  """A bias that trains, few positions, masks of pairs: no kernel is run."""
  arrays, mask, _ = operands("bfloat16")
  short = [x[:, :, :40] for x in arrays[:3]]
  pairs = jnp.ones((1, 1, POSITIONS, POSITIONS), jnp.bool_)
  choose = functools.partial(attention_lib.choose_kernel, "cudnn")
  assert choose(*short[:2], None) is None
  assert choose(*arrays[:2], pairs) is None
  assert choose(arrays[0].astype("float32"), arrays[1], mask) is None

  def of_bias(bias):
    return attention_lib.attention(*arrays[:3], bias, mask, "cudnn").sum()

  # Neither kernel could run here.
  assert jnp.linalg.norm(jax.grad(of_bias)(arrays[3])) > 0
  with pytest.raises(ValueError, match="one of"):
    attention_lib.choose_kernel("falsh", *arrays[:2], mask)
