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

from prompt_tuning.data import superglue
from prompt_tuning.data.sources import ExampleSource
from prompt_tuning.mini.stories import examples

PREFIX = "mini"


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
