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

# What seqio takes for small: it keeps as many examples in memory itself.
MAX_EXAMPLES = 10_000
# Before its place for a cache, seqio has no chance in anything. These come
# behind it, and have none either.
_WITHOUT_CHANCE = (
  seqio.preprocessors.append_eos,
  seqio.preprocessors.append_eos_after_trim,
)


def is_possible(provider: seqio.Task | seqio.Mixture, split: str) -> bool:
  """Whether the examples of a split are few, and prepared without chance.

  What seqio may write to a cache on disk has none in it.
  """
  if not isinstance(provider, seqio.Task) or not provider.supports_caching:
    return False
  names = [type(x).__name__ for x in provider._preprocessor_constructor_args]
  behind = provider._preprocessor_constructor_args[
    names.index(seqio.CacheDatasetPlaceholder.__name__) + 1 :
  ]
  count = provider.num_input_examples(split)
  return (
    provider._shuffle_buffer_size is not None
    and count is not None
    and count <= MAX_EXAMPLES
    and all(_function(x) in _WITHOUT_CHANCE for x in behind)
  )


def _function(preprocessor: Callable) -> Callable:
  while isinstance(preprocessor, functools.partial):
    preprocessor = preprocessor.func
  return preprocessor


def shuffled_batches(
  mixture_or_task_name: seqio.Task,
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
      `seqio.get_dataset`; a task for which `is_possible` is true.
    task_feature_lengths: Task feature -> tokens.
    dataset_split: The split.
    feature_converter: To the model's features, without packing.
    use_cached: Whether to read seqio's cache.
    seed: Of the order.
    trim_output_features: Whether features are cut to their lengths.
    batch_size: Rows of a batch.

  Returns:
    The batches; None if the split has no example.
  """
  task = mixture_or_task_name
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
  parts = list(features.batch(MAX_EXAMPLES))
  if not parts:
    return None
  table = {k: tf.concat([x[k] for x in parts], axis=0) for k in parts[0]}
  count = len(next(iter(table.values())))
  numbers = tf.data.Dataset.range(count).repeat()
  numbers = numbers.shuffle(task._shuffle_buffer_size, seed=seed)
  return numbers.batch(batch_size, drop_remainder=True).map(
    lambda batch: {k: tf.gather(x, batch) for k, x in table.items()}
  )
