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

import random
from typing import Any

import seqio
import tensorflow as tf

from prompt_tuning.data import superglue
from prompt_tuning.mini import examples

PREFIX = "mini"


class GeneratedDataSource(seqio.DataSource):
  """The examples of a task, generated when they are first read."""

  def __init__(self, task: str):
    """Names the task, as in `examples.examples`."""
    self._task = task
    super().__init__(
      splits=list(examples.EXAMPLES_PER_SPLIT),
      num_input_examples=examples.EXAMPLES_PER_SPLIT,
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
    rows = [e.features for e in examples.examples(self._task, split)]
    signature = _signature(rows[0])
    if shuffle:
      random.Random(seed).shuffle(rows)
    return tf.data.Dataset.from_generator(
      lambda: iter(rows), output_signature=signature
    )


def _signature(features: dict[str, Any]) -> dict[str, Any]:
  """The tensors of an example like this one, typed as TFDS does."""

  def spec(name: str, value: Any) -> Any:
    if isinstance(value, dict):
      return _signature(value)
    if isinstance(value, list):
      return tf.TensorSpec([None], tf.string)
    if isinstance(value, str):
      return tf.TensorSpec([], tf.string)
    return tf.TensorSpec([], tf.int64 if name == "label" else tf.int32)

  return {name: spec(name, value) for name, value in features.items()}


superglue.add_tasks(PREFIX, lambda row: GeneratedDataSource(row.name))
superglue.add_mixture(
  f"{PREFIX}_super_glue",
  {
    f"{PREFIX}_{row.name}": examples.EXAMPLES_PER_SPLIT["train"]
    for row in superglue.SUPER_GLUE
  },
)
