"""Runs of single cells, and the storage of their records.

A cell runs in its folder below `runs/`, as a separate process. Its record is
stored in `results/<sheet>/<cell>.json`, and its prompt next to it if the sheet
asks for that. The running process inherits locks on its folder and on its kind
of run: they keep two launchers apart, and make a new launcher wait for a run
whose launcher was killed.
"""

from collections.abc import Iterator, Sequence
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

from prompt_tuning import prompt_files
from prompt_tuning.experiments import records
from prompt_tuning.experiments.cells import Cell
from prompt_tuning.experiments.records import Archive
from t5x.configuration import identity
from t5x.files import safe_files
from t5x.runs import record_schema

# Exit statuses of a process that got a signal to stop, and is run again. A
# trainer that had time to save itself exits with 128 + the number.
_STOPPED = {
  sign * (base + n)
  for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
  for sign, base in ((-1, 0), (1, 128))
}
_LOG_TAIL_BYTES = 20_000


@dataclasses.dataclass(frozen=True)
class Workspace:
  """The folders in which cells run.

  Attributes:
    root: The repository: commands run here, and gin files are relative to it.
    results: The folder of records.
  """

  root: pathlib.Path
  results: pathlib.Path

  def archive(self) -> Archive:
    """Reads the records; raises ValueError if a file is not one."""
    return Archive(self.root, self.results)

  def folder(self, cell: Cell) -> pathlib.Path:
    return self.root / cell.folder

  def record(self, cell: Cell) -> pathlib.Path:
    return self.results / cell.sheet / f"{cell.name}.json"


class Processes:
  """The processes that run now, which are stopped together.

  `stop` is for signal handlers, which must not wait, so there is no lock. A
  process that starts during a call of `stop` checks `stopping` afterwards.
  """

  def __init__(self):
    self._running: set[subprocess.Popen] = set()
    self.stopping: int | None = None

  def run(self, command: Sequence[str], **options: Any) -> int:
    """Runs a process; returns its exit status, negative after a signal."""
    if self.stopping:
      return -signal.SIGTERM
    process = subprocess.Popen(command, **options)
    self._running.add(process)
    if self.stopping:
      process.terminate()
    try:
      return process.wait()
    finally:
      self._running.discard(process)

  def stop(self, number: int) -> None:
    """Terminates all processes, and lets no more start."""
    self.stopping = number
    for process in tuple(self._running):
      process.terminate()


@dataclasses.dataclass(frozen=True)
class Outcome:
  """The end of a cell's run.

  Attributes:
    cell: The cell.
    status: "finished", "stopped" or "failed"; "interrupted", which has no
      record and resumes at the next launch; "busy" if another launcher runs it.
    error: The error of a failed cell.
    score: The score of a cell that has one.
  """

  cell: Cell
  status: str
  error: str | None = None
  score: float | None = None

  @property
  def counts(self) -> bool:
    """True if its record has results."""
    return self.status in records.COUNTING


def run_cell(
  cell: Cell,
  workspace: Workspace,
  seen: records.RunRecord | None = None,
  processes: Processes | None = None,
  waits: bool = True,
) -> Outcome:
  """Runs or resumes a cell, and stores its record.

  Args:
    cell: The cell.
    workspace: The folders.
    seen: The stored record to replace, such as that of a failed run. If there
      is another record when the cell's turn comes, a second launcher has
      stored it, and the cell does not run.
    processes: Keeps the process while it runs.
    waits: Whether to wait for another launcher that runs the cell.

  Returns:
    The outcome.

  Raises:
    OSError: if its folders cannot be written.
    ValueError: if a file in `results` is not a record.
  """
  processes = processes or Processes()
  with locks(cell, workspace, processes, waits) as held:
    if not held:
      return Outcome(cell, "interrupted" if processes.stopping else "busy")
    record = workspace.archive().record(cell)
    if not record or record == seen or not record.is_over:
      if missing := _missing(cell, workspace):
        error = f"it needs {missing}, which other cells have to write first"
        return Outcome(cell, "failed", error)
      record = _run_to_its_end(cell, workspace, held, processes)
      if record is None:
        return Outcome(cell, "interrupted")
      _store(workspace.folder(cell) / "record.json", workspace, cell)
    score = record.score if record.counts and record.scores else None
    return Outcome(cell, record.status, record.error, score)


def _run_to_its_end(
  cell: Cell, workspace: Workspace, held: Sequence[int], processes: Processes
) -> records.RunRecord | None:
  """Runs a cell in its folder, unless a finished attempt is there.

  Returns:
    The record in the folder; None if the run was asked to stop.
  """
  folder = workspace.folder(cell)
  left = folder / "record.json"
  before = resumable(left, cell, workspace)
  if before and before.counts:
    return before  # The launcher of this attempt was killed.
  folder.mkdir(exist_ok=True)
  with (folder / "log.txt").open("ab") as log:
    begin = log.tell()
    status = processes.run(
      [sys.executable, *cell.command[1:]],
      cwd=workspace.root,
      # Cells of one shape compile the same programs.
      env={
        "JAX_COMPILATION_CACHE_DIR": f"{workspace.root}/runs/.jax_cache",
        **os.environ,
      },
      stdin=subprocess.DEVNULL,
      stdout=log,
      stderr=log,
      pass_fds=held,
    )
  record, error = None, None
  try:
    record = _read(left)
  except ValueError as e:
    error = str(e)
  # A run that ended before it wrote a record leaves the record of the last
  # attempt, whose status it may have changed.
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
  now = datetime.datetime.now(datetime.UTC)
  fields = {
    "schema": record_schema.VERSION,
    "kind": cell.kind,
    "started": now.isoformat(timespec="seconds"),
    "command": cell.command,
    "configuration": Archive(workspace.root).configuration(cell).to_json(),
    "commit": None,
    "seconds": 0.0,
    **(json.loads(left.read_bytes()) if record else {}),
    "status": "failed",
    "error": error or _last_error(folder / "log.txt", begin, status),
  }
  safe_files.write(left, json.dumps(fields, indent=2, sort_keys=True) + "\n")
  return _read(left)


