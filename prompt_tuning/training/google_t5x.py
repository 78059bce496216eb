"""Paths of gin files, as Google's T5X takes them.

It wants them absolute, and the folder `checkpoint_<step>` itself. The `t5x` of
`runtime/` finds what is meant; there paths stay as the user wrote them, and
records repeat that.
"""

import os
import re

from etils import epath

from t5x import checkpoints

_STEP_FOLDER = re.compile(r"checkpoint_(\d+)")


def folder(path: str) -> str:
  """Returns a folder that a run writes to, in the words of the runtime."""
  if hasattr(checkpoints, "open_checkpoint") or "://" in path:
    return path
  return os.path.abspath(path)


def checkpoint(path: str | None) -> str | None:
  """Returns a checkpoint to restore, in the words of the runtime.

  Args:
    path: As for `find_checkpoint`; None is none: training from scratch.

  Raises:
    ValueError: if there is none.
  """
  if path is None or hasattr(checkpoints, "open_checkpoint"):
    return path
  return find_checkpoint(path)


def find_checkpoint(path: str) -> str:
  """Returns the checkpoint that a path means, for Google's T5X.

  Args:
    path: A folder `checkpoint_<step>`, or one that holds such folders, whose
      newest is meant.

  Raises:
    ValueError: if there is none.
  """
  given = epath.Path(folder(path))
  if _STEP_FOLDER.fullmatch(given.name):
    return str(given)
  steps = [
    int(match[1])
    for child in (given.iterdir() if given.is_dir() else ())
    if (match := _STEP_FOLDER.fullmatch(child.name))
  ]
  if not steps:
    raise ValueError(
      f"No checkpoint at {path}: expected a folder checkpoint_<step>, or one "
      "that holds such folders."
    )
  return str(given / f"checkpoint_{max(steps)}")
