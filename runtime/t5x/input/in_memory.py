"""Small data sets that are prepared once; each epoch reorders their rows.

tf.data prepares each example again in each epoch, with the same result, on the
cores that train a small model. If the preparation is deterministic, the
prepared rows are kept, and repeated and shuffled as seqio does.
"""

from collections.abc import Mapping
from typing import Any

import seqio
import tensorflow as tf

# The greatest mean size of the tasks. Preparing more would delay a run by
# seconds, and few of its steps would read an example again.
MAX_EXAMPLES = 5_000
# Preprocessors before seqio's place for a cache are deterministic. These come
# after it, and are deterministic too.
_WITHOUT_CHANCE = (
  seqio.preprocessors.append_eos,
  seqio.preprocessors.append_eos_after_trim,
)


def is_possible(provider: seqio.Task | seqio.Mixture, split: str) -> bool:
  """Returns whether a split is small and its preprocessing deterministic.

  Examples that seqio may write to a cache on disk are deterministic. All tasks
  of a mixture must be.
  """
  # A subclass may behave differently.
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
  # `partial` flattens nested partials, so one `func` is enough.
  return all(getattr(x, "func", x) in _WITHOUT_CHANCE for x in behind)


def shuffled(
  mixture_or_task_name: seqio.Task | seqio.Mixture,
  task_feature_lengths: Mapping[str, int],
  dataset_split: str,
  feature_converter: seqio.FeatureConverter,
  seed: int,
  **arguments: Any,
) -> tf.data.Dataset:
  """Makes the data set of `seqio.get_dataset`, shuffled and repeated forever.

  The arguments are those of `seqio.get_dataset`.

  Args:
    mixture_or_task_name: A task or mixture for which `is_possible` is true.
    task_feature_lengths: Task feature -> tokens.
    dataset_split: The split.
    feature_converter: Makes the model's features, without packing.
    seed: Seed of the order.
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
      shuffle_buffer_size=1,  # Keeps the order from before the shuffling.
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
