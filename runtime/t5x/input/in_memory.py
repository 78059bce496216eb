"""Small data sets that are prepared once: each epoch is an order of their rows.

tf.data prepares each example in each epoch anew, for the same result, on the
cores that train a small model. Where there is no chance in it, the rows are
kept, and what goes through tf.data are their numbers, repeated and shuffled as
seqio does.
"""

from collections.abc import Callable, Mapping
import functools

import seqio
import tensorflow as tf

# Of a task. More would keep a run from starting for seconds, and are read again
# by few of its steps.
MAX_EXAMPLES = 5_000
# Before its place for a cache, seqio has no chance in anything. These come
# behind it, and have none either.
_WITHOUT_CHANCE = (
  seqio.preprocessors.append_eos,
  seqio.preprocessors.append_eos_after_trim,
)


def is_possible(provider: seqio.Task | seqio.Mixture, split: str) -> bool:
  """Returns whether a split is small and its preprocessing deterministic.

  What seqio may write to a cache on disk has none in it. Of a mixture, all
  tasks must be so.
  """
  # A subclass may do as it likes.
  if type(provider) not in (seqio.Task, seqio.Mixture):
    return False
  tasks = _tasks(provider, split)
  counts = [task.num_input_examples(split) for task in tasks]
  return (
    bool(tasks)
    and all(count is not None for count in counts)
    and sum(filter(None, counts)) <= MAX_EXAMPLES * len(tasks)
    and all(map(_has_no_chance, tasks))
  )


def _tasks(
  provider: seqio.Task | seqio.Mixture, split: str
) -> list[seqio.Task]:
  if isinstance(provider, seqio.Task):
    return [provider]
  return [task for task in provider.tasks if split in task.splits]


def _has_no_chance(task: seqio.Task) -> bool:
  if not task.supports_caching or task._shuffle_buffer_size is None:
    return False
  steps = task._preprocessor_constructor_args
  names = [type(x).__name__ for x in steps]
  behind = steps[names.index(seqio.CacheDatasetPlaceholder.__name__) + 1 :]
  return all(_function(x) in _WITHOUT_CHANCE for x in behind)


def _function(preprocessor: Callable) -> Callable:
  while isinstance(preprocessor, functools.partial):
    preprocessor = preprocessor.func
  return preprocessor


def shuffled_batches(
  mixture_or_task_name: seqio.Task | seqio.Mixture,
  task_feature_lengths: Mapping[str, int],
  dataset_split: str,
  feature_converter: seqio.FeatureConverter,
  use_cached: bool,
  seed: int | None,
  trim_output_features: bool,
  batch_size: int,
) -> tf.data.Dataset | None:
  """Makes the batches of `seqio.get_dataset`, shuffled and repeated for ever.

  Args:
    mixture_or_task_name: As the others but the last one, an argument of
      `seqio.get_dataset`; one for which `is_possible` is true.
    task_feature_lengths: Task feature -> tokens.
    dataset_split: The split.
    feature_converter: To the model's features, without packing.
    use_cached: Whether to read seqio's cache.
    seed: Of the order.
    trim_output_features: Whether features are cut to their lengths.
    batch_size: Rows of a batch.

  Returns:
    The batches; None if a split has no example.
  """
  provider = mixture_or_task_name
  tasks = _tasks(provider, dataset_split)
  parts: list[Mapping[str, tf.Tensor]] = []
  orders = []
  start = 0
  for task in tasks:
    rows = task.get_dataset(
      task_feature_lengths,
      split=dataset_split,
      use_cached=use_cached,
      shuffle=True,
      shuffle_buffer_size=1,  # In the order in which they come to be shuffled.
      seed=seed,
      num_epochs=1,
      trim_output_features=trim_output_features,
    )
    features = feature_converter(rows, task_feature_lengths)
    found = list(features.batch(MAX_EXAMPLES))
    if not found:
      return None
    parts += found
    stop = start + sum(len(next(iter(part.values()))) for part in found)
    order = tf.data.Dataset.range(start, stop).repeat()
    buffer_size = task._shuffle_buffer_size
    assert buffer_size is not None, "is_possible looked"
    orders.append(order.shuffle(buffer_size, seed=seed))
    start = stop
  table = {k: tf.concat([part[k] for part in parts], 0) for k in parts[0]}
  numbers = orders[0]
  if isinstance(provider, seqio.Mixture):
    rates = provider._get_all_mixing_rates(tasks)
    numbers = provider._sample_fn(orders, rates, seed)
  return numbers.batch(batch_size, drop_remainder=True).map(
    lambda batch: {k: tf.gather(x, batch) for k, x in table.items()}
  )
