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
import shutil
import sqlite3
import time
from typing import Any

from prompt_tuning import safe_files
from prompt_tuning.tuning_jobs import data_sets, job_tables
from prompt_tuning.tuning_jobs.jobs import (
  CANCELLED,
  FAILED,
  QUEUED,
  RUNNING,
  File,
  Job,
  JobEvent,
  Settings,
)

# A job that ends as many workers, and comes no further, is not begun again.
MAX_TRIES = 5
_IS_OPEN = "status in ('queued', 'running')"
# Of a store's own base model, as far as is known: older jobs name none.
_IS_OWN = "(fingerprint is null or fingerprint = ?)"
# A cancelled job of another model, which may never be served again, ends, too.
_IS_WORK = f"{_IS_OPEN} and ({_IS_OWN} or is_cancelled)"


class UnknownError(KeyError):
  """There is no such file or job."""


class InUseError(Exception):
  """A file that a job still needs."""


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
      folder: On a disk; stores of several models may share it.
      model: The name of the base model, for new jobs.
      fingerprint: What the base model is known by: work is on its jobs alone.

    Raises:
      ValueError: if the folder is one of a bucket.
    """
    if "://" in os.fspath(folder):
      raise ValueError(f"Expected a folder on a disk for jobs, got {folder}.")
    self.folder = pathlib.Path(folder)
    self._model, self._fingerprint = model, fingerprint
    for name in ("files", "runs"):
      (self.folder / name).mkdir(parents=True, exist_ok=True)
    with self._open() as connection:
      job_tables.make(connection)

  def run_folder(self, job: Job) -> pathlib.Path:
    """Where a job trains."""
    return self.folder / "runs" / job.id

  def remove_run(self, job: Job) -> None:
    """Removes where a job trained, with what a cluster left beside it."""
    for folder in (self.folder / "runs").glob(f"{job.id}*"):
      shutil.rmtree(folder, ignore_errors=True)

  def add_file(self, name: str, content: bytes) -> File:
    """Keeps a data set.

    Raises:
      ValueError: if it is none; it names the line.
    """
    pairs = sum(1 for _ in data_sets.parse_pairs(content))
    file = File(_new_id("file"), name, len(content), pairs, int(time.time()))
    safe_files.write(self._path(file.id), content)
    with self._open() as connection:
      connection.execute(
        "insert into files values (?, ?, ?, ?, ?)", dataclasses.astuple(file)
      )
    return file

  def files(self) -> list[File]:
    """Returns all files, the newest first."""
    with self._open() as connection:
      rows = connection.execute("select * from files order by rowid desc")
      return [File(*row) for row in rows]

  def file(self, id: str) -> File:
    """Returns a file.

    Raises:
      UnknownError: if there is none.
    """
    with self._open() as connection:
      return _file(connection, id)

  def content(self, id: str) -> bytes:
    """Returns what is in a file.

    Raises:
      UnknownError: if there is none.
    """
    try:
      return self._path(self.file(id).id).read_bytes()
    except FileNotFoundError:
      raise UnknownError(id) from None

  def delete_file(self, id: str) -> None:
    """Removes a file.

    Raises:
      UnknownError: if there is none.
      InUseError: if a job needs it that is not over.
    """
    with self._open() as connection:
      connection.execute("begin immediate")  # No job is added meanwhile.
      _file(connection, id)
      needed = connection.execute(
        "select id from jobs where ? in (training_file, validation_file) "
        f"and {_IS_OPEN}",
        [id],
      ).fetchone()
      if needed:
        raise InUseError(f"The job {needed[0]} needs {id}.")
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
      training_file: Id of a file.
      validation_file: The same, or None.
      name: What the name of the prompt begins with.
      settings: How to tune.

    Raises:
      UnknownError: if there is no such file.
    """
    id = _new_id("ftjob")
    with self._open() as connection:
      connection.execute("begin immediate")  # No file is removed meanwhile.
      for file in filter(None, (training_file, validation_file)):
        _file(connection, file)
      connection.execute(
        "insert into jobs (id, created, status, prompt, settings, "
        "training_file, validation_file, model, fingerprint) "
        "values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
          id,
          int(time.time()),
          QUEUED,
          f"{name}-{id[-12:]}",
          json.dumps(dataclasses.asdict(settings)),
          training_file,
          validation_file,
          self._model,
          self._fingerprint,
        ],
      )
      job_tables.note(
        connection, id, "status", "The job is queued.", {"status": QUEUED}
      )
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
    """Whether there is a job to tune or to end."""
    return bool(self._jobs(f"{_IS_WORK} limit 1", self._fingerprint))

  def claims(self) -> int:
    """Returns how often a job of the base model was begun, or begun again."""
    with self._open() as connection:
      row = connection.execute(
        f"select sum(attempts) from jobs where {_IS_OWN}", [self._fingerprint]
      ).fetchone()
    return row[0] or 0

  def cancel(self, id: str) -> Job:
    """Ends a job; one that runs ends after its step."""
    self.job(id)
    with self._open() as connection:
      connection.execute("update jobs set is_cancelled = 1 where id = ?", [id])
      job_tables.end(connection, id, CANCELLED, "status = 'queued'")
    return self.job(id)

  def claim(self) -> Job | None:
    """Returns the job to work on, for the one worker that there is.

    That is the one that a worker left, or the oldest, of the base model. Those
    that are only to end, of any model, end.
    """
    for job in self._jobs(
      f"{_IS_WORK} order by status = 'running' desc, number", self._fingerprint
    ):
      is_own = job.fingerprint in (None, self._fingerprint)
      if job.is_cancelled and not self._is_submitted(job):
        self.finish(job, CANCELLED)
        self.remove_run(job)
      elif job.tries >= MAX_TRIES or not is_own:
        if self._is_submitted(job):
          self._cluster_folder(job).joinpath("stop").touch()
        self.finish(
          job,
          CANCELLED if job.is_cancelled else FAILED,
          error=None
          if job.is_cancelled
          else f"It ended its worker {job.tries} times and came no further.",
        )
      else:
        with self._open() as connection:
          claimed = connection.execute(
            "update jobs set status = ?, attempts = attempts + 1, "
            f"tries = tries + 1 where id = ? and {_IS_OPEN}",
            [RUNNING, job.id],
          ).rowcount
          if not claimed:  # It was cancelled just now.
            continue
          message = "The job goes on." if job.attempts else "The job begins."
          job_tables.note(
            connection, job.id, "status", message, {"status": RUNNING}
          )
        return self.job(job.id)
    return None

  def _is_submitted(self, job: Job) -> bool:
    """Whether a cluster has it, as `on_cluster` notes: it is to hear of it."""
    return self._cluster_folder(job).joinpath("job").exists()

  def _cluster_folder(self, job: Job) -> pathlib.Path:
    folder = self.run_folder(job)
    return folder.with_name(f"{folder.name}.cluster")

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
    return list(data_sets.parse_pairs(self.content(file)))

  def note(
    self, job: Job, kind: str, message: str, data: Mapping[str, Any]
  ) -> None:
    """Adds an event."""
    with self._open() as connection:
      job_tables.note(connection, job.id, kind, message, data)

  def finish(
    self,
    job: Job,
    status: str,
    error: str | None = None,
    score: float | None = None,
    step: int | None = None,
  ) -> None:
    """Ends a job, if it has not ended before."""
    with self._open() as connection:
      job_tables.end(connection, job.id, status, _IS_OPEN, error, score, step)

  def events(
    self, id: str, after: int = 0, limit: int = 1000
  ) -> list[JobEvent]:
    """Returns events of a job, the oldest first.

    Args:
      id: Of the job.
      after: The number of the last that is known.
      limit: How many, at most; -1: all.
    """
    with self._open() as connection:
      rows = connection.execute(
        "select number, created, kind, message, data from events "
        "where job = ? and number > ? order by number limit ?",
        [id, after, limit],
      )
      # NaN, which is no JSON, may be in rows of before.
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


def _file(connection: sqlite3.Connection, id: str) -> File:
  row = connection.execute("select * from files where id = ?", [id]).fetchone()
  if row is None:
    raise UnknownError(id)
  return File(*row)


def _new_id(kind: str) -> str:
  return f"{kind}-{secrets.token_hex(12)}"
