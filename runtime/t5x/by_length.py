"""Training on batches by length: the same steps, with less padding.

A step takes the same examples as that of `trainer.Trainer`, sorts them by the
length of their inputs, and works them off in microbatches of a few shapes
(`t5x.input.lengths`). Loss and gradient are those of the padded batch but for
how sums are rounded; dropout, where there is some, draws other masks.
"""

from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np

from t5x import models, trainer
from t5x.input import lengths


class Trainer(trainer.Trainer):
  """A `trainer.Trainer` whose batches are cut into microbatches by length."""

  def __init__(
    self,
    *,
    num_lengths: int = 6,
    refused_microbatches: int | None = None,
    **kwargs: Any,
  ):
    """Compiles nothing yet.

    Args:
      num_lengths: Shapes of microbatches there may be, each of which is
        compiled once, when an example needs it.
      refused_microbatches: What would be another trainer's `num_microbatches`:
        a name of its own, which `run_configuration` knows to be no setting.
      **kwargs: Of `trainer.Trainer`.

    Raises:
      ValueError: if there would be no shape, or microbatches are asked for.
    """
    asked = {refused_microbatches, kwargs.get("num_microbatches")}
    if not asked <= {None, 1}:
      raise ValueError(
        "Batches by length have microbatches of their own: leave "
        "NUM_MICROBATCHES out, or train without gin/runs/by_length.gin."
      )
    super().__init__(**kwargs)
    if num_lengths < 1:
      raise ValueError(
        f"Expected num_lengths of at least 1, got {num_lengths}."
      )
    self._num_lengths = num_lengths
    self._added = self._added_positions()
    model, partitioner = self._model, self._partitioner
    replicated = partitioner.sharding()
    batches = partitioner.sharding(partitioner.data_partition_spec)
    parts = (self._axes.trainable, replicated)

    def add_gradients(state, total, batch, divisor, number):
      rng = jax.random.fold_in(self._rng, state.step)
      grads, sums = trainer.value_and_grad(
        model,
        state.trainable,
        state.frozen,
        batch,
        jax.random.fold_in(rng, number),
      )
      weight, sums = trainer.weighted(model, sums, batch, divisor)
      grads = jax.tree.map(lambda x: x * weight.astype(x.dtype), grads)
      return jax.tree.map(jnp.add, total, (grads, sums))

    self._add_gradients = partitioner.partition(
      add_gradients,
      in_axis_resources=(self._axes, parts, batches, replicated, replicated),
      out_axis_resources=parts,
      donate_argnums=1,
    )
    own_axes = self._axes.replace(frozen={})
    self._apply = partitioner.partition(
      lambda state, total: self._update(state, *total),
      in_axis_resources=(own_axes, parts),
      out_axis_resources=(own_axes, replicated),
      donate_argnums=0,
    )
    self._divisor = partitioner.partition(
      model.loss_divisor,
      in_axis_resources=(batches,),
      out_axis_resources=replicated,
    )
    self._eval_part = partitioner.partition(
      lambda state, batch, divisor: trainer.weighted(
        model, model.eval_fn(state.params, batch)[1], batch, divisor
      )[1],
      in_axis_resources=(self._axes, batches, replicated),
      out_axis_resources=replicated,
    )

  def _added_positions(self) -> int:
    """Returns how many positions the encoder adds, such as a prompt's."""
    module, length = self._model.module, 8
    encoded = jax.eval_shape(
      lambda params, tokens: module.apply(
        {"params": params}, tokens, enable_dropout=False, method=module.encode
      ),
      self.train_state.params,
      jax.ShapeDtypeStruct((1, length), jnp.int32),
    )
    return encoded.shape[1] - length

  def trace_train_step(self, train_state: Any, batch: Any) -> Any:
    """Refuses: there is no one program of a step."""
    raise ValueError(
      "A step on batches by length is made of programs of several shapes, "
      "which are known when the examples are: leave gin/runs/by_length.gin "
      "out. The padded batch needs more memory."
    )

  def _microbatches(self, batch: lengths.Features) -> Iterator[Any]:
    """Cuts this process's part of a batch, as all processes cut theirs."""
    rows, longest = batch[lengths.INPUTS].shape
    layout = self._partitioner.get_data_layout(
      self._partitioner.mesh.shape["data"]
    )
    shapes = lengths.shapes(
      rows,
      longest,
      self._num_lengths,
      self._added,
      len(layout.rows),
    )
    plan = lengths.plan(
      lengths.of_inputs(batch), shapes, self._added, _longest_of_processes
    )
    for microbatch in plan:
      yield self._partitioner.shard_batch(lengths.take(batch, microbatch))

  def _divisor_of(self, batch: lengths.Features) -> jax.Array:
    """Computes what the loss of the whole batch is divided by."""
    targets = {k: x for k, x in batch.items() if k.startswith("decoder_")}
    return self._divisor(self._partitioner.shard_batch(targets))

  def _zeros(self, batch: Any) -> Any:
    """Makes gradients and sums to add to."""
    shapes = jax.eval_shape(
      lambda state, batch: trainer.value_and_grad(
        self._model, state.trainable, state.frozen, batch, self._rng
      ),
      self.train_state,
      batch,
    )
    return self._partitioner.partition(
      lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes),
      out_axis_resources=(self._axes.trainable, self._partitioner.sharding()),
    )

  def _step(self, batch: Any, before: Any) -> models.MetricSums:
    divisor = self._divisor_of(batch)
    parts = list(self._microbatches(batch))
    if not hasattr(self, "_make_zeros"):
      self._make_zeros = self._zeros(parts[0])
    jax.block_until_ready(before)
    total = self._make_zeros()
    for number, part in enumerate(parts):
      total = self._add_gradients(
        self.train_state, total, part, divisor, np.int32(number)
      )
    # What is frozen stays where it is: others may use the same arrays.
    frozen = self.train_state.frozen
    own, sums = self._apply(self.train_state.replace(frozen={}), total)
    self.train_state = own.replace(frozen=frozen)
    return sums

  def _eval_sums(self, batch: Any) -> models.MetricSums:
    divisor = self._divisor_of(batch)
    sums = [
      self._eval_part(self.train_state, part, divisor)
      for part in self._microbatches(batch)
    ]
    return jax.tree.map(lambda *x: sum(x), *sums)


def _longest_of_processes(ordered: np.ndarray) -> np.ndarray:
  """Makes lengths with which every process plans the same microbatches."""
  if jax.process_count() == 1:
    return ordered
  return np.asarray(multihost_utils.process_allgather(ordered)).max(axis=0)
