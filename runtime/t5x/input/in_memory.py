"""Small data sets that are prepared once: each epoch is an order of their rows.

tf.data prepares each example in each epoch anew, for the same result, on the
cores that train a small model. Where there is no chance in it, the prepared
rows are kept, and repeated and shuffled as seqio does.
"""

from collections.abc import Mapping
from typing import Any

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
  tasks = [x for x in seqio.get_subtasks(provider) if split in x.splits]
  counts = [task.num_input_examples(split) for task in tasks]
  return (
    bool(tasks)
    and all(count is not None for count in counts)
    and sum(filter(None, counts)) <= MAX_EXAMPLES * len(tasks)
    and all(map(_has_no_chance, tasks))
  )


def _has_no_chance(task: seqio.Task) -> bool:
  if not task.supports_caching or task._shuffle_buffer_size is None:
    return False
  steps = task._preprocessor_constructor_args
  names = [type(x).__name__ for x in steps]
  behind = steps[names.index(seqio.CacheDatasetPlaceholder.__name__) + 1 :]
  # `partial` makes one of partials, so there is one to look into.
  return all(getattr(x, "func", x) in _WITHOUT_CHANCE for x in behind)


def shuffled(
  mixture_or_task_name: seqio.Task | seqio.Mixture,
  task_feature_lengths: Mapping[str, int],
  dataset_split: str,
  feature_converter: seqio.FeatureConverter,
  seed: int,
  **arguments: Any,
) -> tf.data.Dataset:
  """Makes the data set of `seqio.get_dataset`, shuffled and repeated for ever.

  Args:
    mixture_or_task_name: As the others, an argument of `seqio.get_dataset`; one
      for which `is_possible` is true.
    task_feature_lengths: Task feature -> tokens.
    dataset_split: The split.
    feature_converter: To the model's features, without packing.
    seed: Of the order.
    **arguments: `use_cached` and `trim_output_features`.
  """
  provider = mixture_or_task_name
  subtasks = seqio.get_subtasks(provider)
  tasks = [task for task in subtasks if dataset_split in task.splits]
  datasets = []
  for task in tasks:
    rows = task.get_dataset(
      task_feature_lengths,
      split=dataset_split,
      shuffle=True,
      shuffle_buffer_size=1,  # In the order in which they come to be shuffled.
      seed=seed,
      num_epochs=1,
      **arguments,
    )
    kept = feature_converter(rows, task_feature_lengths).cache().repeat()
    assert task._shuffle_buffer_size is not None, "is_possible looked"
    datasets.append(kept.shuffle(task._shuffle_buffer_size, seed=seed))
  if isinstance(provider, seqio.Task):
    return datasets[0]
  rates = provider._get_all_mixing_rates(tasks)
  return provider._sample_fn(datasets, rates, seed)
