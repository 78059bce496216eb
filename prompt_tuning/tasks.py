"""Registers every task with seqio: import it, then ask seqio by name."""

import os

import seqio

from prompt_tuning import project_files
from prompt_tuning.data import superglue  # noqa: F401
from prompt_tuning.data import vocabulary as vocabulary_lib
from prompt_tuning.mini.ladder import tasks as ladder_tasks
from prompt_tuning.mini.ladder import vocabulary as ladder_vocabulary
from prompt_tuning.mini.stories import tasks  # noqa: F401

LADDER = ladder_tasks.PREFIX
_T5 = os.path.join("checkpoints", "t5_small", "spiece.model")


def use_vocabulary(
  path: str | None, extra_ids: int = 100, task: str = ""
) -> seqio.Vocabulary:
  """Makes a vocabulary the one that every task uses, where there is no model.

  Args:
    path: A SentencePiece model, or "ladder" for the words of the miniatures
      that gin/models/ladder_*.gin configure. None: these for a task of the
      ladder, T5's for others.
    extra_ids: Sentinels after the pieces of a SentencePiece model.
    task: Which is meant.

  Raises:
    ValueError: if there is no such file.
  """
  path = path or (
    LADDER
    if task.startswith(LADDER)
    else os.path.join(project_files.project_folder(), _T5)
  )
  if path == LADDER:
    return vocabulary_lib.of_model(ladder_vocabulary.ladder())
  return vocabulary_lib.use_file(path, extra_ids)
