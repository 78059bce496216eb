"""Errors of damaged files of examples; TensorFlow's do not name the file."""

from collections.abc import Iterator, Sequence
import contextlib
import os

import seqio
import tensorflow as tf

from t5x.input.datasets import DatasetConfig


@contextlib.contextmanager
def named(cfgs: Sequence[DatasetConfig]) -> Iterator[None]:
  """Turns TensorFlow's error into one that names a damaged file of examples.

  Args:
    cfgs: The examples that may be read inside the context.

  Raises:
    ValueError: if TensorFlow cannot read or prepare the examples.
  """
  try:
    yield
  except tf.errors.OpError as error:
    for file in (file for cfg in cfgs for file in _files(cfg)):
      if _is_damaged(file):
        raise ValueError(
          f"The examples in {file} cannot be read: {error.message:.300}. Get "
          "another copy, or build the data again."
        ) from error
    names = ", ".join(dict.fromkeys(cfg.name for cfg in cfgs))
    raise ValueError(
      f"The examples of {names} cannot be prepared: {error.message:.300}"
    ) from error


def _files(cfg: DatasetConfig) -> Iterator[str]:
  """Yields the files of records with the examples of a split."""
  for task in seqio.get_subtasks(cfg.task_or_mixture()):
    if cfg.split in (task.splits or ()):
      if cfg.use_cached and task.cache_dir:
        prefix = seqio.get_cached_tfrecord_prefix(task.cache_dir, cfg.split)
        yield from tf.io.gfile.glob(f"{prefix}-*")
      elif not isinstance(task.source, seqio.TextLineDataSource):
        yield from map(os.fspath, task.source.list_shards(cfg.split))


def _is_damaged(file: str) -> bool:
  """Returns whether TensorFlow cannot read a file of records."""
  try:
    for _ in tf.data.TFRecordDataset(file) if tf.io.gfile.exists(file) else ():
      pass
    return False
  except tf.errors.OpError:
    return True
