"""Counts of the examples that are cut to their feature lengths."""

from collections.abc import Iterator
import inspect

import jax
import numpy as np
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
    required = (
      inspect.signature(x).parameters.get("sequence_length")
      for x in task.preprocessors
    )
    makes_lengths = any(x and x.default is x.empty for x in required)
    if cfg.split not in (task.splits or ()) or makes_lengths:
      continue
    dataset = task.get_dataset(
      None, cfg.split, use_cached=cfg.use_cached, shuffle=False, num_epochs=1
    )
    features = [name for name in task.output_features if name in lengths]
    sizes = dataset.take(MAX_EXAMPLES).map(
      lambda example, features=features: [
        tf.shape(example[name])[0] for name in features
      ],
      num_parallel_calls=tf.data.AUTOTUNE,
    )
    rows = np.array(list(sizes.as_numpy_iterator())).reshape(-1, len(features))
    for name, column in zip(features, rows.T, strict=True):
      lost = (column - lengths[name]).clip(min=0)
      if lost.any():
        cuts.setdefault(task.name, {})[name] = {
          "examples": int((lost > 0).sum()),
          "of": len(column),
          "tokens": int(lost.sum()),
          "longest": int(column.max()),
        }
  return cuts


def describe(cuts: Cuts, cfg: DatasetConfig) -> Iterator[str]:
  """Describes cuts, in a sentence for each feature of a task.

  Args:
    cuts: The result of `count_cuts`.
    cfg: The configuration that it counted.
  """
  lengths = cfg.task_feature_lengths or {}
  for task, features in cuts.items():
    for feature, cut in features.items():
      yield (
        f"{task}, {cfg.split} split: {cut['examples']:,} of the {cut['of']:,} "
        f"{feature} are cut to {lengths[feature]} tokens and lose "
        f"{cut['tokens']:,}; the longest has {cut['longest']}."
      )
