"""The training step, the loop around it, and what may stop the loop."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import enum
import time
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
import optax

from t5x import checkpoints, models, partitioned_step
from t5x import metrics as metrics_lib
from t5x import train_state as train_state_lib
from t5x.partitioning import PjitPartitioner
from t5x.train_state import Params, TrainState

LearningRateFn = Callable[[jax.Array], jax.Array]
# Losses, which a divisor may apply to; all other sums are counts.
_LOSSES = ("loss", "z_loss")


@jax.jit
def _add(a: Any, b: Any) -> Any:
  return jax.tree.map(jnp.add, a, b)


def weighted(
  model: models.EncoderDecoderModel,
  sums: models.MetricSums,
  part: models.Batch,
  divisor: jax.Array,
) -> tuple[jax.Array, models.MetricSums]:
  """Weighs a part of a batch, whose loss was divided by its own divisor.

  Args:
    model: The model.
    sums: What `model.loss_fn` gave for the part.
    part: Features `[B, ...]`.
    divisor: `model.loss_divisor` of the whole batch.

  Returns:
    The weight, `[]`, with which the gradients of parts add up to the batch's;
    and the sums, so weighed.
  """
  weight = model.loss_divisor(part) / divisor
  return weight, {
    name: x * weight if name in _LOSSES else x for name, x in sums.items()
  }


def value_and_grad(
  model: models.EncoderDecoderModel,
  trainable: Params,
  frozen: Params,
  batch: models.Batch,
  dropout_rng: jax.Array,
  num_microbatches: int | None = None,
) -> tuple[Params, models.MetricSums]:
  """Differentiates the loss with respect to what trains, and nothing else.

  Args:
    model: The model.
    trainable: The parameters to differentiate.
    frozen: The other parameters.
    batch: Features `[B, ...]`.
    dropout_rng: PRNG key.
    num_microbatches: The batch is worked off in so many parts, whose gradients
      add up; None or 1 takes it whole.

  Returns:
    Gradients like `trainable`, and the sums behind the metrics.

  Raises:
    ValueError: if the number does not divide the batch.
  """

  def loss_fn(trainable, batch, rng):
    params = train_state_lib.merge(trainable, frozen)
    return model.loss_fn(params, batch, rng)

  grad_fn = jax.grad(loss_fn, has_aux=True)
  if num_microbatches in (None, 1):
    return grad_fn(trainable, batch, dropout_rng)

  size = len(jax.tree.leaves(batch)[0])
  if size % num_microbatches:
    raise ValueError(
      f"num_microbatches={num_microbatches} does not divide the batch size "
      f"{size}."
    )
  # Every microbatch takes rows from every shard of the batch: [B / M, M, ...].
  parts = jax.tree.map(
    lambda x: jnp.swapaxes(
      x.reshape(size // num_microbatches, num_microbatches, *x.shape[1:]), 0, 1
    ),
    batch,
  )
  rngs = jax.random.split(dropout_rng, num_microbatches)
  divisor = model.loss_divisor(batch)

  def body(total, part_and_rng):
    part, rng = part_and_rng
    grads, sums = grad_fn(trainable, part, rng)
    weight, sums = weighted(model, sums, part, divisor)
    grads = jax.tree.map(lambda x: x * weight.astype(x.dtype), grads)
    return _add(total, (grads, sums)), None

  part_shapes = jax.tree.map(lambda x: x[0], (parts, rngs))
  zeros = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype),
    jax.eval_shape(grad_fn, trainable, *part_shapes),
  )
  return jax.lax.scan(body, zeros, (parts, rngs))[0]


class Trainer:
  """Compiles and runs training and evaluation steps."""

  def __init__(
    self,
    model: models.EncoderDecoderModel,
    train_state: TrainState,
    partitioner: PjitPartitioner,
    train_state_axes: TrainState,
    rng: jax.Array,
    learning_rate_fn: LearningRateFn,
    num_microbatches: int | None = None,
    weight_metrics_computer: "WeightMetricsComputer | None" = None,
  ):
    """Compiles nothing yet.

    Args:
      model: The model.
      train_state: The state to begin with.
      partitioner: Where everything lies.
      train_state_axes: Shardings, a state with one at each leaf.
      rng: PRNG key; dropout at a step depends on it and the step alone.
      learning_rate_fn: Step -> rate.
      num_microbatches: See `value_and_grad`.
      weight_metrics_computer: Adds metrics of parameters and gradients.
    """
    self.train_state = train_state
    self._model = model
    self._partitioner = partitioner
    self._axes = train_state_axes
    self._rng = rng
    self._learning_rate_fn = learning_rate_fn
    self._weight_metrics_computer = weight_metrics_computer
    replicated = partitioner.sharding()
    batch_sharding = partitioner.sharding(partitioner.data_partition_spec)

    def train_step(state, batch):
      grads, sums = value_and_grad(
        model,
        state.trainable,
        state.frozen,
        batch,
        jax.random.fold_in(rng, state.step),
        num_microbatches,
      )
      return self._update(state, grads, sums)

    self._train_step = partitioned_step.partition_step(
      partitioner, train_step, train_state_axes
    )
    self._eval_step = partitioner.partition(
      lambda state, batch: model.eval_fn(state.params, batch)[1],
      in_axis_resources=(train_state_axes, batch_sharding),
      out_axis_resources=replicated,
    )

  def _update(
    self, state: TrainState, grads: Params, sums: models.MetricSums
  ) -> tuple[TrainState, models.MetricSums]:
    """Applies the gradients of a batch, and measures that."""
    new_state = state.apply_gradient(grads, self._learning_rate_fn(state.step))
    if self._weight_metrics_computer is not None:
      sums = {
        **sums,
        **self._weight_metrics_computer.compute(
          grads, state.trainable, new_state.trainable
        ),
      }
    return new_state, sums

  def _step(self, batch: Any, before: Any) -> models.MetricSums:
    """Trains on this process's part of a batch, once `before` is computed."""
    batch = self._partitioner.shard_batch(batch)
    jax.block_until_ready(before)
    self.train_state, sums = self._train_step(self.train_state, batch)
    return sums

  def _eval_sums(self, batch: Any) -> models.MetricSums:
    """Returns the sums of this process's part of a batch."""
    return self._eval_step(
      self.train_state, self._partitioner.shard_batch(batch)
    )

  def trace_train_step(self, train_state: TrainState, batch: Any) -> Any:
    """Traces a step for shapes: what `jax.jit(...).trace` returns."""
    return self._train_step.trace(train_state, batch)

  def train_steps(
    self,
    batch_iter: Iterator[Any],
    num_steps: int,
    on_step: Callable[[], bool] = lambda: False,
  ) -> dict[str, float]:
    """Trains for some steps.

    Args:
      batch_iter: Gives this process's part of a batch.
      num_steps: How many.
      on_step: Called after each step; True stops.

    Returns:
      The metrics of the steps that were done.
    """
    start = time.monotonic()
    sums, done = {}, 0
    for _ in range(num_steps):
      # At most one step runs ahead of the host, so that stopping is prompt.
      new = self._step(next(batch_iter), sums)
      sums = _add(sums, new) if sums else new
      done += 1
      if on_step():
        break
    sums = {name: float(x) for name, x in jax.device_get(sums).items()}
    seconds = time.monotonic() - start
    return {
      **metrics_lib.summarize(sums, done),
      **metrics_lib.timing(sums, done, seconds, jax.device_count()),
      **{k: v / done for k, v in sums.items() if k.startswith("weights/")},
      **self.train_state.last_rate(self._learning_rate_fn),
    }

  def eval(
    self,
    batch_iters: Mapping[str, Iterable[Any]],
    after_batch: Callable[[int], None] = lambda examples: None,
  ) -> dict[str, dict[str, float]]:
    """Computes the loss on batches of each task.

    Args:
      batch_iters: Task -> batches, this process's part.
      after_batch: Called with the number of examples of each batch; what it
        raises ends the evaluation.

    Returns:
      Task -> metrics.
    """
    results = {}
    for task, batches in batch_iters.items():
      sums, steps = {}, 0
      for batch in batches:
        new = self._eval_sums(batch)
        # As in training, at most one batch runs ahead of the host.
        jax.block_until_ready(sums)
        sums = _add(sums, new) if sums else new
        steps += 1
        after_batch(len(jax.tree.leaves(batch)[0]))
      if not sums:
        raise ValueError(f"The evaluation split of {task} has no batch.")
      sums = {name: float(x) for name, x in jax.device_get(sums).items()}
      results[task] = metrics_lib.summarize(sums, steps)
    return results