def _missing(cell: Cell, workspace: Workspace) -> str | None:
  """Describes the prompts that a cell needs and that are missing.

  The prompt of a failed run counts as missing.
  """
  count = cell.bindings.get("NUM_PROMPTS", "1")
  needed = int(count) if count.isdecimal() else 1
  for pattern in cell.prompt_patterns:
    if "://" in pattern:
      continue
    found = sum(
      maker is None or maker.counts
      for _, maker in records.find_prompts(pattern, workspace.root)
    )
    if found < needed:
      return f"{needed} of {pattern}, got {found}" if needed > 1 else pattern
  return None


@contextlib.contextmanager
def locks(
  cell: Cell, workspace: Workspace, processes: Processes, waits: bool
) -> Iterator[Sequence[int]]:
  """Locks the folder of a cell, and its settings.

  Yields:
    File descriptors. Processes that inherit them hold the locks too. Empty if
    `processes` has to stop meanwhile, or if another launcher has the cell and
    `waits` is false.
  """
  folder = workspace.folder(cell)
  settings = Archive(workspace.root).configuration(cell).hash
  held = []
  with contextlib.ExitStack() as stack:
    for path in (
      folder.with_name(f"{folder.name}.lock"),
      workspace.root / "runs" / ".locks" / settings,
    ):
      path.parent.mkdir(parents=True, exist_ok=True)
      held.append(stack.enter_context(path.open("w")).fileno())
      while not processes.stopping:
        try:
          fcntl.flock(held[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
          break
        except BlockingIOError:
          if not waits:
            yield ()
            return
          time.sleep(0.5)
    yield () if processes.stopping else held


def _read(path: pathlib.Path) -> records.RunRecord | None:
  """Reads the record in a run's folder, if there is one."""
  return records.read(path) if path.exists() else None


def resumable(
  left: pathlib.Path, cell: Cell, workspace: Workspace
) -> records.RunRecord | None:
  """Returns the record of a cell's run, if there is one to resume.

  Other contents of the folder are moved aside: a run of another version of the
  sheet, a drifted run with results, or an unreadable record.
  """
  archive = Archive(workspace.root)
  today = archive.configuration(cell)
  with contextlib.suppress(ValueError):
    record = _read(left)
    if record is None:
      return None
    before = record.run_configuration
    if before and before.hash == today.hash:
      # Other wiring gives the same numbers, but the trainer refuses to resume.
      if not record.counts:
        keeps = all(
          identity.matches(x.name, "resumable_settings")
          for x in before.differences(today)
        )
      else:
        keeps = not archive.differences(record, cell)
      if keeps:
        return record
  folder = left.parent
  names = (folder.with_name(f"{folder.name}.old{i}") for i in itertools.count())
  folder.rename(next(name for name in names if not name.exists()))
  return None


def _last_error(log: pathlib.Path, begin: int, status: int) -> str:
  """Returns the error of a process that wrote none into its record.

  Args:
    log: The file with its output, after that of earlier processes.
    begin: Bytes of the earlier output.
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


def _store(left: pathlib.Path, workspace: Workspace, cell: Cell) -> None:
  """Copies a record and a prompt to `results`, without this machine's folders.

  A failure does not replace older results, even of other settings: it is stored
  next to them. A prompt is stored only with results.
  """
  folder = json.dumps(f"{workspace.root}{os.sep}")[1:-1]
  text = re.sub(
    rf"(?:(?<![\w/.-])|(?<=\\n)){re.escape(folder)}",  # Starts a path or line.
    "",
    left.read_text(encoding="utf-8"),
  )
  path = workspace.record(cell)
  failure = path.with_suffix(".failed.json")
  path.parent.mkdir(parents=True, exist_ok=True)
  counts = records.read(left).counts
  if not counts and (stored := _read(path)) and stored.counts:
    safe_files.write(failure, text)
    return
  prompt = left.with_name("prompt.safetensors")
  kept = path.with_suffix(".safetensors")
  if counts and cell.program.keeps_prompt and prompt.exists():
    array, header = prompt_files.load_prompt(prompt)
    if header and header.base_model:
      base = header.base_model.removeprefix(f"{workspace.root}{os.sep}")
      header = dataclasses.replace(header, base_model=base)
    prompt_files.save_prompt(kept, array, header)
  else:
    kept.unlink(missing_ok=True)
  safe_files.write(path, text)
  failure.unlink(missing_ok=True)
