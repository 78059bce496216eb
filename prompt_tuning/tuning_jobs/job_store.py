"""Data sets and tuning jobs on disk: rows of SQLite, and files beside it.

A method returns when its change is on disk. The process may be killed at any
time, and several processes may open a store.
"""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import json
import os
import pathlib
import secrets
import shutil
import sqlite3
import time
from typing import Any

from prompt_tuning.tuning_jobs.jobs import (
  CANCELLED,
  FAILED,
  QUEUED,
  RUNNING,
  File,
  InUseError,
  Job,
  JobEvent,
  Settings,
  UnknownError,
  cluster_folder,
  parse_examples,
)
from t5x.files import safe_files

# A job fails after it has ended this many workers without progress.
MAX_TRIES = 5
_FILES, _JOBS, _EVENTS = (
  ", ".join(field.name for field in dataclasses.fields(kind))
  for kind in (File, Job, JobEvent)
)
_SCHEMA = f"""
create table if not exists files ({_FILES}, primary key (id));
create table if not exists jobs ({_JOBS}, primary key (id));
create table if not exists events (
  {_EVENTS.replace("number", "number integer primary key autoincrement")});
create index if not exists events_of_jobs on events (job, number);
"""
_IS_OPEN = "status in ('queued', 'running')"
_IS_OWN = "fingerprint is ?"
# Any worker ends a cancelled job: its own model may never be served again.
_IS_WORK = f"{_IS_OPEN} and ({_IS_OWN} or is_cancelled)"


