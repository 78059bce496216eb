"""Facts that a run takes from its task: class words, labels, lengths.

Tasks and mixtures go by their names in seqio. The `module` that registers them
is imported first, because gin needs the facts before the trainer reads data.
"""

from collections.abc import Iterator, Sequence
import functools

import seqio
import tensorflow as tf

from prompt_tuning.data import task_lookup, task_names, task_rows
from prompt_tuning.data import vocabulary as vocabulary_lib

# If lengths have a limit, only the first examples of a split are read. A longer
# example after them is truncated.
MAX_EXAMPLES = 20_000


def task_name(task: str | None) -> str:
  """Returns the name of the task in use.

  Raises:
    ValueError: if none was given.
  """
  if task is None:
    raise ValueError(task_names.NONE_GIVEN)
  return task


def class_words(task: str, module: str | None = None) -> tuple[str, ...]:
  """Returns the words that a prompt from class labels starts with.

  They are the task's labels. For tasks with free text they are the words that
  the paper chose (section 3.2), or none. A mixture has all words of its tasks,
  each once.

  Args:
    task: The name.
    module: The module that registers it, or None.

  Raises:
    ValueError: if a task has no known labels.
  """
  words = (
    word
    for name in _names(task, module)
    for word in _row(name, "CLASS_LABELS").class_words
  )
  return tuple(dict.fromkeys(words))


def labels(task: str, module: str | None = None) -> tuple[str, ...]:
  """Returns the legal targets of a task, in class order.

  Args:
    task: The name. Of a mixture, all tasks must have the same labels.
    module: The module that registers it, or None.

  Raises:
    ValueError: if it has no fixed set of labels, or they are unknown.
  """
  names = list(_names(task, module))
  found = {_row(name, "RANKED_LABELS").labels for name in names}
  if len(found) > 1:
    raise ValueError(
      f"The tasks of {task} have different labels: {sorted(found)}. Rank one "
      "task at a time."
    )
  if not (labels := found.pop()):
    raise ValueError(
      f"The answers of {task} are free text, not one of a set of labels. "
      "Evaluate it by generation; WSC also comes with labels, as "
      "super_glue_wsc_classification."
    )
  return labels


def lengths(
  task: str,
  vocabulary: seqio.Vocabulary,
  module: str | None = None,
  splits: Sequence[str] = ("train",),
  longest: int | None = 512,
) -> dict[str, int]:
  """Returns the length that each feature of a task needs.

  It is the length of the longest example read, the same on every host. Targets
  that are labels need not be read.

  Args:
    task: The name; of a mixture, all tasks count.
    vocabulary: The model's, which the tasks use.
    module: The module that registers it, or None.
    splits: The splits to read, if a task has them.
    longest: The largest length to return. If given, only the first
      `MAX_EXAMPLES` of each task and split are read, otherwise all.

  Returns:
    Feature -> tokens, with the end of sequence.

  Raises:
    ValueError: if the task has no examples in these splits.
  """
  found: dict[str, int] = {}
  for name in _names(task, module):
    of_task = _longest(
      name, tuple(splits), longest, vocabulary_lib.Hashable(vocabulary)
    )
    for feature, length in of_task.items():
      found[feature] = max(found.get(feature, 0), length)
  if not found or not all(found.values()):
    provider = task_lookup.find(task, module=module)
    task_lookup.check_split(provider, splits[-1])
    raise ValueError(
      f"Expected examples of {task} in one of {list(splits)}, to measure their "
      "lengths, got none. Give the lengths: "
      '--gin.TASK_FEATURE_LENGTHS=\'{"inputs": 256, "targets": 8}\''
    )
  return found


def _examples(task: seqio.Task, split: str) -> tf.data.Dataset:
  """Opens a split as `t5x.input.pipelines.build`, which Google's T5X lacks."""
  arguments = (None, split, False, False)
  try:
    make = tf.autograph.experimental.do_not_convert(task.get_dataset)
    return make(*arguments, num_epochs=1)
  except Exception:
    return task.get_dataset(*arguments, num_epochs=1)


@functools.cache  # Every data set of a run calls this.
def _longest(
  name: str,
  splits: tuple[str, ...],
  longest: int | None,
  hashable: vocabulary_lib.Hashable,
) -> dict[str, int]:
  """Returns feature -> tokens of a task; 0 if there is no example."""
  task = vocabulary_lib.with_vocabulary(
    seqio.TaskRegistry.get(name), hashable.vocabulary
  )
  limit = longest or 2**31
  found = dict.fromkeys(task.output_features, 0)
  row = task_rows.ROWS.get(name)
  if row is not None and row.labels:
    feature = task.output_features["targets"]
    found["targets"] = max(
      len(feature.vocabulary.encode(label)) + feature.add_eos
      for label in row.labels
    )
  unread = {feature for feature, length in found.items() if not length}
  for split in set(splits) & set(task.splits):
    sizes_of_batches = (
      _examples(task, split)
      .take(MAX_EXAMPLES if longest else -1)
      .map(
        lambda example: {x: tf.shape(example[x])[0] for x in unread},
        num_parallel_calls=tf.data.AUTOTUNE,
      )
      .batch(500)
    )
    for sizes in sizes_of_batches.as_numpy_iterator():
      for feature in unread:
        found[feature] = max(found[feature], int(sizes[feature].max()))
      if all(found[feature] >= limit for feature in unread):
        break
  return {feature: min(length, limit) for feature, length in found.items()}


def _names(task: str, module: str | None) -> Iterator[str]:
  found = task_lookup.find(task, module=module)
  return (task.name for task in seqio.get_subtasks(found))


def _row(name: str, macro: str) -> task_rows.TaskRow:
  if name not in task_rows.ROWS:
    raise ValueError(
      f"The labels of {name!r} are unknown. Register it with "
      "prompt_tuning.data.task_rows.add_task, or give them: "
      f'--gin.{macro}=\'["yes", "no"]\''
    )
  return task_rows.ROWS[name]
