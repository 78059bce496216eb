"""The training and evaluation steps, and the actions that may follow them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import enum
import time
from typing import Any, Literal

from absl import logging
import jax
import jax.numpy as jnp
import optax
from pydantic import PositiveInt

from t5x import checkpoints, models
from t5x import metrics as metrics_lib
from t5x import train_state as train_state_lib
from t5x.configuration import arguments
from t5x.partitioning import PjitPartitioner
from t5x.train_state import Params, TrainState

LearningRateFn = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(eq=False)
class Trainer:
  """Training and evaluation steps, each compiled when it first runs.

  Attributes:
    model: The model.
    train_state: The current state; at first, the initial one.
    partitioner: Places parameters and batches on the devices.
    train_state_axes: Shardings, a state with one at each leaf.
    rng: PRNG key; dropout depends only on it and the number of the step.
    learning_rate_fn: Step -> rate.
    num_microbatches: See `models.value_and_grad`.
    weight_metrics_computer: Adds metrics of parameters and gradients.
  """

  model: models.EncoderDecoderModel
  train_state: TrainState
  partitioner: PjitPartitioner
  train_state_axes: TrainState
  rng: jax.Array
  learning_rate_fn: LearningRateFn
  num_microbatches: PositiveInt | None = None
  weight_metrics_computer: "WeightMetricsComputer | None" = None

  def __post_init__(self):
    model, partitioner = self.model, self.partitioner
    batch_sharding = partitioner.sharding(partitioner.data_partition_spec)

    def train_step(state, batch):
      grads, sums = models.value_and_grad(
        model,
        state.trainable,
        state.frozen,
        batch,
        jax.random.fold_in(self.rng, state.step),
        self.num_microbatches,
      )
      return self._update(state, grads, sums)

    self._train_step = train_state_lib.partition_update(
      partitioner, train_step, self.train_state_axes, batch_sharding
    )
    self._eval_step = partitioner.partition(
      lambda state, batch: model.eval_fn(state.params, batch)[1],
      in_axis_resources=(self.train_state_axes, batch_sharding),
      out_axis_resources=partitioner.sharding(),
    )

  def _update(
    self, state: TrainState, grads: Params, sums: models.MetricSums
  ) -> tuple[TrainState, models.MetricSums]:
    """Applies the gradients of a batch, and adds metrics of the update."""
    assert state.optimizer_def is not None, "a state for inference"
    rate = {"learning_rate": self.learning_rate_fn(state.step)}
    trainable, opt_state = state.optimizer_def.apply_gradient(
      rate, state.trainable, state.opt_state, grads
    )
    new_state = state.replace(trainable=trainable, opt_state=opt_state)
    if self.weight_metrics_computer is not None:
      sums = {
        **sums,
        **self.weight_metrics_computer.compute(
          grads, state.trainable, new_state.trainable
        ),
      }
    return new_state, sums

  def _step(self, batch: Any, before: Any) -> models.MetricSums:
    """Trains on this process's part of a batch, once `before` is computed."""
    batch = self.partitioner.shard_batch(batch)
    jax.block_until_ready(before)
    self.train_state, sums = self._train_step(self.train_state, batch)
    return sums

  def _eval_sums(self, batch: Any) -> models.MetricSums:
    """Returns the sums of this process's part of a batch."""
    return self._eval_step(
      self.train_state, self.partitioner.shard_batch(batch)
    )

  def check_batch_size(self, size: int) -> None:
    """Raises ValueError if the microbatches do not divide a batch."""
    parts = self.num_microbatches
    if parts is not None and (parts < 1 or size % parts):
      raise ValueError(
        f"Expected NUM_MICROBATCHES to divide BATCH_SIZE={size}, got {parts}."
      )

  def trace_train_step(self, train_state: TrainState, batch: Any) -> Any:
    """Traces a step for shapes, as `jax.jit(...).trace` does."""
    return self._train_step.trace(train_state, batch)

  def train_steps(
    self,
    batch_iter: Iterator[Any],
    num_steps: int,
    on_step: Callable[[], bool] = lambda: False,
  ) -> dict[str, float]:
    """Trains for some steps.

    Args:
      batch_iter: Yields this process's part of each batch.
      num_steps: The number of steps.
      on_step: Called after each step; True stops.

    Returns:
      The metrics of the completed steps.
    """
    start = time.monotonic()
    sums, done = {}, 0
    for _ in range(num_steps):
      # At most one step runs ahead of the host, so training stops promptly.
      new = self._step(next(batch_iter), sums)
      sums = models.add(sums, new) if sums else new
      done += 1
      if on_step():
        break
    sums = {name: float(x) for name, x in jax.device_get(sums).items()}
    seconds = time.monotonic() - start
    return {
      **metrics_lib.summarize(sums, done),
      **metrics_lib.timing(sums, done, seconds, jax.device_count()),
      **{k: v / done for k, v in sums.items() if k.startswith("weights/")},
      **self.train_state.last_rate(self.learning_rate_fn),
    }

  def eval(
    self,
    batch_iters: Mapping[str, Iterable[Any]],
    after_batch: Callable[[int], None] = lambda examples: None,
  ) -> dict[str, dict[str, float]]:
    """Computes the loss on batches of each task.

    Args:
      batch_iters: Task -> batches, this process's part.
      after_batch: Called with the number of examples of each batch; an
        exception ends the evaluation.

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
        sums = models.add(sums, new) if sums else new
        steps += 1
        after_batch(len(jax.tree.leaves(batch)[0]))
      sums = {name: float(x) for name, x in jax.device_get(sums).items()}
      results[task] = metrics_lib.summarize(sums, steps)
    return results


class WeightMetricsComputer:
  """Norms of the trainable parameters, their gradient and their update."""

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
  """The moment at which an action runs; gin files name it as a string."""

  TRAIN = 1
  TRAIN_EVAL = 2
  INFER_EVAL = 3


class BaseAction:
  """An action on the metrics of a run."""

  def run(
    self,
    train_state: TrainState,
    metrics_by_task: metrics_lib.MetricsByTask,
  ) -> bool:
    """Runs the action.

    Args:
      train_state: The state that was evaluated.
      metrics_by_task: Task -> metric -> value. In mode TRAIN the one task is
        "train".

    Returns:
      Whether training should stop.
    """
    raise NotImplementedError

  def resume(self, history: Sequence[metrics_lib.MetricsByTask]) -> None:
    """Takes over the metrics from before a restart.

    Args:
      history: The metrics that `run` was called with, in order.
    """

  def attach(
    self,
    evals: Sequence[Mapping[str, Any]],
    checkpointer: checkpoints.Checkpointer,
  ) -> None:
    """Takes the run's evaluations and their ranking, in mode INFER_EVAL.

    It is called once, after `resume`. An action that writes files compares them
    with the checkpoints.

    Args:
      evals: {"step", "metrics", "score"} of each evaluation; the run adds one
        before the action runs on it.
      checkpointer: Ranks evaluations, and reads the trained parameters.

    Raises:
      ValueError: if a file is lost, and no checkpoint has its content.
    """


ActionMap = Mapping[str, Sequence[BaseAction]]


@dataclasses.dataclass(eq=False)
class EarlyStoppingAction(BaseAction):
  """Stops when a metric has not improved for some evaluations.

  Attributes:
    metric: (task, metric), regular expressions; see `metrics.monitored`.
    mode: 'min' or 'max'.
    patience: Evaluations without improvement after which to stop.
    atol: Absolute tolerance: a smaller change does not count.
    rtol: Relative tolerance.
  """

  metric: tuple[str, str]
  mode: Literal["min", "max"]
  patience: int = 3
  atol: float = 0.0
  rtol: float = 0.0

  def __post_init__(self):
    arguments.check(type(self), vars(self))
    self._pattern = "/".join(self.metric)
    arguments.check_pattern("the metric", self._pattern)
    self._sign = 1 if self.mode == "max" else -1
    self._best: float | None = None
    self._since_best = 0

  def resume(self, history) -> None:
    for metrics_by_task in history:
      self._count(metrics_by_task)

  def run(self, train_state, metrics_by_task) -> bool:
    self._count(metrics_by_task)
    if self._since_best < self.patience:
      return False
    logging.info(
      "Stopping at step %d: %s has been no better than %f for %d evaluations.",
      train_state.step,
      self._pattern,
      self._best,
      self.patience,
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
      self.atol + self.rtol * abs(self._best)
    ):
      self._best, self._since_best = value, 0
    else:
      self._since_best += 1
