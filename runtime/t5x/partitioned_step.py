"""A training step on a mesh, which leaves alone what is frozen."""

from collections.abc import Callable
from typing import cast

from t5x import models
from t5x.partitioning import Partitioned, PjitPartitioner
from t5x.train_state import TrainState


def partition_step(
  partitioner: PjitPartitioner,
  step: Callable[..., tuple[TrainState, models.MetricSums]],
  train_state_axes: TrainState,
) -> Partitioned:
  """Compiles a training step, which takes the place of the state before it.

  What is frozen is read where it lies: others may use the same arrays.

  Args:
    partitioner: Where everything lies.
    step: (state, batch) -> (state, sums).
    train_state_axes: Shardings of the state.
  """
  own_axes = train_state_axes.replace(frozen={})

  def own_step(own, frozen, batch):
    state, sums = step(own.replace(frozen=frozen), batch)
    return state.replace(frozen={}), sums

  compiled = partitioner.partition(
    own_step,
    in_axis_resources=(
      own_axes,
      train_state_axes.frozen,
      partitioner.sharding(partitioner.data_partition_spec),
    ),
    out_axis_resources=(own_axes, partitioner.sharding()),
    donate_argnums=0,
  )

  def call(state, batch):
    own, sums = compiled(state.replace(frozen={}), state.frozen, batch)
    return own.replace(frozen=state.frozen), sums

  def trace(state, batch):
    return compiled.trace(state.replace(frozen={}), state.frozen, batch)

  partitioned = cast(Partitioned, call)
  partitioned.trace = trace
  return partitioned
