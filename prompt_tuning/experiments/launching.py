"""Runs of the cells that have no record yet, here or on a cluster.

Only records tell which cells are done, so a launcher can be killed at any
moment and started again.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent import futures
import contextlib
import functools
import os
import queue
import signal
import sys
import time

import tqdm

from prompt_tuning.experiments.archive import Archive
from prompt_tuning.experiments.cells import Cell
from prompt_tuning.experiments.processes import Processes
from prompt_tuning.experiments.running import Outcome, Workspace, run_cell
from prompt_tuning.training import cluster_options


def open_cells(
  cells: Sequence[Cell],
  archive: Archive,
  retry_failed: bool = False,
) -> list[Cell]:
  """Returns the cells without a record, each kind of run once.

  Args:
    cells: Cells of one sheet or several.
    archive: The records.
    retry_failed: Whether cells that have failed are returned too.
  """
  todo: dict[str, Cell] = {}
  for cell in cells:
    record = archive.record(cell)
    if (
      record is None
      or record.status == "interrupted"
      or (retry_failed and record.status == "failed")
    ):
      todo.setdefault(archive.configuration(cell).hash, cell)
  return list(todo.values())


class Clock:
  """Estimates of the time that cells take, from those that have run."""

  def __init__(self, cells: Sequence[Cell], archive: Archive):
    self._timed = [
      (cell.point, record.seconds)
      for cell in cells
      if (record := archive.finished(cell))
    ]

  def add(self, outcome: Outcome) -> None:
    if outcome.counts:
      self._timed.append((outcome.cell.point, outcome.seconds))

  def seconds(self, cell: Cell) -> float | None:
    """Returns the mean time of the cells that share most of its values."""
    by_likeness: dict[int, list[float]] = {}
    for point, seconds in self._timed:
      shared = {axis for axis, _ in cell.point.items() & point.items()}
      likeness = len(shared - {"seed"})
      by_likeness.setdefault(likeness, []).append(seconds)
    if not by_likeness:
      return None
    likest = by_likeness[max(by_likeness)]
    return sum(likest) / len(likest)

  def left(
    self, waiting: Sequence[Cell], running: Mapping[Cell, float], jobs: int
  ) -> str:
    """Returns an estimate such as "1 h 20 min left"."""
    estimates = [(self.seconds(cell), 0.0) for cell in waiting]
    estimates += [(self.seconds(cell), ran) for cell, ran in running.items()]
    if any(seconds is None for seconds, _ in estimates):
      return "time left unknown"
    total = sum(max(0.0, (x or 0.0) - ran) for x, ran in estimates) / jobs
    hours, minutes = divmod(round(total / 60), 60)
    return f"{hours} h {minutes} min left" if hours else f"{minutes} min left"


def rounds(todo: Sequence[Cell]) -> tuple[list[Cell], list[Cell]]:
  """Splits cells into those that need no other's results, and the rest."""
  return [x for x in todo if not x.last], [x for x in todo if x.last]


def shares_of_cores(jobs: int) -> list[Collection[int]]:
  """Divides the cores of this machine among jobs that run at once.

  Processes that each start a thread for every core would wait for each other.

  Args:
    jobs: Number of jobs.

  Returns:
    The numbers of each job's cores; empty, which means all cores, for a single
    job or for more jobs than cores.
  """
  affinity = getattr(os, "sched_getaffinity", None)  # Linux has it.
  cores = sorted(affinity(0)) if affinity else []
  size = len(cores) // jobs
  if jobs == 1 or not size:
    return [()] * jobs
  return [cores[i * size : (i + 1) * size] for i in range(jobs)]


