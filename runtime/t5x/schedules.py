"""Learning-rate schedules, written as a product of named factors."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def create_learning_rate_scheduler(
  factors: str = "constant * linear_warmup * rsqrt_decay",
  base_learning_rate: float = 0.5,
  warmup_steps: int = 1000,
  decay_factor: float = 0.5,
  step_offset: int = 0,
  min_learning_rate: float = 1e-8,
) -> Callable[[jax.Array | int], jax.Array]:
  """Creates a schedule from the product of its factors.

  They are those of T5X's public configurations.

  * `constant`: base_learning_rate.
  * `linear_warmup`: from 0 to 1 over warmup_steps.
  * `linear_decay`: base_learning_rate times the warm-up, after which it falls
    by decay_factor per step. It stands in for the two factors above.
  * `rsqrt_decay`: 1 / sqrt(max(step, warmup_steps)).

  Args:
    factors: Names joined by `*`.
    base_learning_rate: The constant.
    warmup_steps: Steps.
    decay_factor: Per step; see `linear_decay`.
    step_offset: The step at which the schedule begins; steps are counted from
      pretraining step 0.
    min_learning_rate: The least learning rate that is returned.

  Returns:
    A function from a step to the learning rate, a float32 scalar.

  Raises:
    ValueError: if a factor is unknown, or needs a positive warmup_steps.
  """

  factor_fns = {
    "constant": lambda step: base_learning_rate,
    "linear_warmup": lambda step: jnp.minimum(1.0, step / warmup_steps),
    "linear_decay": lambda step: (
      base_learning_rate
      * jnp.minimum(
        step / warmup_steps, 1.0 + decay_factor * (warmup_steps - step)
      )
    ),
    "rsqrt_decay": lambda step: jnp.maximum(step, warmup_steps) ** -0.5,
  }
  if base_learning_rate < 0:
    raise ValueError(
      f"Expected a learning rate of at least 0, got {base_learning_rate}."
    )
  names = [name.strip() for name in factors.split("*")]
  if unknown := [name for name in names if name not in factor_fns]:
    raise ValueError(
      f"Unknown learning-rate factors {unknown}; expected a product of "
      f"{list(factor_fns)}."
    )
  needs_warmup = [n for n in names if n.startswith(("linear_", "rsqrt_"))]
  if needs_warmup and warmup_steps < 1:
    raise ValueError(
      f"The factors {needs_warmup} need warmup_steps of at least 1, got "
      f"{warmup_steps}; leave them out for no warm-up."
    )

  def learning_rate_fn(step):
    step = jnp.maximum(0.0, step - step_offset)
    learning_rate = jnp.float32(1.0)
    for name in names:
      learning_rate *= factor_fns[name](step)
    return jnp.maximum(learning_rate, min_learning_rate)

  return learning_rate_fn
