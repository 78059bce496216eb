"""Data sets and tuning jobs, on disk: rows of SQLite, and files beside it.

What is written is on disk when a method returns, and a process may be killed at
any time. Several processes may open a store.
"""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import secrets
import sqlite3
import time
from typing import Any

from prompt_tuning import safe_files
from prompt_tuning.serving.jobs import (
  CANCELLED,
  FAILED,
  QUEUED,
  RUNNING,
  File,
  Job,
  JobEvent,
  Settings,
)

_SCHEMA = """
create table if not exists files (
  id text primary key, name text, bytes integer, pairs integer,
  created integer);
create table if not exists jobs (
  number integer primary key autoincrement, id text unique, created integer,
  status text, prompt text, settings text, training_file text,
  validation_file text, error text, finished integer, score real, step integer,
  attempts integer default 0, is_cancelled integer default 0);
create table if not exists events (
  number integer primary key autoincrement, job text, created real, kind text,
  message text, data text);
create index if not exists events_of_jobs on events (job, number);
"""
# What tables of earlier releases lack. `saved`: the last checkpoint's step.
_ADDED = {"tries": "integer default 0", "saved": "integer default -1"}
# A job that ends as many workers, and comes no further, is not begun again.
MAX_TRIES = 5


class UnknownError(KeyError):
  """There is no such file or job."""


class InUseError(Exception):
  """A file that a job still needs."""


