"""Runs of the cells that have no record yet, here or on a cluster.

Only records tell which cells are done, so a launcher can be killed at any
moment and started again.
"""

from collections.abc import Mapping, Sequence
from concurrent import futures
import fnmatch
import functools
import os
import pathlib
import signal
import sys

import tqdm

import prompt_tuning
from prompt_tuning import cores
from prompt_tuning.experiments import sheets
from prompt_tuning.experiments.cells import Cell
from prompt_tuning.experiments.records import Archive
from prompt_tuning.experiments.running import (
  Outcome,
  Processes,
  Workspace,
  run_cell,
)
from t5x.configuration import checks, resolution


def select(
  given: Sequence[str], patterns: Sequence[str], configs: pathlib.Path
) -> list[Cell]:
  """Returns the cells of sheets, in the order in which they run.

  Those without a seed come first, then those of each seed in turn.

  Args:
    given: Names or paths of sheets.
    patterns: Shell patterns of cells' names; all cells without any.
    configs: The folder of sheets.

  Raises:
    ValueError: if there is no such sheet or cell, or if another command
      runs a sheet.
  """
  cells: list[Cell] = []
  for text in given:
    sheet = sheets.load(sheets.name_of(text, configs), configs)
    if sheet.launch:  # It knows in which order its cells need each other.
      raise ValueError(f"{sheet.name} is run by {sheet.launch}.")
    seeds = [None, *(cell.point.get(sheets.SEED) for cell in sheet.cells())]
    cells += sorted(
      sheet.cells(), key=lambda x, s=seeds: s.index(x.point.get(sheets.SEED))
    )
  chosen = [
    cell
    for cell in cells
    if any(fnmatch.fnmatchcase(cell.name, x) for x in patterns or ["*"])
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
  paths = (str(root), prompt_tuning.gin_search_path())
  macros = functools.cache(
    lambda files: resolution.Bindings(files, paths=paths).macros
  )
  for cell in cells:
    for name in cell.gin_files:
      if not any((pathlib.Path(x) / name).exists() for x in paths):
        raise ValueError(
          f"cannot find the gin file {name}, which {cell.name} needs, in {root}"
        )
    if cell.gin_files:
      texts = [f"{name} = {value}" for name, value in cell.bindings.items()]
      checks.refuse(checks.unknown(texts, macros(cell.gin_files), paths))


def open_cells(
  cells: Sequence[Cell],
  archive: Archive,
  retry_failed: bool = False,
) -> list[Cell]:
  """Returns the cells without a record, and identical runs only once.

  Args:
    cells: Cells of one sheet or several.
    archive: The records.
    retry_failed: Whether cells that have failed are returned too.
  """
  todo: dict[str, Cell] = {}
  over = ("finished", "stopped", *(() if retry_failed else ("failed",)))
  for cell in cells:
    record = archive.record(cell)
    if record is None or record.status not in over:
      todo.setdefault(archive.configuration(cell).hash, cell)
  return list(todo.values())


def rounds(todo: Sequence[Cell]) -> tuple[list[Cell], list[Cell]]:
  """Splits cells into those that need no other cell's results, and the rest."""
  return [x for x in todo if not x.last], [x for x in todo if x.last]


def launch(
  cells: Sequence[Cell],
  workspace: Workspace,
  jobs: int = 1,
  retry_failed: bool = False,
) -> list[Outcome]:
  """Runs the cells without a record, with a line of progress on stderr.

  Args:
    cells: Cells of one sheet or several.
    workspace: The folders.
    jobs: Number of cells to run at the same time.
    retry_failed: Whether to run failed cells again.

  Returns:
    The outcomes of this launch.

  Raises:
    SystemExit: with 128 + its number, after SIGINT or SIGTERM. The running
      cells have saved their state by then.
    ValueError: if a file in `results` is not a record.
  """
  archive = workspace.archive()
  todo = open_cells(cells, archive, retry_failed)
  total = len({archive.configuration(cell).hash for cell in cells})
  processes = Processes()
  outcomes: list[Outcome] = []
  shares = iter(cores.shares(jobs))

  def take_cores() -> None:
    if share := next(shares):  # The processes of this thread inherit it.
      os.sched_setaffinity(0, share)

  def run(cell: Cell, waits: bool) -> Outcome:
    try:
      seen = archive.record(cell)
      return run_cell(cell, workspace, seen, processes, waits)
    except Exception as e:  # It must not keep the others from running.
      return Outcome(cell, "failed", f"{type(e).__name__}: {e}")

  signals = (signal.SIGINT, signal.SIGTERM)
  handlers = [signal.signal(x, lambda n, _: processes.stop(n)) for x in signals]
  pool = futures.ThreadPoolExecutor(jobs, initializer=take_cores)
  bar = tqdm.tqdm(
    total=total,
    initial=total - len(todo),
    bar_format="{n_fmt}/{total_fmt} cells |{bar}| {remaining} left",
    dynamic_ncols=True,
  )
  try:
    for some in rounds(todo):
      if any(x.status == "interrupted" for x in outcomes):
        break  # The others lack the results that they need.
      # Cells of another launcher come last, as they may be done by then.
      for waits in (False, True):
        pending = [pool.submit(run, cell, waits) for cell in some]
        some = []
        for future in futures.as_completed(pending):
          outcome = future.result()
          if outcome.status == "busy":
            some.append(outcome.cell)
            continue
          outcomes.append(outcome)
          if outcome.status != "interrupted":
            text = outcome.error or outcome.status
            if outcome.score is not None:
              text = f"{outcome.score:.1f}"
            bar.write(f"{outcome.cell.full_name}: {text}", file=sys.stderr)
            bar.update()
  finally:  # After an error here, such as a closed stderr, start no more.
    pool.shutdown(cancel_futures=True)
    bar.close()
    for number, handler in zip(signals, handlers, strict=True):
      signal.signal(number, handler)
  if processes.stopping:
    print("Stopped; the same command resumes.", file=sys.stderr)
    sys.exit(128 + processes.stopping)
  return outcomes


def submit(
  cells: Sequence[Cell],
  workspace: Workspace,
  cluster: str,
  options: Mapping[str, str | int],
  archive: Archive,
) -> list[str]:
  """Submits cells to a cluster, a job each.

  A job ends at once if another job runs its cell, or has run it.

  Args:
    cells: The cells. Those that need others' results are left for a later call,
      if there are others.
    workspace: Folders that the cluster's machines share.
    cluster: Its name in submitit: "slurm", or "local" for processes here.
    options: Arguments of `submitit.AutoExecutor.update_parameters`, such as
      {"timeout_min": 600, "slurm_partition": "gpu"}.
    archive: The records, which the jobs replace.

  Returns:
    The ids of the jobs.

  Raises:
    ValueError: if submitit refuses the options.
  """
  import submitit

  first, then = rounds(cells)
  if first and then:
    print(
      f"Waiting for these: {len(then)}. Submit again then.", file=sys.stderr
    )
  ready = first or then
  if not ready:
    return []
  seen = [archive.record(cell) for cell in ready]
  try:
    executor = submitit.AutoExecutor(
      folder=workspace.root / "runs" / "submitit" / "%j", cluster=cluster
    )
    executor.update_parameters(name="prompt_tuning", **options)
    # A second job of a cell must not occupy a machine to wait for the first.
    run = functools.partial(run_cell, waits=False)
    jobs = executor.map_array(run, ready, [workspace] * len(ready), seen)
  except (RuntimeError, NameError, TypeError, ValueError) as e:
    what = " ".join(str(e).split())
    raise ValueError(f"submitit, cluster {cluster!r}: {what}") from e
  return [job.job_id for job in jobs]