class WeightMetricsComputer:
  """Norms of what trains, of its gradient and of its update."""

  def compute(
    self, grads: Params, before: Params, after: Params
  ) -> models.MetricSums:
    """Computes scalars that are averaged over steps."""
    return {
      "weights/gradient_norm": optax.tree.norm(grads),
      "weights/norm": optax.tree.norm(after),
      "weights/update_norm": optax.tree.norm(
        jax.tree.map(jnp.subtract, after, before)
      ),
    }


class ActionMode(enum.Enum):
  """After what an action runs; gin files name it as a string."""

  TRAIN = 1
  TRAIN_EVAL = 2
  INFER_EVAL = 3


class BaseAction:
  """Something to do with the metrics during training."""

  def run(
    self,
    train_state: TrainState,
    metrics_by_task: metrics_lib.MetricsByTask,
  ) -> bool:
    """Acts.

    Args:
      train_state: The state that was evaluated.
      metrics_by_task: Task -> metric -> value. In mode TRAIN the one task is
        "train".

    Returns:
      Whether training should stop.
    """
    raise NotImplementedError

  def resume(self, history: Sequence[metrics_lib.MetricsByTask]) -> None:
    """Takes note of the evaluations before a restart.

    Args:
      history: The metrics that `run` was called with, in order.
    """

  def check_files(
    self,
    evals: Sequence[Mapping[str, Any]],
    checkpointer: checkpoints.Checkpointer,
  ) -> None:
    """Compares the files that it wrote before a restart with the checkpoints.

    Args:
      evals: The evaluations so far: {"step", "metrics", "score"}.
      checkpointer: Reads what was trained; see its `read_trained`.

    Raises:
      ValueError: if one is lost, and no checkpoint has what was in it.
    """


