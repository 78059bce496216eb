"""Sweeps: run, tabulated, and written as sheets."""

import pathlib
import shutil
import sys
from typing import Any

from prompt_tuning.experiments import (
  drift,
  pages,
  sheet_runs,
  sweeps,
  tables,
  toml_files,
)
from prompt_tuning.experiments.results import Results
from prompt_tuning.experiments.running import Outcome, Workspace
from prompt_tuning.experiments.sheets import Sheet


class Sweep:
  """A sweep in the folder runs/sweeps/NAME.

  Its runs are checked; none has started.
  """

  def __init__(
    self, fields: dict[str, Any], name: str | None, root: pathlib.Path
  ):
    """Makes a sweep.

    Args:
      fields: Fields of its sheet, from `sweeps.fields`.
      name: Name of its folder; by default one made of the lists.
      root: Folder that has runs/.

    Raises:
      ValueError: if a run's gin files or bindings are wrong.
    """
    name = name or sweeps.name_of(fields)
    self.sheet = Sheet.model_validate({"name": f"sweeps/{name}", **fields})
    self.cells = self.sheet.cells()
    self._root = root
    # One folder for all sweeps: a run that two of them share runs once.
    self.workspace = Workspace(root, root / "runs" / "records")
    sheet_runs.check_commands(self.cells, root)

  def __str__(self) -> str:
    """Returns the number of runs and the lists, such as "seed = 0, 1"."""
    (grid,) = self.sheet.grids
    axes = "; ".join(
      f"{axis} = {', '.join(self.sheet.label(axis, x) for x in values)}"
      for axis, values in grid.items()
      if len(values) > 1
    )
    return f"{len(self.cells)} runs: {axes}."

  def score(self, outcome: Outcome) -> str:
    """Returns a line on an outcome, with its score."""
    record = self.workspace.archive().finished(outcome.cell)
    text = outcome.status
    if record and record.scores:
      text = f"{record.score:.1f}"
    return f"{outcome.cell.name}: {text}"

  def tabulate(self) -> None:
    """Prints the table, and writes the page with its figure."""
    results = Results(self.sheet, self.workspace.archive())
    files = pages.sheet_files(results, stem="table")
    if not files:
      return
    folder = self._root / "runs" / self.sheet.name
    pages.write(files, folder)
    print(tables.table(results).plain())
    if drifted := drift.note(results):
      again = f"Delete them in {self.workspace.results} to make them again."
      print(f"{drifted}{again}", file=sys.stderr)
    for suffix in ("md", "csv", "png"):
      print(folder / f"table.{suffix}")


def write_sheet(
  fields: dict[str, Any],
  name: str | None,
  root: pathlib.Path,
  given: pathlib.Path,
) -> None:
  """Writes a sweep as a sheet, and copies the records of its finished runs.

  Args:
    fields: As of `Sweep`.
    name: As of `Sweep`.
    root: As of `Sweep`.
    given: The file, in `root`/configs.

  Raises:
    ValueError: if the file exists, or lies elsewhere.
  """
  path = given.resolve()
  if path.parent != root / "configs" or path.suffix != ".toml":
    raise ValueError(
      f"--write_sheet={given}: expected a file such as "
      f"{root / 'configs' / 'mine.toml'}."
    )
  if path.exists():
    raise ValueError(f"{path} is there already. Choose another name.")
  archive = Sweep(fields, name, root).workspace.archive()
  # A sheet is launched by its name.
  kept = {key: x for key, x in fields.items() if key != "launch"}
  sheet = Sheet.model_validate({"name": path.stem, **kept})
  workspace = Workspace(root, root / "results")
  found = [(cell, archive.find(cell)) for cell in sheet.cells()]
  path.write_text(toml_files.dumps(kept), encoding="utf-8")
  count = 0
  for cell, stored in found:
    target = workspace.record(cell)
    if stored and stored.record.counts and not target.exists():
      target.parent.mkdir(parents=True, exist_ok=True)
      shutil.copyfile(stored.path, target)
      count += 1
  print(
    f"{path}: {len(found)} cells, {count} of them with a record. "
    f"{sheet.launch_command} runs the others, prompt-tuning tabulate "
    f"{sheet.name} makes the table."
  )
