"""Commands of cells: checked, printed, and run here or on a cluster."""

from collections.abc import Callable, Collection, Iterable, Sequence
import fnmatch
import os
import pathlib
import sys

import prompt_tuning
from prompt_tuning.experiments import launching, sheets
from prompt_tuning.experiments.cells import Cell
from prompt_tuning.experiments.running import Outcome, Workspace
from prompt_tuning.training import cluster_options
from t5x.configuration import checks, resolution


def select(
  given: Sequence[str], patterns: Sequence[str], configs: pathlib.Path
) -> list[Cell]:
  """Returns the cells of sheets, in the order in which they run.

  Args:
    given: Names or paths of sheets.
    patterns: Shell patterns of cells' names; all cells without any.
    configs: The folder of sheets.

  Raises:
    ValueError: if there is no such sheet or cell, or if another command
      runs a sheet.
  """
  cells = []
  for text in given:
    name = sheets.name_of(text, configs)
    sheet = sheets.load(name, configs)
    if sheet.launch:  # It knows in which order its cells need each other.
      raise ValueError(f"{name} is run by {sheet.launch}.")
    cells += sheet.seed_by_seed()
  chosen = [
    cell
    for cell in cells
    if not patterns or any(fnmatch.fnmatchcase(cell.name, x) for x in patterns)
  ]
  if not chosen:
    names = [cell.name for cell in cells]
    raise ValueError(
      f"No cell is called {' or '.join(patterns)}; there is "
      f"{', '.join(names[:5])}, ... ({len(names)} in all)."
    )
  return chosen


def check_commands(cells: Sequence[Cell], root: pathlib.Path) -> None:
  """Checks the gin files and macros of all cells before any of them runs.

  Args:
    cells: Cells to run.
    root: Folder in which their gin files are.

  Raises:
    ValueError: if a file or a macro does not exist, or a value is not valid
      gin.
  """
  _check_gin_files(cells, root)
  paths = (str(root), prompt_tuning.gin_search_path())
  macros: dict[Sequence[str], Collection[str]] = {}
  for cell in cells:
    files = cell.gin_files
    if not files:
      continue
    if files not in macros:
      macros[files] = resolution.Bindings(files, paths=paths).macros
    texts = [f"{name} = {value}" for name, value in cell.bindings.items()]
    checks.check_macros(texts, macros[files])


def _check_gin_files(cells: Sequence[Cell], root: pathlib.Path) -> None:
  """Raises ValueError for missing files, with the cells that need them."""
  places = (root, pathlib.Path(prompt_tuning.gin_search_path()))
  missing: dict[str, list[str]] = {}
  for cell in cells:
    for name in cell.gin_files:
      if not any((x / name).exists() for x in places):
        missing.setdefault(name, []).append(cell.name)
  if missing:
    raise ValueError(
      "; ".join(
        f"there is no gin file {name}, which {_need(names)}"
        for name, names in missing.items()
      )
      + f". Gin files are relative to {root}."
    )


def _need(names: Sequence[str]) -> str:
  if len(names) == 1:
    return f"{names[0]} needs"
  return f"{names[0]} and {len(names) - 1} more cells need"


def print_commands(cells: Iterable[Cell]) -> None:
  """Prints the commands of cells until the reader, such as `head`, leaves."""
  try:
    for cell in cells:
      print(cell.shell_command)
    sys.stdout.flush()
  except BrokenPipeError:  # Python flushes stdout once more when it exits.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run(
  cells: Sequence[Cell],
  workspace: Workspace,
  jobs: int,
  retry_failed: bool,
  cluster: str | None = None,
  options: Sequence[str] = (),
  on_outcome: Callable[[Outcome], str] | None = None,
) -> int:
  """Runs the cells that have no record, and names those without results.

  Args:
    cells: Cells of one sheet or several.
    workspace: Where they run, and where their records go.
    jobs: Number of cells to run at the same time.
    retry_failed: Whether to run failed cells again.
    cluster: Cluster that the cells are submitted to, as submitit names it.
      None: they run here.
    options: Of the cluster, NAME=VALUE each.
    on_outcome: Called with each outcome that has results; returns a line to
      print.

  Returns:
    The exit status: 1 if a cell has failed, now or before.
  """
  if not cluster:
    outcomes = launching.launch(
      cells, workspace, jobs, retry_failed, on_outcome
    )
    return _report(cells, workspace, outcomes)
  archive = workspace.archive()
  todo = launching.open_cells(cells, archive, retry_failed)
  chosen = cluster_options.read(options)
  for job in launching.submit(todo, workspace, cluster, chosen, archive):
    print(job)
  first, then = launching.rounds(todo)
  if first and then:
    wait = "1 cell waits" if len(then) == 1 else f"{len(then)} cells wait"
    print(f"{wait} for these: submit again then.", file=sys.stderr)
  # With `retry_failed`, cells that failed before are running again.
  return 0 if retry_failed else _report(cells, workspace, ())


def _report(
  cells: Sequence[Cell], workspace: Workspace, outcomes: Sequence[Outcome]
) -> int:
  """Names the cells that have no results; returns the exit status."""
  archive = workspace.archive()
  status = {x.cell.full_name: x.status for x in outcomes if not x.counts}
  for cell in cells:
    record = archive.record(cell)
    if record and record.status == "failed":
      failed = "failed before, --retry_failed runs it again"
      status.setdefault(cell.full_name, failed)
  for name, reason in status.items():
    print(f"{reason}: {name}", file=sys.stderr)
  return 1 if status else 0
