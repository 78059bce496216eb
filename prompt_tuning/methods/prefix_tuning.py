"""Prefix tuning (Li and Liang, 2021): keys and values before those of a layer.

Prompt tuning trains vectors before the embedded input; prefix tuning trains the
keys and values that the attention of every layer sees at these positions.
"""

from collections.abc import Sequence
import functools
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from pydantic import PositiveInt

from prompt_tuning.methods.parameters import KERNEL_INIT, parameter
from prompt_tuning.types import Array, Initializer


class Prefix(nn.Module):
  """The prefixes of one kind of attention in all layers, in float32.

  They are either parameters, `{key,value}_<layer>`, [X, N * D] each, or the
  outputs of an MLP over a table of the model's width (Li and Liang, section
  4.3). Then all layers share `table` and the layer `hidden`, and
  `{key,value}_<layer>` have a kernel and a bias each. A run keeps the MLP and
  evaluates through it, although the model needs only its outputs.

  Attributes:
    length: Positions of the prefix, X.
    hidden_dim: Width of the MLP's hidden layer; None for no MLP.
    prefix_init: Initialiser of the prefixes, or of the table.
  """

  length: PositiveInt
  hidden_dim: PositiveInt | None = None
  prefix_init: Initializer = nn.initializers.normal(1.0)

  replicated_axes: ClassVar[tuple[str, ...]] = ("prefix", "prefix_hidden")

  @nn.compact
  def __call__(
    self, num_layers: int, width: int, features: int
  ) -> Sequence[tuple[Array, Array]]:
    """Returns the prefixes of all layers.

    Args:
      num_layers: L.
      width: H, the width of the table.
      features: N * D.

    Returns:
      L pairs of keys and values, [X, N * D] each, in float32.
    """

    def own(name: str, features: int, axis: str) -> Array:
      shape = (self.length, features)
      return parameter(name, self.prefix_init, shape, ("prefix", axis))

    if self.hidden_dim is None:
      make = functools.partial(own, features=features, axis="joined_kv")
    else:
      table = own("table", width, "embed")
      layer = _Dense(self.hidden_dim, ("embed", "prefix_hidden"), name="hidden")
      hidden = jnp.tanh(layer(table))

      def make(name: str) -> Array:
        axes = ("prefix_hidden", "joined_kv")
        return _Dense(features, axes, name=name)(hidden)

    return [(make(f"key_{i}"), make(f"value_{i}")) for i in range(num_layers)]


class _Dense(nn.Module):
  """A linear map with a bias, in float32; T5's own maps have no bias."""

  features: int
  axes: tuple[str, str]

  @nn.compact
  def __call__(self, inputs: Array) -> Array:
    """[X, in] -> [X, features]"""
    shape, zeros = (inputs.shape[-1], self.features), nn.initializers.zeros
    kernel = parameter("kernel", KERNEL_INIT, shape, self.axes)
    bias = parameter("bias", zeros, shape[1:], self.axes[1:])
    return inputs @ kernel + bias[None]
