"""Rotary positions (Su et al., 2021, https://arxiv.org/abs/2104.09864)."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from prompt_tuning.types import Array


@dataclasses.dataclass(frozen=True)
class Rope:
  """Frequencies of rotary positions.

  Attributes:
    theta: Ratio of the highest and, nearly, the lowest frequency.
    factor: Divides frequencies, for contexts longer than those of pretraining.
    bands: Three numbers, as in Llama 3.1: frequencies that turn fewer times
      than the first number within the third's positions are divided, and those
      below the second in part. None divides all.
  """

  theta: float = 10_000.0
  factor: float = 1.0
  bands: tuple[float, float, int] | None = None

  def frequencies(self, head_dim: int) -> np.ndarray:
    """Returns the angles between adjacent positions, [D / 2] float32."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / head_dim
    original = 1.0 / np.float32(self.theta) ** exponents
    divided = original / self.factor
    if self.bands is None:
      return divided.astype(np.float32)
    low, high, length = self.bands
    turns = length * original / (2 * math.pi)
    share = np.clip((turns - low) / (high - low), 0, 1)
    return (share * original + (1 - share) * divided).astype(np.float32)


def rotation(
  positions: Array, rope: Rope, head_dim: int
) -> tuple[Array, Array]:
  """Returns the rotation of each position, for `rotate`.

  Args:
    positions: [B, T]
    rope: The frequencies.
    head_dim: D.

  Returns:
    Cosines and sines, [B, 1, T, D / 2] float32.
  """
  angles = positions[:, None, :, None].astype(jnp.float32)
  angles *= rope.frequencies(head_dim)[None, None, None]
  return jnp.cos(angles), jnp.sin(angles)


def rotate(heads: Array, by: tuple[Array, Array]) -> Array:
  """Rotates the first half of each head against the second, [B, N, T, D]."""
  cos, sin = by
  first, second = jnp.split(heads.astype(jnp.float32), 2, axis=-1)
  rotated = first * cos - second * sin, second * cos + first * sin
  return jnp.concatenate(rotated, axis=-1).astype(heads.dtype)
