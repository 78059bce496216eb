"""Runs a cell, or goes on with it, and files its record.

A cell runs in its folder below `runs/`, as a process of its own, and leaves
its record in `results/<sheet>/<cell>.json`, and its prompt beside it where the
sheet asks for that. Locks, which the running process inherits, keep two
launchers apart, in a folder and on a kind of run; a new one waits for what a
killed one has left running.
"""

from collections.abc import Collection, Iterator, Sequence
import contextlib
import dataclasses
import datetime
import fcntl
import itertools
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from typing import Any

from prompt_tuning.experiments import records
from prompt_tuning.experiments.archive import Archive
from prompt_tuning.experiments.cells import Cell
from prompt_tuning.experiments.processes import Processes
from t5x.configuration import run_configuration
from t5x.files import safe_files
from t5x.runs import record_schema

# A process that was asked to stop is run again. A trainer that had time to save
# itself exits with 128 + the number.
_STOPPED = {
  sign * (base + n)
  for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
  for sign, base in ((-1, 0), (1, 128))
}
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

  def archive(self) -> Archive:
    """Reads the records.

    Raises:
      ValueError: if a file in `results` is none.
    """
    return Archive.load(self.results, self.root)

  def folder(self, cell: Cell) -> pathlib.Path:
    return self.root / cell.folder

  def record(self, cell: Cell) -> pathlib.Path:
    return self.results / cell.sheet / f"{cell.name}.json"

  def failure(self, cell: Cell) -> pathlib.Path:
    """For the record of a failed run, while another one has results."""
    return self.record(cell).with_suffix(".failed.json")

  def prompt(self, cell: Cell) -> pathlib.Path:
    return self.record(cell).with_suffix(".safetensors")


@dataclasses.dataclass(frozen=True)
class Outcome:
  """How a cell ended.

  Attributes:
    cell: The cell.
    status: "finished", "stopped", "failed", or "interrupted", which has no
      record and goes on when it is launched again; "busy", if another launcher
      runs it.
    error: Of a failed cell.
    seconds: What its record says that the run took, in all attempts.
  """

  cell: Cell
  status: str
  error: str | None = None
  seconds: float = 0.0

  @property
  def counts(self) -> bool:
    """Whether its record has results."""
    return self.status in records.COUNTING


def run_cell(
  cell: Cell,
  place: Place,
  seen: records.RunRecord | None = None,
  processes: Processes | None = None,
  cores: Collection[int] = (),
  waits: bool = True,
) -> Outcome:
  """Runs a cell, or goes on with it, and files its record.

  Args:
    cell: The cell.
    place: Where.
    seen: The filed record that it is run in spite of, such as a failed one.
      Another one by its turn is a second launcher's, and is left as it is.
    processes: Keeps the process while it runs.
    cores: Numbers of the processor's cores that it may use; all by default.
    waits: Whether to wait for another launcher that runs it.

  Returns:
    How it ended.

  Raises:
    OSError: if its folders cannot be written.
    ValueError: if a record in `results` is none.
  """
  processes = processes or Processes()
  with _locks(cell, place, processes, waits) as locks:
    record = None
    if not locks and not processes.stopping:
      return Outcome(cell, "busy")
    if locks:
      filed = place.archive().record(cell)
      if filed and filed != seen and filed.is_over:
        record = filed
      elif missing := _missing(cell, place):
        error = f"it needs {missing}, which other cells are to leave there"
        return Outcome(cell, "failed", error)
      elif record := _run_to_its_end(cell, place, locks, processes, cores):
        _file(place.folder(cell) / "record.json", place, cell)
  if record is None:
    return Outcome(cell, "interrupted")
  return Outcome(cell, record.status, record.error, record.seconds)


