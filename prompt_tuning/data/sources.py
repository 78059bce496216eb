"""Sources of seqio tasks whose examples are not on disk in TFDS's form."""

from collections.abc import Callable, Mapping, Sequence
import random
from typing import Any

import seqio
import tensorflow as tf


class ExampleSource(seqio.DataSource):
  """A source of one shard, whose examples are made when they are first read."""

  def __init__(
    self,
    generate: Callable[[str], Sequence[Any]],
    examples_per_split: Mapping[str, int],
  ):
    """Stores the generator.

    Args:
      generate: Maps a split to its examples, which are the same in every call:
        dictionaries with TFDS's features, unless `columns` is overridden.
      examples_per_split: Split -> number of examples.
    """
    self.generate = generate
    super().__init__(
      splits=list(examples_per_split),
      num_input_examples=dict(examples_per_split),
    )

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return False

  def list_shards(self, split: str) -> list[str]:
    return [split]

  def columns(self, split: str, shuffle: bool, seed: int | None) -> Any:
    """Makes a split.

    Args:
      split: The split.
      shuffle: Whether to shuffle its examples.
      seed: The seed of the order.

    Returns:
      A nest of tensors, with an example for each index of their first axis.
    """
    rows = list(self.generate(split))
    if shuffle:
      random.Random(seed).shuffle(rows)
    return _columns(rows)

  def get_dataset(
    self,
    split: str = "train",
    shuffle: bool = True,
    seed: int | None = None,
    shard_info: seqio.ShardInfo | None = None,
    **unused: Any,
  ) -> tf.data.Dataset:
    """Returns a split's examples; see `columns`."""
    del shard_info, unused  # There is one shard.
    dataset = tf.data.Dataset.from_tensor_slices(
      self.columns(split, shuffle, seed)
    )
    # Mapping turns rows of ragged columns into plain tensors, as TFDS's are.
    return dataset.map(lambda example: example)


def _columns(rows: Sequence[Mapping[str, Any]]) -> Any:
  """Turns examples into one tensor for each feature, typed as TFDS does."""

  def column(name: str, values: list[Any]) -> Any:
    if isinstance(values[0], Mapping):
      return _columns(values)
    if isinstance(values[0], list):
      return tf.ragged.constant(values, tf.string)
    if isinstance(values[0], str):
      return tf.constant(values)
    return tf.constant(values, tf.int64 if name == "label" else tf.int32)

  return {name: column(name, [row[name] for row in rows]) for name in rows[0]}
