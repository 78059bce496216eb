"""Attention as one function, for every platform.

In the fused kernels of accelerators no array of all scores leaves the chip, in
either pass. They have been compiled for accelerators and compared with the
plain form as far as a CPU can (the TPU kernel, interpreted), but have not run
on a device. So they are opt-in: `network.T5Config.attention_kernel`.
"""

from collections.abc import Callable
import functools
from typing import Any

from flax.linen import partitioning
import jax
from jax import lax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from prompt_tuning.methods.einsum import einsum
from prompt_tuning.models import blocked_attention
from prompt_tuning.models.blocked_attention import Gradients, Operands
from prompt_tuning.types import Array

Kernel = Callable[[Operands], Array]

# Queries and keys in a tile of the TPU kernel. Fewer, such as the small scores
# of a decoder, are not worth a kernel.
_TILE = 128
_AXES = ("batch", "heads", "length", "kv")


def attention(
  query: Array,
  key: Array,
  value: Array,
  bias: Array | None = None,
  mask: Array | None = None,
  kernel: str | None = None,
  soft_cap: float | None = None,
) -> Array:
  """Averages values by how well their keys match the queries.

  Scores and their softmax are float32. Products have operands in their own
  dtype and accumulate in float32. Neither pass keeps the weights: the backward
  pass computes them again. T5 drops weights with one mask for all queries,
  which equals dropping whole values.

  Args:
    query: [B, N, Q, D] Scores are not divided by sqrt(D).
    key: [B, N, K, D], or fewer heads, each for adjacent heads of queries.
    value: As `key`.
    bias: [1, N, Q, K] Added to the scores, float32. Its gradient is computed
      only if it depends on trainable parameters.
    mask: [B or 1, 1, Q or 1, K] True where a query sees a key. A query that
      sees nothing attends to everything equally.
    kernel: A key of `KERNELS`. By default, and if the kernel does not support
      the operands or the bias trains, a CPU computes blocks and other devices
      compute all scores at once.
    soft_cap: If given, all scores are computed at once, and become
      soft_cap * tanh(scores / soft_cap).

  Returns:
    [B, N, Q, D] in the dtype of the operands.
  """
  shape, groups = query.shape, query.shape[1] // key.shape[1]
  if groups > 1:
    # The queries of the heads that share a key become queries of one head.
    query = query.reshape(shape[0], key.shape[1], -1, shape[3])
    if mask is not None and mask.shape[2] > 1:
      mask = jnp.tile(mask, (1, 1, groups, 1))
  operands = (query, key, value, bias, mask)
  if soft_cap is None:
    outputs = _attention(*operands, kernel)
  else:
    capped = functools.partial(plain_forward, soft_cap=soft_cap)
    outputs = jax.checkpoint(capped)(operands)[0]
  return outputs.reshape(shape)


def _of_operands(*arguments: Any) -> Array:
  return _forward(arguments[:-1], arguments[-1])[0]


_attention = jax.custom_vjp(_of_operands, nondiff_argnums=(5,))


def _forward(
  operands: Operands,
  kernel: str | None,
  differentiated: bool = False,
) -> tuple[Array, ...]:
  """Returns the outputs, and statistics for the backward pass."""
  *differentiable, bias, mask = operands
  if run := choose_kernel(kernel, *differentiable[:2], mask):
    if not differentiated:
      return (run(operands),)
    # The backward pass has exactly the same call: XLA runs it once.
    return (jax.vjp(lambda *x: run((*x, bias, mask)), *differentiable)[0],)
  return lax.platform_dependent(
    operands, cpu=blocked_attention.forward, default=plain_forward
  )


def _attention_forward(*arguments: Any):
  operands, kernel = arguments[:-1], arguments[-1]
  bias = operands[3]
  # The residuals of a backward pass are arrays and None only.
  bias_trains = () if bias is not None and bias.perturbed else None
  values = jax.tree.map(
    lambda operand: operand.value,
    operands,
    is_leaf=lambda node: hasattr(node, "perturbed"),
  )
  if bias_trains is None:
    results = _forward(values, kernel, differentiated=True)
  else:
    results = _forward(values, None)
  # The backward pass needs nothing else of the forward pass.
  results = checkpoint_name(results, "attention")
  return results[0], (values, results, bias_trains)


def _attention_backward(kernel: str | None, residuals: Any, gradient: Array):
  operands, results, bias_trains = residuals
  query, key, value, *bias_and_mask = operands
  run = choose_kernel(kernel, query, key, bias_and_mask[1])
  if run and bias_trains is None:
    _, pull_back = jax.vjp(
      lambda *differentiated: run((*differentiated, *bias_and_mask)),
      *(query, key, value),
    )
    return (*pull_back(gradient), None, None)
  options = {"bias_trains": bias_trains is not None}
  gradients = lax.platform_dependent(
    operands,
    results,
    gradient,
    cpu=functools.partial(blocked_attention.backward, **options),
    default=functools.partial(plain_backward, **options),
  )
  return (*gradients, None)


_attention.defvjp(_attention_forward, _attention_backward, symbolic_zeros=True)


