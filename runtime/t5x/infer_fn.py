"""Applies a compiled step to every example of a split, by length."""

from collections.abc import Callable, Sequence
import inspect
from typing import Any

import jax
import numpy as np

from t5x import lengths, models
from t5x.partitioning import DataLayout, PjitPartitioner
from t5x.train_state import TrainState


def get_infer_fn(
  infer_step: Callable[..., Any],
  batch_size: int,
  train_state_axes: TrainState,
  partitioner: PjitPartitioner,
) -> Callable[..., list[tuple[int, Any]]]:
  """Makes a function that applies a step to every example of a data set.

  Batches are of examples whose inputs are about as long, so that little is
  padding; see `lengths.SplitPlanner`.

  Args:
    infer_step: (all parameters, batch) -> tree of arrays `[B, ...]`. One that
      samples has a parameter `rng`; a batch's key depends on its first index.
    batch_size: Examples of the global batch.
    train_state_axes: Shardings of the state.
    partitioner: Where to run.

  Returns:
    A function of an enumerated data set, every process the whole of it, a
    state and, if wanted, a function that is called after each batch with its
    number of examples. It gives (index, tree of numpy arrays) in the order of
    the data.
  """
  layout: DataLayout = partitioner.get_data_layout(batch_size)
  local_size = batch_size // layout.num_shards
  planner = lengths.SplitPlanner(batch_size)
  samples = "rng" in inspect.signature(infer_step).parameters

  def apply(state: TrainState, batch: models.Batch, first: int) -> Any:
    if not samples:
      return infer_step(state.params, batch)
    rng = jax.random.fold_in(jax.random.PRNGKey(0), first)
    return infer_step(state.params, batch, rng=rng)

  step = partitioner.partition(
    apply,
    in_axis_resources=(
      train_state_axes,
      partitioner.sharding(partitioner.data_partition_spec),
      partitioner.sharding(),
    ),
    out_axis_resources=partitioner.sharding(),
  )

  local = slice(
    layout.shard_id * local_size, (layout.shard_id + 1) * local_size
  )

  def start(
    state: TrainState, examples: Sequence[Any], part: lengths.Microbatch
  ) -> Any:
    """Begins to work on a batch; the last is filled up with its first row."""
    rows = np.resize(part.rows, batch_size)
    rows[len(part.rows) :] = part.rows[0]
    batch = {
      name: np.stack([examples[row][1][name] for row in rows[local]])
      for name in examples[0][1]
    }
    batch = lengths.cut(batch, part.shape.length)
    first = np.int32(examples[part.rows[0]][0])
    return step(state, partitioner.shard_batch(batch), first)

  def infer(
    dataset: Any,
    state: TrainState,
    after_batch: Callable[[int], None] | None = None,
  ):
    examples = list(dataset.as_numpy_iterator())
    sizes = np.array([lengths.of_example(x) for _, x in examples])
    padded = len(examples[0][1].get(lengths.INPUTS, ())) if examples else 0
    results: list[Any] = [None] * len(examples)

    def finish(part: lengths.Microbatch, outputs: Any) -> None:
      outputs = jax.device_get(outputs)
      for i, row in enumerate(part.rows.tolist()):
        index = int(examples[row][0])
        results[row] = (index, jax.tree.map(lambda x, i=i: x[i], outputs))
      if after_batch is not None:
        after_batch(len(part.rows))

    # The device works on a batch while the host takes in the one before.
    under_way = None
    for part in planner.plan(sizes, padded):
      started = part, start(state, examples, part)
      if under_way is not None:
        finish(*under_way)
      under_way = started
    if under_way is not None:
      finish(*under_way)
    return results

  return infer
