"""Configurations that gin files bind, and inference on a whole data set."""

from collections.abc import Callable, Iterable, Mapping, Sequence
import contextlib
import dataclasses
import inspect
import re
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import PositiveInt

from t5x import checkpoints, models
from t5x.configuration import arguments
from t5x.input import lengths
from t5x.input.datasets import (
  DatasetConfig,
  get_dataset,
  verify_matching_vocabs,
)
from t5x.optimizers import create_learning_rate_scheduler
from t5x.partitioning import PjitPartitioner
from t5x.train_state import TrainState

__all__ = [
  "CheckpointConfig",
  "DatasetConfig",
  "RestoreCheckpointConfig",
  "SaveCheckpointConfig",
  "create_learning_rate_scheduler",
  "get_dataset",
  "get_infer_fn",
  "partition_infer_step",
  "verify_matching_vocabs",
]
# The index and the results of each example.
Results = list[tuple[int, Any]]


@dataclasses.dataclass
class SaveCheckpointConfig:
  """The period of checkpoints, and the number to keep.

  Attributes:
    period: Steps between checkpoints; None saves at the end only.
    keep: How many checkpoints to keep; None keeps all.
    checkpointer_cls: `checkpoints.Checkpointer` or `SaveBestCheckpointer`.
  """

  period: PositiveInt | None = None
  keep: PositiveInt | None = None
  checkpointer_cls: Callable[..., checkpoints.Checkpointer] = (
    checkpoints.Checkpointer
  )

  def __post_init__(self):
    arguments.check(type(self), {"period": self.period, "keep": self.keep})


@dataclasses.dataclass
class RestoreCheckpointConfig:
  """The base checkpoint that a run starts from.

  Attributes:
    path: A checkpoint, or a folder of checkpoints; None starts from scratch.
    mode: "specific" or "latest", for Google's T5X. Here the path decides: it is
      a checkpoint, or a folder whose newest checkpoint is read.
    assignment_map: Pairs (regular expression, replacement): a parameter whose
      name `target/...` matches in full is read from the replaced name; None
      takes it from its initialiser instead.
    strict: Whether a parameter that only one side has is an error. Different
      shapes always are.
    fallback_to_scratch: Whether parameters may come from initialisers.
    dtype: Dtype of restored parameters that do not train; None keeps the
      checkpoint's. Trainable parameters get the model's dtype, and parameters
      that an earlier run trained keep their checkpoint's.
    checkpoint: The checkpoint at `path`, if a program has opened it already.
  """

  path: str | None
  mode: Literal["specific", "latest"] = "latest"
  assignment_map: Sequence[tuple[str, str | None]] | None = None
  strict: bool = True
  fallback_to_scratch: bool = False
  dtype: str | None = None
  checkpoint: checkpoints.BaseCheckpoint | None = None

  def __post_init__(self):
    arguments.check(type(self), {"mode": self.mode})
    for pattern, replacement in self.assignment_map or ():
      arguments.check_pattern("assignment_map", pattern)
      try:
        # The empty alternative always matches, which expands the replacement.
        re.sub(f"{pattern}|", replacement or "", "")
      except (re.error, IndexError) as e:
        raise ValueError(
          "Expected a replacement in assignment_map with groups of its pattern "
          f"{pattern!r}, got {replacement!r}: {e}."
        ) from e
    with contextlib.suppress(TypeError):
      if self.dtype is None or jnp.issubdtype(self.dtype, jnp.floating):
        return
    raise ValueError(
      "Expected a dtype of floats, such as float32 or bfloat16, got "
      f"{self.dtype!r}. For int8, add gin/models/int8.gin."
    )

  def source(self, name: str) -> str | None:
    """Returns the checkpoint's name for a parameter of the model."""
    full = f"target/{name}"
    for pattern, replacement in self.assignment_map or ():
      if match := re.fullmatch(pattern, full):
        if replacement is None:
          return None
        return match.expand(replacement).removeprefix("target/")
    return name