class JobStore:
  """The data sets and jobs of a folder; any thread may call."""

  def __init__(self, folder: str | os.PathLike[str]):
    """Opens the folder, or makes one."""
    self.folder = pathlib.Path(folder)
    for name in ("files", "runs"):
      (self.folder / name).mkdir(parents=True, exist_ok=True)
    with self._open() as connection:
      connection.execute("pragma journal_mode = wal")
      connection.executescript(_SCHEMA)
      connection.execute("begin immediate")  # Others may open it now, too.
      there = {row[1] for row in connection.execute("pragma table_info(jobs)")}
      for name, kind in _ADDED.items():
        if name not in there:
          connection.execute(f"alter table jobs add column {name} {kind}")

  def run_folder(self, job: Job) -> pathlib.Path:
    """Where a job trains."""
    return self.folder / "runs" / job.id

  def add_file(self, name: str, content: bytes) -> File:
    """Keeps a data set.

    Raises:
      ValueError: if it is none; it names the line.
    """
    pairs = parse_pairs(content)
    file = File(
      _new_id("file"), name, len(content), len(pairs), int(time.time())
    )
    safe_files.write(self._path(file.id), content)
    with self._open() as connection:
      connection.execute(
        "insert into files values (?, ?, ?, ?, ?)", dataclasses.astuple(file)
      )
    return file

  def files(self) -> list[File]:
    """Returns all files, the newest first."""
    with self._open() as connection:
      rows = connection.execute("select * from files order by created desc")
      return [File(*row) for row in rows]

  def file(self, id: str) -> File:
    """Returns a file.

    Raises:
      UnknownError: if there is none.
    """
    with self._open() as connection:
      row = connection.execute(
        "select * from files where id = ?", [id]
      ).fetchone()
    if row is None:
      raise UnknownError(id)
    return File(*row)

  def content(self, id: str) -> bytes:
    """Returns what is in a file."""
    return self._path(self.file(id).id).read_bytes()

  def delete_file(self, id: str) -> None:
    """Removes a file.

    Raises:
      InUseError: if a job needs it that is not over.
    """
    path = self._path(self.file(id).id)
    with self._open() as connection:
      needed = connection.execute(
        "select id from jobs where ? in (training_file, validation_file) "
        "and status in (?, ?)",
        [id, QUEUED, RUNNING],
      ).fetchone()
      if needed:
        raise InUseError(f"The job {needed[0]} needs {id}.")
      connection.execute("delete from files where id = ?", [id])
    path.unlink(missing_ok=True)

  def add_job(
    self,
    training_file: str,
    validation_file: str | None,
    name: str,
    settings: Settings,
  ) -> Job:
    """Queues a job.

    Args:
      training_file: Id of a file.
      validation_file: The same, or None.
      name: What the name of the prompt begins with.
      settings: How to tune.

    Raises:
      UnknownError: if there is no such file.
    """
    for file in filter(None, (training_file, validation_file)):
      self.file(file)
    id = _new_id("ftjob")
    with self._open() as connection:
      connection.execute(
        "insert into jobs (id, created, status, prompt, settings, "
        "training_file, validation_file) values (?, ?, ?, ?, ?, ?, ?)",
        [
          id,
          int(time.time()),
          QUEUED,
          f"{name}-{id[-6:]}",
          json.dumps(dataclasses.asdict(settings)),
          training_file,
          validation_file,
        ],
      )
      _note(connection, id, "status", "The job is queued.", {"status": QUEUED})
    return self.job(id)

  def jobs(self) -> list[Job]:
    """Returns all jobs, the newest first."""
    return self._jobs("1 order by number desc")

  def job(self, id: str) -> Job:
    """Returns a job.

    Raises:
      UnknownError: if there is none.
    """
    if not (found := self._jobs("id = ?", id)):
      raise UnknownError(id)
    return found[0]

  def has_work(self) -> bool:
    """Whether there is a job that is not over."""
    return bool(self._jobs("status in (?, ?) limit 1", QUEUED, RUNNING))

  def claims(self) -> int:
    """Returns how often a job was begun, or begun again, by any worker."""
    with self._open() as connection:
      row = connection.execute("select sum(attempts) from jobs").fetchone()
    return row[0] or 0

  def cancel(self, id: str) -> Job:
    """Ends a job; one that runs ends after its step."""
    self.job(id)
    with self._open() as connection:
      connection.execute("update jobs set is_cancelled = 1 where id = ?", [id])
      _end(connection, id, CANCELLED, "status = 'queued'")
    return self.job(id)

  def claim(self) -> Job | None:
    """Returns the job to work on, for the one worker that there is.

    That is the one that a worker left, or the oldest.
    """
    for job in self._jobs(
      "status in (?, ?) order by status = ? desc, number",
      QUEUED,
      RUNNING,
      RUNNING,
    ):
      if job.is_cancelled:
        self.finish(job, CANCELLED)
      elif job.tries >= MAX_TRIES:
        self.finish(
          job,
          FAILED,
          error=f"It ended its worker {job.tries} times and came no further.",
        )
      else:
        with self._open() as connection:
          claimed = connection.execute(
            "update jobs set status = ?, attempts = attempts + 1, "
            "tries = tries + 1 where id = ? and status in (?, ?)",
            [RUNNING, job.id, QUEUED, RUNNING],
          ).rowcount
          if not claimed:  # It was cancelled just now.
            continue
          message = "The job goes on." if job.attempts else "The job begins."
          _note(connection, job.id, "status", message, {"status": RUNNING})
        return self.job(job.id)
    return None

  def release(self, job: Job) -> None:
    """Leaves a job, whose run is saved, to another worker."""
    with self._open() as connection:
      connection.execute("update jobs set tries = 0 where id = ?", [job.id])

  def advance(self, job: Job, step: int) -> None:
    """Begins to count tries anew if a job comes to a checkpoint that is new.

    It is to be written: a job whose worker dies of that comes to it each time.

    Args:
      job: The job.
      step: Of the checkpoint.
    """
    with self._open() as connection:
      connection.execute(
        "update jobs set tries = 1, saved = ? where id = ? and saved < ?",
        [step, job.id, step],
      )

  def pairs(self, file: str) -> list[tuple[str, str]]:
    """Returns the examples of a file."""
    return parse_pairs(self.content(file))

  def note(
    self, job: Job, kind: str, message: str, data: Mapping[str, Any]
  ) -> None:
    """Adds an event."""
    with self._open() as connection:
      _note(connection, job.id, kind, message, data)

  def finish(
    self,
    job: Job,
    status: str,
    error: str | None = None,
    score: float | None = None,
    step: int | None = None,
  ) -> None:
    """Ends a job, if it has not ended before."""
    is_open = "status in ('queued', 'running')"
    with self._open() as connection:
      _end(connection, job.id, status, is_open, error, score, step)

  def events(
    self, id: str, after: int = 0, limit: int = 1000
  ) -> list[JobEvent]:
    """Returns events of a job, the oldest first.

    Args:
      id: Of the job.
      after: The number of the last that is known.
      limit: How many, at most.
    """
    with self._open() as connection:
      rows = connection.execute(
        "select number, created, kind, message, data from events "
        "where job = ? and number > ? order by number limit ?",
        [id, after, limit],
      )
      # Earlier releases wrote NaN, which is no JSON.
      read = functools.partial(json.loads, parse_constant=lambda _: None)
      return [JobEvent(*row[:4], read(row[4])) for row in rows]

  def _path(self, file: str) -> pathlib.Path:
    return self.folder / "files" / f"{file}.jsonl"

  def _jobs(self, where: str, *values: Any) -> list[Job]:
    names = [field.name for field in dataclasses.fields(Job)]
    with self._open() as connection:
      rows = connection.execute(
        f"select {', '.join(names)} from jobs where {where}", values
      ).fetchall()
    jobs = []
    for row in rows:
      fields = dict(zip(names, row, strict=True))
      fields["settings"] = Settings(**json.loads(fields["settings"]))
      fields["is_cancelled"] = bool(fields["is_cancelled"])
      jobs.append(Job(**fields))
    return jobs

  @contextlib.contextmanager
  def _open(self) -> Iterator[sqlite3.Connection]:
    """Yields a connection for one transaction."""
    path = self.folder / "jobs.sqlite"
    connection = sqlite3.connect(path, timeout=30)
    try:
      connection.execute("pragma synchronous = full")
      with connection:
        yield connection
    finally:
      connection.close()


