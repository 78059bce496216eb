"""Registers every task with seqio: import it, then ask seqio by name.

Besides the tasks of `task_rows`, `corpus` and `probes`, it registers those of
the two miniatures, with SuperGLUE's forms, preprocessors and metrics. Their
examples are generated when they are first read.

* `mini_{boolq,cb,copa,multirc,record,rte,wic,wsc}` and `mini_super_glue`. The
  longest inputs, in pieces of T5's vocabulary with the end of sequence: 74 in
  record, 52 in rte, 49 in boolq and multirc, 41 in copa and wic, 40 in cb, 26
  in wsc. The longest target has 6.
* `ladder_{boolq,...}` and `ladder`.
* `ladder_{boolq,cb}_{home,people,values,longer,answers}`, domains of one task,
  of which only `home` has a train split; `ladder_{boolq,cb}_domains` trains on
  it and evaluates all.

Each is also registered as `..._prefixed`.
"""

import functools
import os

import seqio

from prompt_tuning import project_files
from prompt_tuning.data import sources, task_names, task_rows
from prompt_tuning.data import vocabulary as vocabulary_lib
from prompt_tuning.mini.ladder import corpus, probes, world
from prompt_tuning.mini.ladder import examples as ladder_examples
from prompt_tuning.mini.ladder import vocabulary as ladder_vocabulary
from prompt_tuning.mini.stories import examples as mini_examples

__all__ = ["corpus", "probes"]

MINI, LADDER = "mini", "ladder"
_T5 = os.path.join("checkpoints", "t5_small", "spiece.model")
# The tasks of `ladder`: those whose ability shows in a probe of ladder_m
# (results/tables/ladder.md). Those of ReCoRD (which of two people) and WiC (two
# senses of a word) do not. That of WSC (a pronoun's person) is always right
# from size xs on, and so distinguishes few models.
_PROBED = ("boolq", "cb", "copa", "multirc", "rte")


def _add_miniature(examples, prefix: str, mixture: str, names) -> None:
  counts = examples.EXAMPLES_PER_SPLIT
  for row in task_rows.SUPER_GLUE:
    task_rows.add_task(
      f"{prefix}_{row.name}",
      row,
      sources.ExampleSource(
        functools.partial(examples.features, row.name), counts
      ),
    )
  task_rows.add_mixture(
    mixture, {f"{prefix}_{name}": counts["train"] for name in names}
  )


_add_miniature(mini_examples, MINI, "mini_super_glue", task_names.SUPER_GLUE)
_add_miniature(ladder_examples, LADDER, "ladder", _PROBED)
for _task in ladder_examples.DOMAIN_TASKS:
  _names = [f"{_task}_{domain}" for domain in world.DOMAINS]
  for _name in _names:
    _splits = (
      ("train", "validation") if _name.endswith("home") else ("validation",)
    )
    task_rows.add_task(
      f"{LADDER}_{_name}",
      task_rows.BY_NAME[_task],
      sources.ExampleSource(
        functools.partial(ladder_examples.features, _name),
        {x: ladder_examples.EXAMPLES_PER_SPLIT[x] for x in _splits},
      ),
    )
  task_rows.add_mixture(
    f"{LADDER}_{_task}_domains", {f"{LADDER}_{x}": 1 for x in _names}
  )


def use_vocabulary(
  path: str | None, extra_ids: int | None = None, task: str = ""
) -> seqio.Vocabulary:
  """Makes every task use a vocabulary, for commands without a model.

  Args:
    path: A SentencePiece model, or "ladder" for the words of the miniatures
      that gin/models/ladder_*.gin configure. By default these for a task of the
      ladder, and T5's vocabulary for others.
    extra_ids: As in `vocabulary.of_file`.
    task: The name of the task, which decides the default.

  Raises:
    ValueError: if the file does not exist.
  """
  if not path and not task.startswith(LADDER):
    path = os.path.join(project_files.project_folder(), _T5)
  if path in (None, "", LADDER):
    return vocabulary_lib.of_model(ladder_vocabulary.ladder())
  if "://" not in path and not os.path.exists(path):
    raise ValueError(
      f"Expected a SentencePiece model at {path}, got nothing. Give "
      "--vocabulary ('ladder' for the miniatures'), or import T5's: "
      "prompt-tuning import t5_small"
    )
  return vocabulary_lib.of_model(vocabulary_lib.of_file(path, extra_ids))
