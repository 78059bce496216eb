"""Training on batches by length: the same steps, with less padding.

A step takes the same examples as `trainer.Trainer`, sorts them by the length of
their inputs, and computes them in microbatches of a few shapes
(`t5x.input.lengths`). Loss and gradient equal those of the padded batch, up to
rounding; dropout draws other masks.
"""

import dataclasses
from typing import Any

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np
from pydantic import PositiveInt

from t5x import models, trainer
from t5x import train_state as train_state_lib
from t5x.configuration import arguments
from t5x.input import lengths


@dataclasses.dataclass(eq=False)
class Trainer(trainer.Trainer):
  """A `trainer.Trainer` whose batches are cut into microbatches by length.

  Attributes:
    num_lengths: The greatest number of shapes of microbatches; each is compiled
      once, when an example needs it.

  Raises:
    ValueError: if `num_lengths` is less than 1.
  """

  num_microbatches: PositiveInt | None = dataclasses.field(
    default=None, init=False
  )
  num_lengths: PositiveInt = 6

  def __post_init__(self):
    super().__post_init__()
    arguments.check(type(self), {"num_lengths": self.num_lengths})
    # Measures how many positions the encoder adds, such as a prompt's.
    module, length = self.model.module, 8
    encoded = jax.eval_shape(
      lambda params, tokens: module.apply(
        {"params": params}, tokens, enable_dropout=False, method=module.encode
      ),
      self.train_state.params,
      jax.ShapeDtypeStruct((1, length), jnp.int32),
    )
    # The first encoded array has a column for each position.
    self._added = jax.tree.leaves(encoded)[0].shape[1] - length
    # Nothing is compiled yet: each shape is compiled when it is needed.
    model, partitioner = self.model, self.partitioner
    replicated = partitioner.sharding()
    batches = partitioner.sharding(partitioner.data_partition_spec)
    # Shardings of gradients and sums.
    self._parts = parts = (self.train_state_axes.trainable, replicated)

    def add_gradients(state, total, batch, divisor, number):
      rng = jax.random.fold_in(self.rng, state.step)
      rng = jax.random.fold_in(rng, number)
      grads, sums = models.value_and_grad(
        model, state.trainable, state.frozen, batch, rng
      )
      part = models.weigh(model, grads, sums, batch, divisor)
      return jax.tree.map(jnp.add, total, part)

    self._add_gradients = partitioner.partition(
      add_gradients,
      in_axis_resources=(
        self.train_state_axes,
        parts,
        batches,
        replicated,
        replicated,
      ),
      out_axis_resources=parts,
      donate_argnums=1,
    )
    self._apply = train_state_lib.partition_update(
      partitioner,
      lambda state, total: self._update(state, *total),
      self.train_state_axes,
      parts,
    )
    self._divisor = partitioner.partition(
      model.loss_divisor,
      in_axis_resources=(batches,),
      out_axis_resources=replicated,
    )
    self._eval_part = partitioner.partition(
      lambda state, batch, divisor: models.weigh(
        model, {}, model.eval_fn(state.params, batch)[1], batch, divisor
      )[1],
      in_axis_resources=(self.train_state_axes, batches, replicated),
      out_axis_resources=replicated,
    )

  def trace_train_step(self, train_state: Any, batch: Any) -> Any:
    """Raises ValueError, because a step has several programs."""
    raise ValueError(
      "A step on batches by length runs programs of several shapes, which "
      "depend on the examples. Leave gin/runs/by_length.gin out: the padded "
      "batch needs more memory, so its estimate is an upper bound."
    )

  def _cut(self, batch: lengths.Features) -> tuple[jax.Array, list[Any]]:
    """Cuts this process's part of a batch; all processes cut theirs alike.

    Args:
      batch: This process's part.

    Returns:
      The divisor of the whole batch's loss, and microbatches on the devices.

    Raises:
      ValueError: if inputs and targets are joined.
    """
    if lengths.INPUTS not in batch:
      raise ValueError(
        f"Batches by length need {lengths.INPUTS}, got {', '.join(batch)}: "
        "leave gin/runs/by_length.gin out, or the feature converter that joins "
        "inputs and targets."
      )
    partitioner = self.partitioner
    targets = {k: x for k, x in batch.items() if k.startswith("decoder_")}
    divisor = self._divisor(partitioner.shard_batch(targets))
    rows, longest = batch[lengths.INPUTS].shape
    multiple = len(partitioner.local_rows(partitioner.mesh.shape["data"]))
    shapes = lengths.shapes(
      rows, longest, self.num_lengths, self._added, multiple
    )
    plan = lengths.plan(
      lengths.count_tokens(batch), shapes, self._added, _longest_of_processes
    )
    parts = (lengths.take(batch, microbatch) for microbatch in plan)
    return divisor, [partitioner.shard_batch(part) for part in parts]

  def _step(self, batch: Any, before: Any) -> models.MetricSums:
    divisor, parts = self._cut(batch)
    if not hasattr(self, "_make_zeros"):
      # Gradients and sums have the same shapes for every part.
      shapes = jax.eval_shape(
        lambda state, batch: models.value_and_grad(
          self.model, state.trainable, state.frozen, batch, self.rng
        ),
        self.train_state,
        parts[0],
      )
      self._make_zeros = self.partitioner.partition(
        lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes),
        out_axis_resources=self._parts,
      )
    jax.block_until_ready(before)
    total = self._make_zeros()
    for number, part in enumerate(parts):
      total = self._add_gradients(
        self.train_state, total, part, divisor, np.int32(number)
      )
    self.train_state, sums = self._apply(self.train_state, total)
    return sums

  def _eval_sums(self, batch: Any) -> models.MetricSums:
    divisor, parts = self._cut(batch)
    sums = [self._eval_part(self.train_state, part, divisor) for part in parts]
    return jax.tree.map(lambda *x: sum(x), *sums)


def _longest_of_processes(ordered: np.ndarray) -> np.ndarray:
  """Returns lengths from which every process plans the same microbatches."""
  if jax.process_count() == 1:
    return ordered
  return np.asarray(multihost_utils.process_allgather(ordered)).max(axis=0)
