"""Runs a cell, or goes on with it, and files its record.

A cell runs in its folder below `runs/`, as a process of its own, and leaves
its record in `results/<sheet>/<cell>.json`. A lock beside the folder, which the
running process inherits, keeps two launchers apart, and a new one waits for
what a killed one has left running.
"""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import datetime
import fcntl
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

from prompt_tuning import records
from prompt_tuning.sheets import Cell

# A process that was stopped from outside is run again; others have failed. A
# trainer that had time to save itself exits with 128 + the number.
_STOPS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_STOPPED = {
  sign * (base + n) for n in _STOPS for sign, base in ((-1, 0), (1, 128))
}
# Statuses of a run that is over, with results.
_OVER = ("finished", "stopped")
_LOG_TAIL_BYTES = 20_000


@dataclasses.dataclass(frozen=True)
class Place:
  """Where cells run.

  Attributes:
    root: The repository: commands run here, gin files lie here.
    results: The folder for records.
  """

  root: pathlib.Path
  results: pathlib.Path

  def folder(self, cell: Cell) -> pathlib.Path:
    return self.root / cell.folder

  def record(self, cell: Cell) -> pathlib.Path:
    return self.results / cell.sheet / f"{cell.name}.json"


@dataclasses.dataclass(frozen=True)
class Outcome:
  """How a cell ended.

  Attributes:
    cell: The cell.
    status: "finished", "stopped", "failed", or "interrupted", which has no
      record and goes on when it is launched again.
    error: Of a failed cell.
    seconds: How long this attempt took.
  """

  cell: Cell
  status: str
  error: str | None
  seconds: float


class Processes:
  """The running processes, to be stopped together."""

  def __init__(self):
    self._running: set[subprocess.Popen] = set()
    self._mutex = threading.Lock()
    self.stopping: int | None = None

  @contextlib.contextmanager
  def running(self, start: Callable[[], subprocess.Popen]) -> Iterator[int]:
    """Starts a process and waits for it.

    Yields:
      Its exit status, negative after a signal.
    """
    with self._mutex:
      process = None if self.stopping else start()
      if process:
        self._running.add(process)
    try:
      yield process.wait() if process else -signal.SIGTERM
    finally:
      with self._mutex:
        self._running.discard(process)  # pyright: ignore[reportArgumentType]

  def stop(self, number: int) -> None:
    """Asks all to stop, and lets no more start."""
    self.stopping = number
    for process in tuple(self._running):
      process.send_signal(signal.SIGTERM)


def run_cell(
  cell: Cell, place: Place, processes: Processes | None = None
) -> Outcome:
  """Runs a cell, or goes on with it, and files its record.

  Args:
    cell: The cell.
    place: Where.
    processes: Keeps the process while it runs.

  Returns:
    How it ended.
  """
  start = time.monotonic()
  processes = processes or Processes()
  folder = place.folder(cell)
  left = folder / "record.json"
  with _lock(folder.with_name(f"{folder.name}.lock"), processes) as lock:
    if lock is None:
      return Outcome(cell, "interrupted", None, time.monotonic() - start)
    record = _read(left)
    if record and records.settings(record.command) != cell.settings:
      # The sheet has changed: this is another run, and must not go on here.
      _set_aside(folder)
      record = None
    folder.mkdir(exist_ok=True)
    # An attempt whose launcher was killed may have ended since.
    if record is None or record.status not in _OVER:
      before = record
      status = _run(cell, place, lock, processes)
      record = _read(left)
      if status in _STOPPED:
        return Outcome(cell, "interrupted", None, time.monotonic() - start)
      if status and (
        record is None or record == before or record.status == "running"
      ):
        _write_failure(left, cell, _last_error(folder / "log.txt", status))
        record = _read(left)
    if record is None or record.status not in (*_OVER, "failed"):
      raise ValueError(
        f"{' '.join(cell.command)} succeeded, but {left} does not say so."
      )
    _file(left, place, cell)
  return Outcome(cell, record.status, record.error, time.monotonic() - start)


@contextlib.contextmanager
def _lock(path: pathlib.Path, processes: Processes) -> Iterator[int | None]:
  """Waits for a lock.

  Yields:
    Its file descriptor. Processes that inherit it hold the lock too. None if
    `processes` are to stop meanwhile.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open("w") as f:
    while not processes.stopping:
      try:
        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        time.sleep(0.5)
      else:
        yield f.fileno()
        return
    yield None


def _read(path: pathlib.Path) -> records.RunRecord | None:
  """Reads the record in a run's folder, if it is there."""
  if not path.exists():
    return None
  return records.parse(path.read_text(encoding="utf-8"), str(path))


def _set_aside(folder: pathlib.Path) -> None:
  """Renames a folder to a name that is free."""
  names = (folder.with_name(f"{folder.name}.old{i}") for i in itertools.count())
  folder.rename(next(name for name in names if not name.exists()))


def _run(cell: Cell, place: Place, lock: int, processes: Processes) -> int:
  """Runs the command of a cell; its output goes to `log.txt`."""
  # Cells of one shape compile the same programs.
  environment = {
    "JAX_COMPILATION_CACHE_DIR": str(place.root / "runs" / ".jax_cache"),
    **os.environ,
  }
  with (place.folder(cell) / "log.txt").open("ab") as log:

    def start() -> subprocess.Popen:
      return subprocess.Popen(
        [sys.executable, *cell.command[1:]],
        cwd=place.root,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        pass_fds=[lock],
      )

    with processes.running(start) as status:
      return status


def _last_error(log: pathlib.Path, status: int) -> str:
  """Returns what a process that wrote no record of its own said last."""
  text = log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")
  lines = [x.strip() for x in text.splitlines() if x.strip()]
  errors = [x.removeprefix("Error: ") for x in lines if x.startswith("Error: ")]
  how = f"signal {-status}" if status < 0 else f"exit status {status}"
  return (errors or lines or [how])[-1]


def _write_failure(path: pathlib.Path, cell: Cell, error: str) -> None:
  """Writes the record of a run that did not get to writing one."""
  fields = {
    "schema": 1,
    "kind": cell.command[2].rpartition(".")[2],
    "status": "failed",
    "error": error,
    "started": datetime.datetime.now(datetime.UTC).isoformat(
      timespec="seconds"
    ),
    "command": cell.command,
    "commit": None,
    "seconds": 0.0,
  }
  path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")


def _file(left: pathlib.Path, place: Place, cell: Cell) -> None:
  """Copies a record to `results`, without the names of this machine's folders.

  It appears there whole or not at all.
  """
  text = left.read_text(encoding="utf-8").replace(f"{place.root}{os.sep}", "")
  path = place.record(cell)
  path.parent.mkdir(parents=True, exist_ok=True)
  new = path.with_suffix(".tmp")
  new.write_text(text, encoding="utf-8")
  new.replace(path)
