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
# Their ability shows in a probe of ladder_m (results/tables/ladder.md). That of
# ReCoRD (who it is of two people) and WiC (two senses of a word) did not. WSC's
# (who a pronoun is) is right in all cases from size xs on, and tells few models
# apart.
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
