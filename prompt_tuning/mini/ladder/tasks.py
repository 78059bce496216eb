"""The ladder's tasks, through seqio, with SuperGLUE's forms and metrics.

Importing this module registers
`ladder_{boolq,cb,copa,multirc,record,rte,wic,wsc}` and their mixture `ladder`,
each also as `..._prefixed`, and the tasks of `corpus` and `probes`.
"""

from prompt_tuning.data import superglue
from prompt_tuning.data.sources import ExampleSource
from prompt_tuning.mini.ladder import corpus, examples, probes

__all__ = ["corpus", "probes"]

PREFIX = "ladder"
# The tasks whose ability shows in a probe of ladder_m
# (results/tables/ladder.md). Those of ReCoRD (which of two people) and WiC (two
# senses of a word) do not. That of WSC (a pronoun's person) is always right
# from size xs on, and so distinguishes few models.
IN_LADDER = (
  superglue.BOOLQ,
  superglue.CB,
  superglue.COPA,
  superglue.MULTIRC,
  superglue.RTE,
)

superglue.add_tasks(
  PREFIX,
  lambda row: ExampleSource(
    lambda split: examples.examples(row.name, split),
    examples.EXAMPLES_PER_SPLIT,
  ),
)
superglue.add_mixture(
  PREFIX,
  {
    f"{PREFIX}_{row.name}": examples.EXAMPLES_PER_SPLIT["train"]
    for row in IN_LADDER
  },
)