def _run_to_its_end(
  cell: Cell,
  place: Place,
  locks: Sequence[int],
  processes: Processes,
  cores: Collection[int],
) -> records.RunRecord | None:
  """Runs a cell in its folder, unless an attempt that is over lies there.

  Returns:
    Its record, which lies in the folder; None if it was asked to stop.
  """
  folder = place.folder(cell)
  left = folder / "record.json"
  before = _resumable(left, cell, place)
  if before and before.counts:
    return before  # The launcher of this attempt was killed.
  folder.mkdir(exist_ok=True)
  log = folder / "log.txt"
  begin = log.stat().st_size if log.exists() else 0
  status = _run(cell, place, locks, processes, cores)
  record, error = None, None
  try:
    record = _read(left)
  except ValueError as e:
    error = str(e)
  # One that ended before it wrote a record leaves the last one's, or what that
  # says of a killed one.
  is_new = record is not None and (
    before is None
    or record.model_copy(update={"status": before.status}) != before
  )
  if (
    status in _STOPPED
    or (status == -signal.SIGKILL and processes.stopping)
    or (record and is_new and record.status == "interrupted")
  ):
    return None
  if record and is_new and record.is_over:
    return record
  error = error or _last_error(log, begin, status)
  fields = json.loads(left.read_text("utf-8")) if record else _stub(cell, place)
  fields |= {"status": "failed", "error": error}
  safe_files.write(left, json.dumps(fields, indent=2, sort_keys=True) + "\n")
  return _read(left)


def _missing(cell: Cell, place: Place) -> str | None:
  """Says which prompts a cell reads and that are not all there.

  One that a run left which did not end well is not.
  """
  count = cell.bindings.get("NUM_PROMPTS", "1")
  needed = int(count) if count.isdecimal() else 1
  for pattern in cell.prompt_patterns:
    if "://" in pattern:
      continue
    found = sum(
      maker is None or maker.counts
      for _, maker in records.find_prompts(pattern, place.root)
    )
    if found < needed:
      return f"{needed} of {pattern}, got {found}" if needed > 1 else pattern
  return None


@contextlib.contextmanager
def _locks(
  cell: Cell, place: Place, processes: Processes, waits: bool
) -> Iterator[Sequence[int]]:
  """Waits until nobody else uses the folder of a cell or runs its settings.

  Yields:
    File descriptors. Processes that inherit them hold the locks too. Nothing
    if `processes` are to stop meanwhile, or it does not wait.
  """
  folder = place.folder(cell)
  identity = Archive(root=place.root).configuration(cell).hash
  with (
    _lock(folder.with_name(f"{folder.name}.lock"), processes, waits) as first,
    _lock(
      place.root / "runs" / ".locks" / identity, processes, waits
    ) as second,
  ):
    yield () if first is None or second is None else (first, second)


@contextlib.contextmanager
def _lock(
  path: pathlib.Path, processes: Processes, waits: bool
) -> Iterator[int | None]:
  """Waits for a lock.

  Yields:
    Its file descriptor. Processes that inherit it hold the lock too. None if
    `processes` are to stop meanwhile, or it does not wait.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open("w") as f:
    while not processes.stopping:
      try:
        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        if not waits:
          break
        time.sleep(0.5)
      else:
        yield f.fileno()
        return
    yield None


def _read(path: pathlib.Path) -> records.RunRecord | None:
  """Reads the record in a run's folder, if it is there."""
  return records.read(path) if path.exists() else None


def _is_of(record: records.RunRecord, cell: Cell, archive: Archive) -> bool:
  """Whether a record is of a cell's run, and that can resume if it has to."""
  before, today = record.run_configuration, archive.configuration(cell)
  if before is None or before.hash != today.hash:
    return False
  # Another wiring gives the same numbers, but the trainer does not resume it.
  return record.counts or all(
    run_configuration.may_change(x) for x in before.differences(today)
  )


