"""The miniature as seqio tasks, in place of the real SuperGLUE.

Importing this module registers
`mini_{boolq,cb,copa,multirc,record,rte,wic,wsc}` and their mixture
`mini_super_glue` (each also as `..._prefixed`), with the preprocessors,
postprocessors and metrics of the real tasks. The examples are generated when
they are first read.

The longest inputs, in pieces of T5's vocabulary with the end of sequence: 74 in
record, 52 in rte, 49 in boolq and multirc, 41 in copa and wic, 40 in cb, 26 in
wsc. The longest target has 6.
"""

from collections.abc import Callable, Mapping, Sequence
import random
from typing import Any

import seqio
import tensorflow as tf

from prompt_tuning.data import superglue
from prompt_tuning.mini import examples, world

PREFIX = "mini"


class GeneratedDataSource(seqio.DataSource):
  """The examples of a task, generated when they are first read."""

  def __init__(
    self,
    generate: Callable[[str], Sequence[world.Features]],
    examples_per_split: Mapping[str, int],
  ):
    """Takes the generator.

    Args:
      generate: split -> its examples, always the same.
      examples_per_split: How many that will be.
    """
    self._generate = generate
    super().__init__(
      splits=list(examples_per_split),
      num_input_examples=dict(examples_per_split),
    )

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
    """A split's examples, with TFDS's features."""
    del shard_info, unused  # There is one shard.
    rows = list(self._generate(split))
    if shuffle:
      random.Random(seed).shuffle(rows)
    dataset = tf.data.Dataset.from_tensor_slices(_columns(rows))
    # Mapping turns rows of ragged columns into plain tensors, as TFDS's are.
    return dataset.map(lambda example: example)


def _columns(rows: list[dict[str, Any]]) -> Any:
  """Turns examples into one tensor for each feature, typed as TFDS does."""

  def column(name: str, values: list[Any]) -> Any:
    if isinstance(values[0], dict):
      return _columns(values)
    if isinstance(values[0], list):
      return tf.ragged.constant(values, tf.string)
    if isinstance(values[0], str):
      return tf.constant(values)
    return tf.constant(values, tf.int64 if name == "label" else tf.int32)

  return {name: column(name, [row[name] for row in rows]) for name in rows[0]}


def source_of(task: str) -> GeneratedDataSource:
  """Makes the source of a mini task, named as in `examples.examples`."""
  return GeneratedDataSource(
    lambda split: [e.features for e in examples.examples(task, split)],
    examples.EXAMPLES_PER_SPLIT,
  )


superglue.add_tasks(PREFIX, lambda row: source_of(row.name))
superglue.add_mixture(
  f"{PREFIX}_super_glue",
  {
    f"{PREFIX}_{row.name}": examples.EXAMPLES_PER_SPLIT["train"]
    for row in superglue.SUPER_GLUE
  },
)
