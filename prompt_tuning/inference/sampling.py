"""The choice of the next token of each row, by its own options."""

from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp


class Sampling(NamedTuple):
  """The decoding options of each row.

  Attributes:
    limits: [B] int32, the most tokens of an answer; 0 for an unused row.
    temperatures: [B] float32.
    seeds: [B] uint32.
    choices: [B] uint32; seed and choice together determine a sample.
    wants_top: bool scalar, whether a row wants the likeliest tokens.
  """

  limits: Any
  temperatures: Any
  seeds: Any
  choices: Any
  wants_top: Any


def choose(
  logits: jax.Array, sampling: Sampling, indices: jax.Array
) -> jax.Array:
  """Returns the tokens at [B] places in the answers, by logits [B, V]."""
  likeliest = jnp.argmax(logits, axis=-1)

  def sample() -> jax.Array:
    def sample_row(row, temperature, seed, choice, index):
      key = jax.random.key(0)
      for number in (seed, choice, index):
        key = jax.random.fold_in(key, number)
      # Less would overflow; at temperature 0 the sample is not used.
      return jax.random.categorical(key, row / jnp.maximum(temperature, 1e-30))

    sampled = jax.vmap(sample_row)(
      logits,
      sampling.temperatures,
      sampling.seeds,
      sampling.choices,
      indices,
    )
    return jnp.where(sampling.temperatures > 0, sampled, likeliest)

  return lax.cond(
    jnp.any(sampling.temperatures > 0), sample, lambda: likeliest
  ).astype(jnp.int32)