@dataclasses.dataclass
class CheckpointConfig:
  """The checkpoints that a training run restores and saves."""

  save: SaveCheckpointConfig | None = None
  restore: RestoreCheckpointConfig | None = None


def partition_infer_step(
  infer_step: Callable[..., Any],
  train_state_axes: TrainState,
  partitioner: PjitPartitioner,
) -> jax.stages.Wrapped:
  """Makes the program that `get_infer_fn` runs on every batch.

  Args:
    infer_step: As for `get_infer_fn`.
    train_state_axes: As for `get_infer_fn`.
    partitioner: As for `get_infer_fn`.

  Returns:
    A function of a state, a batch and the index of the batch's first example.
  """
  samples = "rng" in inspect.signature(infer_step).parameters

  def apply(state: TrainState, batch: models.Batch, first: int) -> Any:
    if not samples:
      return infer_step(state.params, batch)
    rng = jax.random.fold_in(jax.random.PRNGKey(0), first)
    return infer_step(state.params, batch, rng=rng)

  return partitioner.partition(
    apply,
    in_axis_resources=(
      train_state_axes,
      partitioner.sharding(partitioner.data_partition_spec),
      partitioner.sharding(),
    ),
    out_axis_resources=partitioner.sharding(),
  )


def get_infer_fn(
  infer_step: Callable[..., Any],
  batch_size: int,
  train_state_axes: TrainState,
  partitioner: PjitPartitioner,
) -> Callable[..., Results]:
  """Makes a function that applies a step to every example of a data set.

  Inputs of a batch have similar lengths, so that there is little padding; see
  `lengths.plan_split`.

  Args:
    infer_step: (all parameters, batch) -> tree of arrays `[B, ...]`. A step
      that samples has a parameter `rng`; its key depends on the index of the
      batch's first example.
    batch_size: Examples of the global batch.
    train_state_axes: Shardings of the state.
    partitioner: Compiles and places the step.

  Returns:
    A function of (index, example) pairs, all of them in every process, a state
    and, optionally, a function that is called after each batch with its number
    of examples. It returns (index, tree of numpy arrays) in the order of the
    data.
  """
  step = partition_infer_step(infer_step, train_state_axes, partitioner)
  # This process's part of a batch.
  local = np.array(partitioner.local_rows(batch_size))

  def start(state: TrainState, examples: list, part: lengths.Microbatch) -> Any:
    # An incomplete batch is filled up with its first row.
    rows = np.full(part.shape.rows, part.rows[0])
    rows[: len(part.rows)] = part.rows
    batch = {
      name: np.stack([examples[row][1][name] for row in rows[local]])
      for name in examples[0][1]
    }
    return step(
      state,
      partitioner.shard_batch(lengths.cut(batch, part.shape.length)),
      np.int32(examples[part.rows[0]][0]),
    )

  def infer(
    data: Iterable[tuple[int, Mapping[str, np.ndarray]]],
    state: TrainState,
    after_batch: Callable[[int], None] | None = None,
  ) -> Results:
    examples = list(data)
    if not examples:
      return []
    sizes = np.array([lengths.count_tokens(x) for _, x in examples])
    # Batches with joined inputs and targets have no inputs to cut.
    padded = len(examples[0][1].get(lengths.INPUTS, ()))
    results: dict[int, Any] = {}

    def finish(part: lengths.Microbatch, outputs: Any) -> None:
      outputs = jax.device_get(outputs)
      for i, row in enumerate(part.rows.tolist()):
        results[row] = jax.tree.map(lambda x, i=i: x[i], outputs)
      if after_batch is not None:
        after_batch(len(part.rows))

    # The device computes a batch while the host handles the previous one.
    under_way = []
    for part in lengths.plan_split(sizes, batch_size, padded):
      under_way.append((part, start(state, examples, part)))
      if len(under_way) > 1:
        finish(*under_way.pop(0))
    finish(*under_way.pop())
    return [
      (int(index), results[row]) for row, (index, _) in enumerate(examples)
    ]

  return infer
