"""Examples that are generated, as a source of seqio tasks."""

import abc
from typing import Any

import seqio
import tensorflow as tf


class GeneratedSource(seqio.DataSource, abc.ABC):
  """A source of one shard, whose examples are made when they are first read."""

  @abc.abstractmethod
  def columns(self, split: str, shuffle: bool, seed: int | None) -> Any:
    """Makes a split.

    Args:
      split: Which.
      shuffle: Whether its order is drawn.
      seed: Of the order.

    Returns:
      A nest of tensors, an example for each index of their first axis.
    """

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return False

  def list_shards(self, split: str) -> list[str]:
    return [split]

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
