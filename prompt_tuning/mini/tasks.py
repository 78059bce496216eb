"""The miniature as seqio tasks, in place of the real SuperGLUE.

Importing this module registers
`mini_{boolq,cb,copa,multirc,record,rte,wic,wsc}` and their mixture
`mini_super_glue` (each also as `..._prefixed`), with the preprocessors,
postprocessors and metrics of the real tasks. The examples are generated when
they are first read.
"""

import functools
from typing import Any

import seqio
import tensorflow as tf

from prompt_tuning.data import superglue
from prompt_tuning.mini import examples

PREFIX = "mini"


def dataset(
  split: str, shuffle_files: bool = False, seed: int | None = None, *, task: str
) -> tf.data.Dataset:
  """A split's examples, with TFDS's features; nothing to shuffle."""
  del shuffle_files, seed
  rows = [example.features for example in examples.examples(task, split)]
  return tf.data.Dataset.from_generator(
    lambda: iter(rows), output_signature=_signature(rows[0])
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


def _source(row: superglue.SuperGlueTask) -> seqio.DataSource:
  return seqio.FunctionDataSource(
    functools.partial(dataset, task=row.name),
    splits=list(examples.EXAMPLES_PER_SPLIT),
    num_input_examples=examples.EXAMPLES_PER_SPLIT,
  )


superglue.add_tasks(PREFIX, _source)
superglue.add_mixture(
  f"{PREFIX}_super_glue",
  {
    f"{PREFIX}_{row.name}": examples.EXAMPLES_PER_SPLIT["train"]
    for row in superglue.SUPER_GLUE
  },
)
