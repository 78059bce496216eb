"""Attention by the fused kernels of accelerators.

No array of all scores leaves the chip, in either pass. The kernels have been
compiled for accelerators and compared with the plain form as far as a CPU can
(the TPU kernel, interpreted), but have not run on a device. So they are opt-in:
`network.T5Config.attention_kernel`.
"""

from collections.abc import Callable

from flax.linen import partitioning
import jax
from jax.experimental.pallas.ops.tpu import flash_attention
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from prompt_tuning.models.blocked_attention import Operands
from prompt_tuning.types import Array

Kernel = Callable[[Operands], Array]

# Queries and keys in a tile of the TPU kernel. Fewer, such as the small scores
# of a decoder, are not worth a kernel.
_TILE = 128
_AXES = ("batch", "heads", "length", "kv")


def choose(
  name: str | None, query: Array, key: Array, mask: Array | None
) -> Kernel | None:
  """Returns the named kernel if it supports the operands, or None.

  Args:
    name: A key of `KERNELS`, or None.
    query: [B, N, Q, D]
    key: [B, N, K, D]
    mask: As in `attention.attention`; kernels support padding of keys only.

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
  """Runs NVIDIA's kernel, on Ampere and later, as `attention.attention`.

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
  """Runs the kernel of Pallas, on TPU v4 and later, as `attention.attention`.

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
