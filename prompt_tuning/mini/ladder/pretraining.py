"""The optimizer of the ladder's pretraining, and the checkpoints to keep."""

from collections.abc import Hashable, Iterator
import pathlib

from flax import traverse_util
import jax
import jax.numpy as jnp
import optax
from pydantic import NonNegativeFloat

from t5x import checkpoints

# Relative position biases start near 0 and have to grow to a few units before
# they distinguish one token from the next. Adam moves a parameter by about the
# learning rate, whatever the gradient.
_FASTER_BIASES = 10.0
_BIASES = "rel_embedding"


def adam(
  learning_rate: NonNegativeFloat, steps: int | None, warmup_steps: int = 200
) -> optax.GradientTransformation:
  """Returns Adam with a linear warm-up and a cosine decay to a tenth.

  Args:
    learning_rate: The rate at the end of the warm-up.
    steps: Steps of the whole run.
    warmup_steps: The number of warm-up steps among them.

  Raises:
    ValueError: if `steps` is missing.
  """
  if steps is None:
    raise ValueError("Pretraining needs TRAIN_STEPS_RELATIVE, got none.")

  def schedule(factor: float) -> optax.Schedule:
    peak = factor * learning_rate
    return optax.warmup_cosine_decay_schedule(
      0.0, peak, warmup_steps, max(steps, warmup_steps + 1), 0.1 * peak
    )

  def labels(params):
    return traverse_util.path_aware_map(
      lambda path, _: _BIASES if _BIASES in path else "other", params
    )

  factors = {_BIASES: _FASTER_BIASES, "other": 1.0}
  parts: dict[Hashable, optax.GradientTransformation] = {
    k: optax.adam(schedule(x), b2=0.98) for k, x in factors.items()
  }
  return optax.chain(
    optax.clip_by_global_norm(1.0), optax.partition(parts, labels)
  )


# Stage -> the name of a checkpoint to keep -> its share of the run. Of other
# stages the last one is kept, under the stage's name.
_KEPT = {"lm": {"lm_10": 0.1, "lm_50": 0.5, "lm_100": 1.0}}


def export(
  run: pathlib.Path, folder: pathlib.Path, stage: str
) -> Iterator[pathlib.Path]:
  """Writes the checkpoints of a run that are kept, in bfloat16.

  Args:
    run: The finished run's folder.
    folder: Receives each checkpoint as `<name>/checkpoint_<step>`.
    stage: A stage of `configs/ladder.toml`, such as "span_corruption".

  Yields:
    The paths of the checkpoints.

  Raises:
    ValueError: if the run lacks such a checkpoint.
  """
  steps = sorted(
    int(path.name.removeprefix("checkpoint_"))
    for path in run.glob("checkpoint_*")
    if not path.suffix  # Incomplete and damaged checkpoints have a suffix.
  )
  for name, share in _KEPT.get(stage, {stage: 1.0}).items():
    position = share * len(steps) - 1
    if position < 0 or position % 1:
      raise ValueError(
        f"Expected a checkpoint for every tenth of {run}, got steps {steps}. "
        "Run it with an EVAL_PERIOD of a tenth of its steps."
      )
    step = steps[int(position)]
    base = checkpoints.open_checkpoint(str(run / f"checkpoint_{step}"))
    host = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shapes = {
      path: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16, sharding=host)
      for path, x in base.arrays.items()
    }
    params = traverse_util.unflatten_dict(base.read(shapes), sep="/")
    written = checkpoints.save_base_checkpoint(
      str(folder / name), step, params, {"name": f"{folder.name} {name}"}
    )
    yield pathlib.Path(written)