def _resumable(
  left: pathlib.Path, cell: Cell, place: Place
) -> records.RunRecord | None:
  """Returns the record of a cell's run, if there is one to go on with.

  What else lies in the folder is set aside: a run of another version of the
  sheet, one with results that has drifted, or what cannot be read.
  """
  try:
    record = _read(left)
    if record is None:
      return None
    archive = Archive(root=place.root)
    drifted = record.counts and archive.differences(record, cell)
    if _is_of(record, cell, archive) and not drifted:
      return record
  except ValueError:
    pass
  folder = left.parent
  names = (folder.with_name(f"{folder.name}.old{i}") for i in itertools.count())
  folder.rename(next(name for name in names if not name.exists()))
  return None


def _run(
  cell: Cell,
  place: Place,
  locks: Sequence[int],
  processes: Processes,
  cores: Collection[int],
) -> int:
  """Runs the command of a cell; its output goes to `log.txt`."""
  # Cells of one shape compile the same programs.
  environment = {
    "JAX_COMPILATION_CACHE_DIR": str(place.root / "runs" / ".jax_cache"),
    **os.environ,
  }
  with (place.folder(cell) / "log.txt").open("ab") as log:

    def start() -> subprocess.Popen:
      process = subprocess.Popen(
        [sys.executable, *cell.command[1:]],
        cwd=place.root,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        pass_fds=locks,
      )
      if cores:  # Before it has threads, which inherit it.
        with contextlib.suppress(ProcessLookupError):
          os.sched_setaffinity(process.pid, cores)
      return process

    with processes.running(start) as status:
      return status


def _last_error(log: pathlib.Path, begin: int, status: int) -> str:
  """Returns how a process ended that did not say so in a record.

  Args:
    log: With its output, and that of earlier ones.
    begin: Bytes of the earlier ones.
    status: Its exit status, negative after a signal.
  """
  text = log.read_bytes()[begin:][-_LOG_TAIL_BYTES:].decode(errors="replace")
  lines = [x.strip() for x in text.splitlines() if x.strip()]
  errors = [x.removeprefix("Error: ") for x in lines if x.startswith("Error: ")]
  if errors and status > 0:
    return errors[-1]
  how = f"exit status {status}"
  if status < 0:
    how = f"killed by signal {-status}"
  if status == -signal.SIGKILL:
    how += " (out of memory?)"
  return ": ".join([how, *(errors or lines)[-1:]])


def _stub(cell: Cell, place: Place) -> dict[str, Any]:
  """The fields of a run that did not get to writing a record."""
  now = datetime.datetime.now(datetime.UTC)
  return {
    "schema": record_schema.VERSION,
    "kind": cell.kind,
    "started": now.isoformat(timespec="seconds"),
    "command": cell.command,
    "configuration": Archive(root=place.root).configuration(cell).to_json(),
    "commit": None,
    "seconds": 0.0,
  }


def _file(left: pathlib.Path, place: Place, cell: Cell) -> None:
  """Copies a record to `results`, without this machine's folders.

  Results that lie there, of other settings by then, are not given up for a
  failure, which is filed beside them. A prompt lies beside results only.
  """
  folder = json.dumps(f"{place.root}{os.sep}")[1:-1]
  text = re.sub(
    rf"(?:(?<![\w/.-])|(?<=\\n)){re.escape(folder)}",  # Begins a path or line.
    "",
    left.read_text(encoding="utf-8"),
  )
  path, failure = place.record(cell), place.failure(cell)
  path.parent.mkdir(parents=True, exist_ok=True)
  counts = records.parse(text, str(left)).counts
  if not counts and (filed := _read(path)) and filed.counts:
    safe_files.write(failure, text)
    return
  prompt = left.with_name("prompt.safetensors")
  if counts and cell.keeps_prompt and prompt.exists():
    safe_files.write(place.prompt(cell), prompt.read_bytes())
  else:
    place.prompt(cell).unlink(missing_ok=True)
  safe_files.write(path, text)
  failure.unlink(missing_ok=True)