ActionMap = Mapping[str, Sequence[BaseAction]]


class EarlyStoppingAction(BaseAction):
  """Stops when a metric has not improved for some evaluations."""

  def __init__(
    self,
    metric: tuple[str, str],
    mode: str,
    patience: int = 3,
    atol: float = 0.0,
    rtol: float = 0.0,
  ):
    """Starts to count.

    Args:
      metric: (task, metric), regular expressions; see `metrics.monitored`.
      mode: 'min' or 'max'.
      patience: Evaluations without improvement after which to stop.
      atol: Absolute tolerance: a smaller change is none.
      rtol: Relative tolerance.
    """
    if mode not in ("min", "max"):
      raise ValueError(f"Expected mode 'min' or 'max', got {mode!r}.")
    self._pattern = "/".join(metric)
    self._sign = 1 if mode == "max" else -1
    self._patience = patience
    self._atol = atol
    self._rtol = rtol
    self._best: float | None = None
    self._since_best = 0

  def resume(self, history) -> None:
    for metrics_by_task in history:
      self._count(metrics_by_task)

  def run(self, train_state, metrics_by_task) -> bool:
    self._count(metrics_by_task)
    if self._since_best < self._patience:
      return False
    logging.info(
      "Stopping at step %d: %s has been no better than %f for %d evaluations.",
      train_state.step,
      self._pattern,
      self._best,
      self._patience,
    )
    return True

  def _count(self, metrics_by_task: metrics_lib.MetricsByTask) -> None:
    value = metrics_lib.monitored(metrics_by_task, self._pattern)
    if value is None:
      raise ValueError(
        f"EarlyStoppingAction watches {self._pattern}, but the metrics are "
        f"{metrics_lib.names(metrics_by_task)}."
      )
    if self._best is None or self._sign * (value - self._best) > (
      self._atol + self._rtol * abs(self._best)
    ):
      self._best, self._since_best = value, 0
    else:
      self._since_best += 1
