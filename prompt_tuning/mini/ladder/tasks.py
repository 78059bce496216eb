"""The ladder's tasks, through seqio, with SuperGLUE's forms and metrics.

Importing this module registers
`ladder_{boolq,cb,copa,multirc,record,rte,wic,wsc}` and the mixture `ladder`,
each also as `..._prefixed`, and the pretraining tasks of `corpus`.
"""

from prompt_tuning.data import superglue
from prompt_tuning.mini import tasks
from prompt_tuning.mini.ladder import corpus, examples

__all__ = ["corpus"]

PREFIX = "ladder"

superglue.add_tasks(
  PREFIX,
  lambda row: tasks.GeneratedDataSource(
    lambda split: examples.examples(row.name, split),
    examples.EXAMPLES_PER_SPLIT,
  ),
)
superglue.add_mixture(
  PREFIX,
  {
    f"{PREFIX}_{row.name}": examples.EXAMPLES_PER_SPLIT["train"]
    for row in superglue.SUPER_GLUE
  },
)
