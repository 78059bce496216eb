"""How the ladder's models are pretrained: an optimizer."""

from flax import traverse_util
import optax

# Relative position biases begin near 0 and have to grow to some units before
# they tell one token from the next. Adam moves a parameter by about the
# learning rate, whatever its gradient.
_FASTER_BIASES = 10.0
_BIASES = "rel_embedding"


def adam(
  learning_rate: float, steps: int, warmup_steps: int = 100
) -> optax.GradientTransformation:
  """Adam that warms up linearly and decays to a tenth along a cosine.

  Args:
    learning_rate: At the end of the warm-up.
    steps: Of the whole run.
    warmup_steps: Of these.
  """

  def schedule(factor: float) -> optax.Schedule:
    peak = factor * learning_rate
    return optax.warmup_cosine_decay_schedule(
      0.0, peak, warmup_steps, max(steps, warmup_steps + 1), 0.1 * peak
    )

  def labels(params):
    flat = traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict(
      {path: _BIASES if _BIASES in path else "other" for path in flat}
    )

  return optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.partition(
      {
        _BIASES: optax.adam(schedule(_FASTER_BIASES), b2=0.98),
        "other": optax.adam(schedule(1.0), b2=0.98),
      },
      labels,
    ),
  )
