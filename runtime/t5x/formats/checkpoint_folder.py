"""A folder of checkpoints, each of which is whole.

A checkpoint appears, is replaced and disappears by renaming, or in a bucket by
a change of its mark: whenever a run is killed, `checkpoint_<step>` is whole or
does not count. Only one process of a run renames checkpoints.
"""

from collections.abc import Collection, Sequence
import dataclasses
import difflib
import os
import re
from typing import Any

from etils import epath

from t5x.configuration.client import clients
from t5x.files import digests, safe_files, storage

STEP_FOLDER = re.compile(r"checkpoint_(\d+)")
# Suffixes of a checkpoint that is being written, and of one being deleted.
_NEW, _DELETED = ".new", ".deleted"
_LEFTOVER = re.compile(
  rf"checkpoint_\d+(\{_NEW}|\{_DELETED}|(\{_NEW})?\.orbax-checkpoint-tmp.*)"
)
# The number of names that an error lists.
_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class CheckpointFolder:
  """A folder of checkpoints.

  Attributes:
    path: The folder's absolute path. It need not exist yet.
  """

  path: epath.Path

  def checkpoint(self, step: int) -> epath.Path:
    """Returns the path of a step's checkpoint."""
    return self.path / f"checkpoint_{step}"

  def replacement(self, step: int) -> epath.Path:
    """Returns the path at which to write a checkpoint that replaces another."""
    return self.path / f"checkpoint_{step}{_NEW}"

  def steps(self) -> list[int]:
    """Returns the steps of the checkpoints, in order."""
    if not self.path.is_dir():
      return []
    return sorted(
      int(match[1])
      for path in self.path.iterdir()
      if (match := STEP_FOLDER.fullmatch(path.name)) and storage.is_whole(path)
    )

  def is_empty(self) -> bool:
    """Returns whether the folder has no completed checkpoint."""
    return not any(
      ".orbax-checkpoint-tmp" not in path.name and storage.is_whole(path)
      for path in self.path.glob("checkpoint_*")
    )

  def clear_leftovers(self) -> None:
    """Finishes or undoes interrupted changes."""
    for path in sorted(self.path.glob(f"checkpoint_*{_NEW}")):
      final = path.with_suffix("")
      # The old checkpoint had already been moved away.
      if (
        _LEFTOVER.fullmatch(path.name)
        and storage.is_whole(path)
        and not storage.is_whole(final)
      ):
        storage.remove(final)
        storage.rename(path, final)
    for path in self.path.glob("checkpoint_*"):
      if _LEFTOVER.fullmatch(path.name) or (
        STEP_FOLDER.fullmatch(path.name) and not storage.is_whole(path)
      ):
        storage.remove(path)

  def replace(self, step: int) -> None:
    """Puts `replacement(step)` in the place of the checkpoint."""
    self._take_away(step)
    storage.rename(self.replacement(step), self.checkpoint(step))

  def keep_only(self, steps: Collection[int]) -> None:
    """Deletes the checkpoints of other steps."""
    for step in set(self.steps()) - set(steps):
      self._take_away(step)
    for path in self.path.glob(f"checkpoint_*{_DELETED}"):
      storage.remove(path)

  def _take_away(self, step: int) -> None:
    path = self.checkpoint(step)
    if storage.is_bucket(path):
      storage.remove(path)
    else:
      path.rename(path.with_name(path.name + _DELETED))

  def find_good(self) -> int:
    """Finds the last undamaged checkpoint.

    Newer ones are set aside as `checkpoint_<step>.damaged`.

    Returns:
      The step.

    Raises:
      ValueError: if all are damaged. They keep their names, because otherwise a
        run would silently start from the beginning.
    """
    damaged: dict[int, str] = {}
    for step in reversed(self.steps()):
      damage = digests.damage(self.checkpoint(step))
      if damage is None:
        for bad, why in damaged.items():
          safe_files.set_aside(
            self.checkpoint(bad), why, f"The run resumes from step {step}."
          )
        return step
      damaged[step] = damage
    listed = "; ".join(
      f"checkpoint_{step}: {damage}" for step, damage in damaged.items()
    )
    raise ValueError(
      f"Every checkpoint in {self.path} is damaged: {listed}. Restore one from "
      "a backup, or start again in another folder."
    )


def of_client(path: str) -> Any | None:
  """Opens a model if a client knows its format; else returns None."""
  openers = (x.open_model for x in clients() if x.open_model)
  return next((x for open_ in openers if (x := open_(path)) is not None), None)


def find_checkpoint(path: str) -> str:
  """Finds a checkpoint folder.

  Args:
    path: A folder `checkpoint_<step>`, a folder of such folders, or a model
      that a client opens.

  Returns:
    The path of the folder `checkpoint_<step>`, the newest one, or of the
    client's model on this machine.

  Raises:
    ValueError: if there is no such folder.
  """
  if (other := of_client(path)) is not None:
    return other.found
  folder = epath.Path(path)
  if not folder.is_dir():
    if storage.is_bucket(path) and storage.HAS_GCS:
      storage.check_access(path, path, "read")
    text = (
      f"No checkpoint at {path}: expected a folder checkpoint_<step> or a "
      "folder of such folders."
    )
    if (parent := folder.parent).is_dir():
      there = [p.name for p in parent.iterdir()]
      text += f" In {parent}: {_nearest(folder.name, there)}."
    if not os.path.isabs(path) and not storage.is_bucket(path):
      text += f" The working directory is {os.getcwd()}."
    raise ValueError(text)
  if STEP_FOLDER.fullmatch(folder.name):
    return str(folder)
  found = CheckpointFolder(folder)
  if steps := found.steps():
    return str(found.checkpoint(steps[-1]))
  others = [p.name for p in folder.iterdir() if p.is_dir()]
  raise ValueError(
    f"No checkpoint_<step> in {path}; folders there: "
    f"{_nearest('checkpoint_', others)}."
  )


def _nearest(name: str, names: Sequence[str]) -> str:
  """Lists the names most similar to a name, and counts the others."""
  near = difflib.get_close_matches(name, sorted(names), _SHOWN, cutoff=0)
  others = len(names) - len(near)
  more = [f"{others} more"] if others else []
  return ", ".join([*near, *more]) or "nothing"
