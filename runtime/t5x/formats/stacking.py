"""Scanned layers: stacked as `layers` in memory, `layers_<i>` on disk.

Names are paths, such as "encoder/layers/mlp/wo/kernel". A stack is [L, ...]. A
parameter without `layers` in its path is the same on both sides.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from t5x.formats import stored_arrays

SCANNED = "layers"


def is_stacked(name: str) -> bool:
  """Returns whether a name belongs to a stacked parameter."""
  return SCANNED in name.split("/")


def names_apart(name: str, num_layers: int) -> list[str]:
  """Returns the name of each layer's part of a stack."""
  return [
    "/".join(
      f"{SCANNED}_{i}" if part == SCANNED else part for part in name.split("/")
    )
    for i in range(num_layers)
  ]


def shapes_apart(
  shapes: Mapping[str, jax.ShapeDtypeStruct],
) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns names and shapes on disk, with shardings if there are any."""
  apart = {}
  for name, stacked in shapes.items():
    if not is_stacked(name):
      apart[name] = stacked
      continue
    sharding = _of_layer(stacked.sharding)
    one = jax.ShapeDtypeStruct(
      stacked.shape[1:], stacked.dtype, sharding=sharding
    )
    apart |= dict.fromkeys(names_apart(name, stacked.shape[0]), one)
  return apart


def take_apart(arrays: Mapping[str, Any]) -> dict[str, Any]:
  """Returns arrays as a checkpoint holds them.

  Args:
    arrays: Name in memory -> numpy or JAX array.

  Returns:
    Name on disk -> array, of the same kind.
  """
  apart = {}
  for name, array in arrays.items():
    if not is_stacked(name):
      apart[name] = array
    else:
      names = names_apart(name, len(array))
      parts = _parts(array) if isinstance(array, jax.Array) else list(array)
      apart |= dict(zip(names, parts, strict=True))
  return apart


def put_together(
  apart: dict[str, jax.Array], targets: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.Array]:
  """Undoes `take_apart`; makes one stack at a time to save memory.

  Args:
    apart: Name on disk -> array, on devices. It is emptied, so that the parts
      of finished stacks can be freed.
    targets: Name in memory -> shape and sharding.

  Returns:
    Name in memory -> array.
  """
  together = {}
  for name, target in targets.items():
    if is_stacked(name):
      parts = [apart.pop(x) for x in names_apart(name, target.shape[0])]
      stack = jax.jit(jnp.stack, out_shardings=target.sharding)
      # Otherwise the memory of all stacks would be taken at once.
      together[name] = jax.block_until_ready(stack(parts))
      del parts
      stored_arrays.return_freed_memory()
    else:
      together[name] = apart.pop(name)
  return together


def _parts(array: jax.Array) -> Sequence[jax.Array]:
  is_named = isinstance(array.sharding, NamedSharding)
  sharding = _of_layer(array.sharding) if is_named else None
  return jax.jit(list, out_shardings=sharding)(array)


def _of_layer(sharding: Any) -> Any:
  """Returns the sharding of one layer of a stack."""
  if not isinstance(sharding, NamedSharding):
    return sharding
  return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))