class _Launch:
  """A launch: its cells, their processes and outcomes."""

  def __init__(
    self,
    todo: Sequence[Cell],
    archive: Archive,
    clock: Clock,
    workspace: Workspace,
    jobs: int,
    on_outcome: Callable[[Outcome], str] | None,
  ):
    self.processes = Processes()
    self.outcomes: list[Outcome] = []
    self._todo = todo
    self._archive = archive
    self._on_outcome = on_outcome
    self._clock = clock
    self._place = workspace
    self._jobs = jobs
    self._started: dict[Cell, float] = {}
    self._shares: queue.SimpleQueue[Collection[int]] = queue.SimpleQueue()
    for share in shares_of_cores(jobs):
      self._shares.put(share)

  def _run(self, cell: Cell, waits: bool) -> Outcome:
    self._started[cell] = time.monotonic()
    share = self._shares.get()
    try:
      seen = self._archive.record(cell)
      return run_cell(cell, self._place, seen, self.processes, share, waits)
    except Exception as e:  # It must not keep the others from running.
      error = f"{type(e).__name__}: {e}"
      return Outcome(cell, "failed", error)
    finally:
      self._shares.put(share)
      del self._started[cell]

  def _note(self, outcome: Outcome, bar: tqdm.tqdm) -> None:
    self.outcomes.append(outcome)
    self._clock.add(outcome)
    if outcome.status == "failed":
      bar.write(f"{outcome.cell.full_name}: {outcome.error}", file=sys.stderr)
    elif outcome.counts and self._on_outcome:
      bar.write(self._on_outcome(outcome), file=sys.stderr)
    bar.n += outcome.status != "interrupted"

  def _line(self) -> str:
    """Returns the line of progress: running, failed, and the time left."""
    now = time.monotonic()
    started = tuple(self._started.items())
    running = {cell: now - since for cell, since in started}
    over = {outcome.cell for outcome in self.outcomes}
    waiting = [x for x in self._todo if x not in running and x not in over]
    failed = sum(outcome.status == "failed" for outcome in self.outcomes)
    parts = [f"{len(running)} running", f"{failed} failed" if failed else ""]
    parts.append(self._clock.left(waiting, running, self._jobs))
    return ", ".join(filter(None, parts))

  def run(self, pool: futures.Executor, bar: tqdm.tqdm) -> None:
    for cells in rounds(self._todo):
      if any(x.status == "interrupted" for x in self.outcomes):
        return  # The others lack the results that they need.
      # Cells of another launcher come last, as they may be done by then.
      busy = self._run_all(pool, cells, bar, waits=False)
      self._run_all(pool, busy, bar, waits=True)

  def _run_all(
    self,
    pool: futures.Executor,
    cells: Sequence[Cell],
    bar: tqdm.tqdm,
    waits: bool,
  ) -> list[Cell]:
    """Runs cells; returns those that another launcher runs."""
    busy = []
    pending = {pool.submit(self._run, cell, waits) for cell in cells}
    try:
      while pending:
        done, pending = futures.wait(
          pending, timeout=2, return_when=futures.FIRST_COMPLETED
        )
        for future in done:
          outcome = future.result()
          if outcome.status == "busy":
            busy.append(outcome.cell)
          else:
            self._note(outcome, bar)
        if self.processes.stopping:
          pending = {future for future in pending if not future.cancel()}
        bar.set_description_str(self._line(), refresh=False)
        if done or sys.stderr.isatty():
          bar.refresh()
    finally:  # After an error here, such as a closed stderr, start no more.
      for future in pending:
        future.cancel()
    return busy


def launch(
  cells: Sequence[Cell],
  workspace: Workspace,
  jobs: int = 1,
  retry_failed: bool = False,
  on_outcome: Callable[[Outcome], str] | None = None,
) -> list[Outcome]:
  """Runs the cells without a record, with a line of progress on stderr.

  Args:
    cells: Cells of one sheet or several.
    workspace: The folders.
    jobs: Number of cells to run at the same time.
    retry_failed: Whether to run failed cells again.
    on_outcome: Called with each outcome that has results; returns a line to
      print.

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
  clock = Clock(cells, archive)
  launched = _Launch(todo, archive, clock, workspace, jobs, on_outcome)
  with (
    _signals(launched.processes.stop),
    futures.ThreadPoolExecutor(jobs) as pool,
    tqdm.tqdm(
      total=total,
      initial=total - len(todo),
      bar_format="{n_fmt}/{total_fmt} cells |{bar}| {desc}",
      dynamic_ncols=True,
    ) as bar,
  ):
    launched.run(pool, bar)
  if launched.processes.stopping:
    print("Stopped; the same command resumes.", file=sys.stderr)
    sys.exit(128 + launched.processes.stopping)
  return launched.outcomes


@contextlib.contextmanager
def _signals(stop: Callable[[int], None]) -> Iterator[None]:
  """Calls `stop` on SIGINT and SIGTERM."""
  previous = {
    number: signal.signal(number, lambda number, frame: stop(number))
    for number in (signal.SIGINT, signal.SIGTERM)
  }
  try:
    yield
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)


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
    ValueError: if submitit is not installed, or refuses the options.
  """
  cluster_options.check_submitit()
  import submitit

  first, then = rounds(cells)
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
