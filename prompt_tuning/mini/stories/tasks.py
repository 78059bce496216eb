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

import tensorflow as tf

from prompt_tuning.data import superglue
from prompt_tuning.mini.sources import GeneratedSource
from prompt_tuning.mini.stories import examples, world

PREFIX = "mini"


class ExampleSource(GeneratedSource):
  """The examples of a task."""

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

  def columns(self, split: str, shuffle: bool, seed: int | None) -> Any:
    """A split's examples, with TFDS's features."""
    rows = list(self._generate(split))
    if shuffle:
      random.Random(seed).shuffle(rows)
    return _columns(rows)


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


def source_of(task: str) -> ExampleSource:
  """Makes the source of a mini task, named as in `examples.examples`."""
  return ExampleSource(
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
