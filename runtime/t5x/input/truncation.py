"""Counts of the examples that are cut to their feature lengths."""

import collections
from collections.abc import Iterator, Mapping
import inspect

import jax
import seqio
import tensorflow as tf

from t5x.input.datasets import DatasetConfig

# Counting takes a pass over the split: of more examples, the first ones.
MAX_EXAMPLES = 200_000

# Task -> feature -> how many examples are cut, and by how many tokens.
Cuts = dict[str, dict[str, dict[str, int]]]


def count_cuts(cfg: DatasetConfig, only: str | None = None) -> Cuts:
  """Counts the examples of a split that are cut.

  Args:
    cfg: The split, and the lengths; without lengths nothing is cut.
    only: The feature that is used; None means all.

  Returns:
    Task -> feature -> {"examples": how many are cut, of "of", "tokens": how
    many they lose in all, "longest": tokens, end of sequence included}. It has
    only the features that are cut, and is empty but on the first process. A
    task that makes examples of the lengths, as span corruption does, has
    nothing to cut.
  """
  cuts: Cuts = {}
  lengths = cfg.task_feature_lengths
  if lengths is None or jax.process_index():
    return cuts
  if only is not None:
    lengths = {only: lengths[only]}
  for task in seqio.get_subtasks(cfg.task_or_mixture()):
    if cfg.split not in (task.splits or ()) or _needs_lengths(task):
      continue
    for feature, cut in _count(task, cfg, lengths).items():
      cuts.setdefault(task.name, {})[feature] = cut
  return cuts


def describe(
  cuts: Cuts, cfg: DatasetConfig, only: str | None = None
) -> Iterator[str]:
  """Describes cuts, in a sentence for each feature of a task.

  Args:
    cuts: The result of `count_cuts`.
    cfg: The configuration that it counted.
    only: The name of one task; None means all.
  """
  lengths = cfg.task_feature_lengths or {}
  for task, features in cuts.items():
    if only not in (None, task):
      continue
    for feature, cut in features.items():
      yield (
        f"{task}, {cfg.split} split: {cut['examples']:,} of the {cut['of']:,} "
        f"{feature} are cut to {lengths[feature]} tokens and lose "
        f"{cut['tokens']:,}; the longest has {cut['longest']}."
      )


def _needs_lengths(task: seqio.Task) -> bool:
  """Returns whether a preprocessor requires the lengths."""
  parameters = (inspect.signature(x).parameters for x in task.preprocessors)
  return any(
    "sequence_length" in x
    and x["sequence_length"].default is inspect.Parameter.empty
    for x in parameters
  )


def _count(
  task: seqio.Task, cfg: DatasetConfig, lengths: Mapping[str, int]
) -> dict[str, dict[str, int]]:
  dataset = task.get_dataset(
    sequence_length=None,
    split=cfg.split,
    use_cached=cfg.use_cached,
    shuffle=False,
    num_epochs=1,
  )
  features = [name for name in task.output_features if name in lengths]
  dataset = dataset.map(
    lambda example: {name: tf.shape(example[name])[0] for name in features},
    num_parallel_calls=tf.data.AUTOTUNE,
  )
  counts = {name: collections.Counter() for name in features}
  seen = 0
  for batch in dataset.take(MAX_EXAMPLES).batch(1000).as_numpy_iterator():
    for name, sizes in batch.items():
      lost = (sizes - lengths[name]).clip(min=0)
      counts[name]["examples"] += int((lost > 0).sum())
      counts[name]["tokens"] += int(lost.sum())
      counts[name]["longest"] = max(counts[name]["longest"], int(sizes.max()))
    seen += len(next(iter(batch.values())))
  return {
    name: {**count, "of": seen}
    for name, count in counts.items()
    if count["examples"]
  }