def _new_id(kind: str) -> str:
  return f"{kind}-{secrets.token_hex(12)}"


def _note(
  connection: sqlite3.Connection,
  job: str,
  kind: str,
  message: str,
  data: Mapping[str, Any],
) -> None:
  connection.execute(
    "insert into events (job, created, kind, message, data) "
    "values (?, ?, ?, ?, ?)",
    [job, time.time(), kind, message, json.dumps(data)],
  )


def _end(
  connection: sqlite3.Connection,
  id: str,
  status: str,
  condition: str,
  error: str | None = None,
  score: float | None = None,
  step: int | None = None,
) -> None:
  changed = connection.execute(
    "update jobs set status = ?, error = ?, score = ?, step = ?, finished = ? "
    f"where id = ? and {condition}",
    [status, error, score, step, int(time.time()), id],
  ).rowcount
  if changed:
    message = f"The job has {status}." if status != CANCELLED else "Cancelled."
    _note(connection, id, "status", error or message, {"status": status})


def parse_pairs(content: bytes) -> list[tuple[str, str]]:
  """Reads lines of JSON with the texts `prompt` and `completion`.

  Raises:
    ValueError: for a line that is another, which it names, or if there is none.
  """
  try:
    lines = content.decode("utf-8-sig").split("\n")
  except UnicodeDecodeError as error:
    raise ValueError(f"Expected UTF-8, got {error}.") from None
  pairs = []
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    try:
      row = json.loads(line)
      pair = row["prompt"], row["completion"]
    except (ValueError, LookupError, TypeError, RecursionError):
      pair = ()
    if not pair or not all(isinstance(x, str) and x.strip() for x in pair):
      raise ValueError(
        f"Line {number}: expected an object of JSON with the texts 'prompt' "
        f"and 'completion', got {line[:80]!r}."
      )
    pairs.append(pair)
  if not pairs:
    raise ValueError("Expected lines of JSON, got none.")
  return pairs