def plain_forward(
  operands: Operands, soft_cap: float | None = None
) -> tuple[Array, Array, Array]:
  """Computes attention by its definition."""
  query, key, value, bias, mask = operands
  scores = einsum("bnqd,bnkd->bnqk", query, key, jnp.float32)
  if soft_cap is not None:
    scores = soft_cap * jnp.tanh(scores / soft_cap)
  if bias is not None:
    scores += bias
  if mask is not None:
    scores = jnp.where(mask, scores, blocked_attention.MASKED)
  maximum = lax.stop_gradient(jnp.max(scores, axis=-1))
  weights = jnp.exp(scores - maximum[..., None])
  total = jnp.sum(weights, axis=-1)
  weights = (weights / total[..., None]).astype(value.dtype)
  outputs = einsum("bnqk,bnkd->bnqd", weights, value, value.dtype)
  return outputs, maximum, total


def plain_backward(
  operands: Operands,
  results: tuple[Array, Array, Array],
  gradient: Array,
  bias_trains: bool,
) -> Gradients:
  """Differentiates `plain_forward`."""
  del results
  *differentiated, bias, mask = operands

  def plain(query: Array, key: Array, value: Array, bias: Any = bias) -> Array:
    return plain_forward((query, key, value, bias, mask))[0]

  if bias_trains:
    return jax.vjp(plain, *differentiated, bias)[1](gradient)
  return (*jax.vjp(plain, *differentiated)[1](gradient), None)


def choose_kernel(
  name: str | None, query: Array, key: Array, mask: Array | None
) -> Kernel | None:
  """Returns the named kernel if it supports the operands, or None.

  Args:
    name: A key of `KERNELS`, or None.
    query: [B, N, Q, D]
    key: [B, N, K, D]
    mask: As in `attention`; kernels support padding of keys only.

  Raises:
    ValueError: if the name is unknown.
  """
  if name is None:
    return None
  if name not in KERNELS:
    raise ValueError(
      f"Expected attention_kernel to be None or one of {list(KERNELS)}, got "
      f"{name!r}."
    )
  lengths = (query.shape[2], key.shape[2])
  if min(lengths) < _TILE or (mask is not None and mask.shape[2] > 1):
    return None
  if name == "cudnn" and (
    query.dtype != jnp.bfloat16 or any(length % 2 for length in lengths)
  ):
    return None
  return KERNELS[name]


def cudnn(operands: Operands) -> Array:
  """Runs NVIDIA's kernel, on Ampere and later, as `attention`.

  The kernel takes the bias in the operands' dtype. A mask is merged with the
  bias into one array for every example, which all layers share: the kernel's
  own argument for padding, a length, is less general than a mask.
  """

  *arrays, bias, mask = operands
  outputs = jax.nn.dot_product_attention(
    *(jnp.swapaxes(x, 1, 2) for x in arrays),  # [B, T, N, D]
    bias=None if bias is None else jax.lax.stop_gradient(bias),
    mask=mask,
    scale=1.0,
    implementation="cudnn",
  )
  return jnp.swapaxes(outputs, 1, 2)


def flash(operands: Operands) -> Array:
  """Runs the kernel of Pallas, on TPU v4 and later, as `attention`.

  Masked keys get another segment than the queries. Every device computes its
  own examples and heads.
  """
  query, key, value, bias, mask = operands
  batch, heads, queries, _ = query.shape
  keys = key.shape[2]
  if mask is None:
    mask = jnp.ones((batch, 1, 1, keys), jnp.bool_)
  if bias is None:
    bias = jnp.zeros((1, heads, queries, keys), jnp.float32)
  mask = jnp.broadcast_to(mask, (batch, 1, 1, keys))
  tiles = (
    _to_tiles(query, 2),
    _to_tiles(key, 2),
    _to_tiles(value, 2),
    _to_tiles(_to_tiles(jax.lax.stop_gradient(bias), 2), 3),
    _to_tiles(mask, 3)[:, 0, 0],
  )
  run = _of_examples
  mesh = jax.sharding.get_abstract_mesh()
  if not mesh.empty and mesh.size > 1:
    spec = partitioning.logical_to_mesh_axes(_AXES)
    assert spec is not None, "axes have names"
    examples, head_axis = tuple(spec)[:2]
    run = jax.shard_map(
      _of_examples,
      mesh=mesh,
      in_specs=(
        *(spec,) * 3,
        PartitionSpec(None, head_axis),
        PartitionSpec(examples),
      ),
      out_specs=spec,
      # Kernels do not declare the axes over which their outputs are equal.
      check_vma=False,
    )
  return run(*tiles)[:, :, :queries]


def _of_examples(
  query: Array, key: Array, value: Array, bias: Array, visible: Array
) -> Array:
  """[B, N, Q, D], twice [B, N, K, D], [1, N, Q, K], [B, K] -> [B, N, Q, D]"""
  # Here, because Pallas takes long to import, and only TPUs need it.
  from jax.experimental.pallas.ops.tpu import flash_attention

  segments = flash_attention.SegmentIds(
    q=jnp.ones((len(query), query.shape[2]), jnp.int32),
    kv=visible.astype(jnp.int32),
  )
  # The kernel needs a bias for every example. All layers share the copies.
  bias = jnp.broadcast_to(bias, (len(query), *bias.shape[1:]))
  return flash_attention.flash_attention(query, key, value, bias, segments)


def _to_tiles(x: Array, axis: int) -> Array:
  """Pads an axis with zeros to whole tiles."""
  widths = [(0, 0)] * x.ndim
  widths[axis] = (0, -x.shape[axis] % _TILE)
  return jnp.pad(x, widths)


KERNELS: dict[str, Kernel] = {"cudnn": cudnn, "flash": flash}