class JobStore:
  """The data sets and jobs of a folder; any thread may call."""

  def __init__(
    self,
    folder: str | os.PathLike[str],
    model: str | None = None,
    fingerprint: str | None = None,
  ):
    """Opens the folder, or makes one.

    Args:
      folder: A folder on a disk; stores of several models may share it.
      model: The name of the base model, for new jobs.
      fingerprint: The base model's fingerprint. The store hands out the jobs of
        this model alone.

    Raises:
      ValueError: if the folder is in a bucket.
    """
    if "://" in os.fspath(folder):
      raise ValueError(f"Expected a folder on a disk for jobs, got {folder}.")
    self.folder = pathlib.Path(folder)
    self._model, self._fingerprint = model, fingerprint
    for name in ("files", "runs"):
      (self.folder / name).mkdir(parents=True, exist_ok=True)
    with self._open() as connection:
      connection.execute("pragma journal_mode = wal")
      connection.executescript(_SCHEMA)

  def run_folder(self, job: Job) -> pathlib.Path:
    """Returns the folder that a job trains in."""
    return self.folder / "runs" / job.id

  def remove_run(self, job: Job) -> None:
    """Removes the folder of a job's run, and its cluster's folder beside it."""
    for folder in (self.folder / "runs").glob(f"{job.id}*"):
      shutil.rmtree(folder, ignore_errors=True)

  def add_file(self, name: str, content: bytes) -> File:
    """Keeps a data set.

    Raises:
      ValueError: if a line is wrong; the message names it.
    """
    pairs = sum(1 for _ in parse_examples(content))
    file = File(_new_id("file"), name, len(content), pairs, int(time.time()))
    safe_files.write(self._path(file.id), content)
    with self._open() as connection:
      _insert(connection, "files", dataclasses.asdict(file))
    return file

  def files(self) -> list[File]:
    """Returns all files, the newest first."""
    rows = self._rows("select * from files order by rowid desc")
    return [File(**row) for row in rows]

  def file(self, id: str) -> File:
    """Returns a file.

    Raises:
      UnknownError: if the id is unknown.
    """
    with self._open() as connection:
      return _file(connection, id)

  def content(self, id: str) -> bytes:
    """Returns the content of a file.

    Raises:
      UnknownError: if the id is unknown.
    """
    try:
      return self._path(self.file(id).id).read_bytes()
    except FileNotFoundError:
      raise UnknownError("file", id) from None

  def delete_file(self, id: str) -> None:
    """Removes a file.

    Raises:
      UnknownError: if the id is unknown.
      InUseError: if a queued or running job needs it.
    """
    with self._open() as connection:
      connection.execute("begin immediate")  # No job is added meanwhile.
      _file(connection, id)
      job = connection.execute(
        "select id from jobs where ? in (training_file, validation_file) "
        f"and {_IS_OPEN}",
        [id],
      ).fetchone()
      if job:
        raise InUseError(f"The job {job['id']} needs {id}.")
      connection.execute("delete from files where id = ?", [id])
    self._path(id).unlink(missing_ok=True)

  def add_job(
    self,
    training_file: str,
    validation_file: str | None,
    name: str,
    settings: Settings,
  ) -> Job:
    """Queues a job.

    Args:
      training_file: The id of a file.
      validation_file: The id of a file, or None.
      name: The start of the prompt's name.
      settings: The settings to tune with.

    Raises:
      UnknownError: if a file does not exist.
    """
    id = _new_id("ftjob")
    job = Job(
      id,
      int(time.time()),
      QUEUED,
      f"{name}-{id[-12:]}",
      settings,
      training_file,
      validation_file,
      self._model,
      self._fingerprint,
    )
    row = dataclasses.asdict(job)
    with self._open() as connection:
      connection.execute("begin immediate")  # No file is removed meanwhile.
      for file in filter(None, (training_file, validation_file)):
        _file(connection, file)
      _insert(
        connection, "jobs", row | {"settings": json.dumps(row["settings"])}
      )
      _add_status(connection, id, QUEUED, "The job is queued.")
    return job

  def jobs(self) -> list[Job]:
    """Returns all jobs, the newest first."""
    return self._jobs("1 order by rowid desc")

  def job(self, id: str) -> Job:
    """Returns a job.

    Raises:
      UnknownError: if the id is unknown.
    """
    if not (found := self._jobs("id = ?", id)):
      raise UnknownError("job", id)
    return found[0]

  def has_work(self) -> bool:
    """Returns whether a job waits to be tuned or ended."""
    return bool(self._jobs(f"{_IS_WORK} limit 1", self._fingerprint))

  def claims(self) -> int:
    """Returns how often workers have claimed a job of the base model."""
    jobs = self._jobs(_IS_OWN, self._fingerprint)
    return sum(job.attempts for job in jobs)

  def cancel(self, id: str) -> Job:
    """Cancels a job; a running one ends after its current step."""
    job = self.job(id)
    with self._open() as connection:
      connection.execute("update jobs set is_cancelled = 1 where id = ?", [id])
    self.finish(job, CANCELLED, unless=RUNNING)
    return self.job(id)

  def claim(self) -> Job | None:
    """Returns the next job of the base model for the one worker, if any.

    A job that another worker has left comes first, then the oldest one. On the
    way, this ends cancelled jobs of any model and jobs that made no progress.
    """
    for job in self._jobs(
      f"{_IS_WORK} order by status = 'running' desc, rowid", self._fingerprint
    ):
      cluster = cluster_folder(self.run_folder(job))
      # Submitted by `on_cluster`, whose worker then ends it in good order.
      is_submitted = (cluster / "job").exists()
      if job.is_cancelled and not is_submitted:
        self.finish(job, CANCELLED)
        self.remove_run(job)
      elif job.tries < MAX_TRIES and job.fingerprint == self._fingerprint:
        if self._begin(job):  # It may have been cancelled just now.
          return self.job(job.id)
      else:
        if is_submitted:
          (cluster / "stop").touch()
        if job.is_cancelled:
          self.finish(job, CANCELLED)
        else:
          error = f"It ended its worker {job.tries} times without progress."
          self.finish(job, FAILED, error=error)
    return None

  def _begin(self, job: Job) -> bool:
    """Marks a job as running; returns whether it was still open."""
    with self._open() as connection:
      is_open = connection.execute(
        "update jobs set status = ?, attempts = attempts + 1, "
        f"tries = tries + 1 where id = ? and {_IS_OPEN}",
        [RUNNING, job.id],
      ).rowcount
      if is_open:
        message = "The job resumes." if job.attempts else "The job starts."
        _add_status(connection, job.id, RUNNING, message)
    return bool(is_open)

  def release(self, job: Job) -> None:
    """Leaves a job, whose run is saved, to another worker."""
    with self._open() as connection:
      connection.execute("update jobs set tries = 0 where id = ?", [job.id])

  def advance(self, job: Job, step: int) -> None:
    """Resets the number of tries when a job reaches a new checkpoint.

    Call this before the checkpoint is written. A job that kills its worker by
    writing reaches the same checkpoint again, which does not count as progress.

    Args:
      job: The job.
      step: The step of the checkpoint.
    """
    with self._open() as connection:
      connection.execute(
        "update jobs set tries = 1, saved = ? where id = ? and saved < ?",
        [step, job.id, step],
      )

  def add_event(
    self, job: Job, kind: str, message: str, data: Mapping[str, Any]
  ) -> None:
    """Adds an event."""
    with self._open() as connection:
      _add_event(connection, job.id, kind, message, data)

  def finish(
    self,
    job: Job,
    status: str,
    error: str | None = None,
    score: float | None = None,
    step: int | None = None,
    unless: str | None = None,
  ) -> None:
    """Ends a job, unless it has ended before or has the status `unless`."""
    with self._open() as connection:
      was_open = connection.execute(
        "update jobs set status = ?, error = ?, score = ?, step = ?, "
        f"finished = ? where id = ? and {_IS_OPEN} and status is not ?",
        [status, error, score, step, int(time.time()), job.id, unless],
      ).rowcount
      if was_open:
        is_cancelled = status == CANCELLED
        message = "Cancelled." if is_cancelled else f"The job has {status}."
        _add_status(connection, job.id, status, error or message)

  def events(
    self, id: str, after: int = 0, limit: int = 1000
  ) -> list[JobEvent]:
    """Returns the events of a job, the oldest first.

    Args:
      id: The job.
      after: The number of the last known event.
      limit: The maximum number of events; -1 for all.
    """
    rows = self._rows(
      "select * from events where job = ? and number > ? "
      "order by number limit ?",
      *(id, after, limit),
    )
    return [JobEvent(**row | {"data": json.loads(row["data"])}) for row in rows]

  def _path(self, file: str) -> pathlib.Path:
    return self.folder / "files" / f"{file}.jsonl"

  def _jobs(self, where: str, *values: Any) -> list[Job]:
    rows = self._rows(f"select * from jobs where {where}", *values)
    for row in rows:
      row["settings"] = Settings(**json.loads(row["settings"]))
      row["is_cancelled"] = bool(row["is_cancelled"])
    return [Job(**row) for row in rows]

  def _rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
    with self._open() as connection:
      return [dict(row) for row in connection.execute(query, values)]

  @contextlib.contextmanager
  def _open(self) -> Iterator[sqlite3.Connection]:
    """Yields a connection for one transaction."""
    path = self.folder / "jobs.sqlite"
    connection = sqlite3.connect(path, timeout=30)
    connection.row_factory = sqlite3.Row
    try:
      connection.execute("pragma synchronous = full")
      with connection:
        yield connection
    finally:
      connection.close()


def _file(connection: sqlite3.Connection, id: str) -> File:
  row = connection.execute("select * from files where id = ?", [id]).fetchone()
  if row is None:
    raise UnknownError("file", id)
  return File(**row)


def _insert(
  connection: sqlite3.Connection, table: str, row: Mapping[str, Any]
) -> None:
  names, values = ", ".join(row), ", ".join("?" * len(row))
  connection.execute(
    f"insert into {table} ({names}) values ({values})", list(row.values())
  )


def _add_event(
  connection: sqlite3.Connection,
  job: str,
  kind: str,
  message: str,
  data: Mapping[str, Any],
) -> None:
  row = {"job": job, "created": time.time(), "kind": kind, "message": message}
  _insert(connection, "events", {**row, "data": json.dumps(data)})


def _add_status(
  connection: sqlite3.Connection, job: str, status: str, message: str
) -> None:
  _add_event(connection, job, "status", message, {"status": status})


def _new_id(kind: str) -> str:
  return f"{kind}-{secrets.token_hex(12)}"
