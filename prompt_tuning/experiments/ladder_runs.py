"""The pretraining of the ladder's miniature T5s."""

from collections.abc import Sequence
import pathlib

from prompt_tuning.experiments import launching, records, sheets
from prompt_tuning.experiments.cells import Cell
from prompt_tuning.experiments.running import Workspace
from prompt_tuning.mini.ladder import pretraining


def pretrain(sizes: Sequence[str], root: pathlib.Path) -> None:
  """Runs the cells of configs/ladder.toml, and exports their checkpoints.

  Args:
    sizes: Names such as "ladder_xs".
    root: Folder with configs/, results/, runs/ and checkpoints/.

  Raises:
    ValueError: if a run fails.
  """
  sheet = sheets.load("ladder", root / "configs")
  for size in sizes:
    for cell in sheet.cells():
      if cell.point["size"] == size:
        _pretrain(cell, root)


def _pretrain(cell: Cell, root: pathlib.Path) -> None:
  """Runs a cell that is neither here nor recorded; exports its checkpoints."""
  workspace = Workspace(root, root / "results")
  stage = str(cell.point["stage"])
  folder = root / "checkpoints" / str(cell.point["size"])
  # The names of a stage's checkpoints start with its own.
  kept = any(folder.glob(f"{stage}*/checkpoint_*"))
  if (
    workspace.record(cell).exists()
    and not kept
    and not _is_here(cell, workspace)
  ):
    print(f"{cell.name} has a record but no checkpoints: it is run again.")
    workspace.record(cell).unlink()
  [outcome] = launching.launch([cell], workspace, retry_failed=True) or [None]
  if outcome is not None and not outcome.counts:
    raise ValueError(f"{cell.name}: {outcome.status}, {outcome.error}")
  if _is_here(cell, workspace):
    for path in pretraining.export(workspace.folder(cell), folder, stage):
      print(path)


def _is_here(cell: Cell, workspace: Workspace) -> bool:
  """Returns whether the run in a cell's folder is the one of its record."""
  left = workspace.folder(cell) / "record.json"
  if not left.exists():
    return False
  filed = workspace.archive().record(cell)
  return filed is not None and filed.started == records.read(left).started
