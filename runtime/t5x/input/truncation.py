"""Counts of the pieces that a model does not see: cut off, or unknown."""

from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
import contextlib
import inspect
import threading

import jax
import numpy as np
import seqio
import tensorflow as tf

from t5x import multihost
from t5x.input import pipelines
from t5x.input.datasets import DatasetConfig

# Counting takes a pass over the split, which stops after this many examples.
MAX_EXAMPLES = 200_000
# Examples of each task in which to count unknown pieces, and the least share
# that is reported.
_SAMPLE, _LEAST_SHARE = 1_000, 0.001

# Task -> feature -> the number of cut examples, and of their cut tokens.
Cuts = dict[str, dict[str, dict[str, int]]]
# Task, split, use of the cache -> feature -> [n] tokens of each example.
_Lengths = dict[tuple[str, str, bool], dict[str, np.ndarray]]


@contextlib.contextmanager
def counted_meanwhile(
  cfgs: Mapping[str, DatasetConfig],
) -> Iterator[Callable[[], dict[str, Cuts]]]:
  """Counts the cuts of several splits in a thread, during other work.

  Args:
    cfgs: Name -> the split, in one model's tokens, and the lengths.

  Yields:
    A function that waits for the counts, and returns name -> `count_cuts`.
  """
  lengths: _Lengths = {}
  is_over = threading.Event()
  with futures.ThreadPoolExecutor(1) as thread:
    counting = thread.submit(
      lambda: {
        name: count_cuts(cfg, lengths=lengths, is_over=is_over.is_set)
        for name, cfg in cfgs.items()
      }
    )
    try:
      yield counting.result
    finally:
      is_over.set()


def count_cuts(
  cfg: DatasetConfig,
  only: str | None = None,
  lengths: _Lengths | None = None,
  is_over: Callable[[], bool] = lambda: False,
) -> Cuts:
  """Counts the examples of a split that are cut.

  Args:
    cfg: The split, and the lengths; without lengths nothing is cut.
    only: The feature that is used; None means all.
    lengths: Lengths of splits that were read before; new ones are added.
    is_over: Returns whether the counts are no longer awaited.

  Returns:
    Task -> feature -> {"examples": the number of cut ones, "of": all examples,
    "tokens": the number of tokens cut in all, "longest": the longest example in
    tokens, end of sequence included}. It has only features that are cut, and is
    empty except in the first process. A task that makes examples of the given
    lengths, such as span corruption, has nothing to cut.
  """
  cuts: Cuts = {}
  limits = cfg.task_feature_lengths
  if limits is None or jax.process_index():
    return cuts
  lengths = {} if lengths is None else lengths
  for task in seqio.get_subtasks(cfg.task_or_mixture()):
    required = (
      inspect.signature(x).parameters.get("sequence_length")
      for x in task.preprocessors
    )
    makes_lengths = any(x and x.default is x.empty for x in required)
    if cfg.split not in (task.splits or ()) or makes_lengths:
      continue
    key = (task.name, cfg.split, cfg.use_cached)
    if key not in lengths:
      lengths[key] = _lengths(task, cfg, is_over)
    for name, column in lengths[key].items():
      if name not in limits or only not in (None, name):
        continue
      lost = (column - limits[name]).clip(min=0)
      if lost.any():
        cuts.setdefault(task.name, {})[name] = {
          "examples": int((lost > 0).sum()),
          "of": len(column),
          "tokens": int(lost.sum()),
          "longest": int(column.max()),
        }
  return cuts


def _lengths(
  task: seqio.Task, cfg: DatasetConfig, is_over: Callable[[], bool]
) -> dict[str, np.ndarray]:
  """Reads feature -> [n] tokens of each example of a split."""
  features = list(task.output_features)
  batches = (
    pipelines.build(
      task.get_dataset,
      None,
      cfg.split,
      use_cached=cfg.use_cached,
      shuffle=False,
      num_epochs=1,
    )
    .take(MAX_EXAMPLES)
    .map(
      lambda example: {name: tf.shape(example[name])[0] for name in features},
      num_parallel_calls=tf.data.AUTOTUNE,
    )
    .batch(1_000)
    .as_numpy_iterator()
  )
  columns = {name: [np.zeros(0, int)] for name in features}
  for batch in batches:
    if is_over():
      break
    for name, lengths in batch.items():
      columns[name].append(lengths)
  return {name: np.concatenate(parts) for name, parts in columns.items()}


def check_known(cfg: DatasetConfig) -> Iterator[str]:
  """Yields a sentence if the vocabulary lacks pieces of a split's inputs.

  A vocabulary encodes text that it lacks, such as another script, as one piece
  without meaning. Every process calls this.

  Raises:
    ValueError: if it lacks more than `cfg.max_unknown` of the pieces of the
      first examples.
  """
  unknown, size = 0, 0
  tasks = seqio.get_subtasks(cfg.task_or_mixture())
  for task in tasks if jax.process_index() == 0 else ():
    feature = task.output_features.get("inputs")
    piece = getattr(feature and feature.vocabulary, "unk_id", None)
    if piece is not None and cfg.split in (task.splits or ()):
      dataset = pipelines.build(
        task.get_dataset,
        cfg.task_feature_lengths,
        cfg.split,
        cfg.use_cached,
        shuffle=False,
      )
      for example in dataset.take(_SAMPLE).as_numpy_iterator():
        unknown += int((example["inputs"] == piece).sum())
        size += example["inputs"].size
  share = multihost.from_first_process(unknown / max(size, 1))
  text = (
    f"{cfg.name}, {cfg.split} split: the vocabulary does not know {share:.1%} "
    "of the pieces of the inputs, and the model cannot tell them apart."
  )
  if share > cfg.max_unknown:
    raise ValueError(
      f"{text} Choose a model that knows them; to train anyway, bind "
      "utils.DatasetConfig.max_unknown = 1 or, in Python, pass max_unknown=1."
    )
  if share >= _LEAST_SHARE:
    yield text


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
