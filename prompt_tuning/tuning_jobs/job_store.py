"""Data sets and tuning jobs on disk: SQLite rows, and files beside them.

A method returns when its change is on disk. The process may be killed at any
time, and several processes may open a store. Each method opens the database
again, so that a damaged one can be replaced by a copy at any time.
"""

import collections
from collections.abc import Mapping
import contextlib
import copy
import errno
import hashlib
import os
import pathlib
import secrets
import shutil
import time
from typing import Any

from prompt_tuning.tuning_jobs import database as database_lib
from prompt_tuning.tuning_jobs import jobs as jobs_lib
from prompt_tuning.tuning_jobs.database import Database, Row
from prompt_tuning.tuning_jobs.jobs import File, Job, JobEvent
from t5x.files import safe_files

# A job fails after it has killed this many workers without progress.
MAX_TRIES = 5
# With fewer free bytes on the disk, no jobs are accepted.
_LEAST_ROOM = 2**20
_IS_OPEN = "status in ('queued', 'running')"
_IS_OWN = "fingerprint is ?"
_IS_VISIBLE = database_lib.IS_VISIBLE
_NEWEST = f"{_IS_VISIBLE} order by rowid desc"
# Any worker ends a cancelled job, whose model may never be served again.
_IS_WORK = f"{_IS_OPEN} and ({_IS_OWN} or is_cancelled)"


class JobStore:
  """The data sets and jobs of a folder; methods work in any thread."""

  def __init__(
    self,
    folder: str | os.PathLike[str],
    model: str | None = None,
    fingerprint: str | None = None,
  ):
    """Opens or creates the folder.

    Args:
      folder: A folder on a disk; stores of several models may share it.
      model: The name of the base model, for new jobs.
      fingerprint: The base model's fingerprint. The store hands out only jobs
        of this model.

    Raises:
      ValueError: if the folder is in a bucket.
    """
    if "://" in os.fspath(folder):
      raise ValueError(f"Expected a folder on a disk for jobs, got {folder}.")
    self.folder = pathlib.Path(folder)
    self._model, self._fingerprint = model, fingerprint
    self._owner: str | None = None
    for name in ("files", "runs"):
      (self.folder / name).mkdir(parents=True, exist_ok=True)
    with self._open() as database:
      database.add_new_columns()

  def check(self) -> None:
    """Raises the error that a new job would get now, if any."""
    with self._open() as database:
      database.execute("begin immediate")
      database.select(Job, _IS_OPEN)
    if shutil.disk_usage(self.folder).free < _LEAST_ROOM:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder))

  def of(self, owner: str | None) -> "JobStore":
    """Returns the store as a tenant sees it; None sees all."""
    store = copy.copy(self)
    store._owner = owner
    return store

  def usage(self) -> collections.Counter[str]:
    """Returns the tenant's bytes, files, open jobs, and prompt positions.

    A job also counts as a file, for its prompt.
    """
    files = self.files()
    jobs = self._select(Job, f"{_IS_OPEN} and {_IS_VISIBLE}", self._owner)
    return collections.Counter(
      bytes=sum(file.bytes for file in files),
      files=len(files) + len(jobs),
      jobs=len(jobs),
      positions=sum(job.settings.length for job in jobs),
    )

  def run_folder(self, job: Job) -> pathlib.Path:
    """Returns the folder of a job's training run."""
    return self.folder / "runs" / job.id

  def remove_run(self, job: Job) -> None:
    """Removes the folder of a job's run, and its cluster's folder beside it."""
    for folder in (self.folder / "runs").glob(f"{job.id}*"):
      shutil.rmtree(folder, ignore_errors=True)

  def add_file(self, name: str, content: bytes) -> File:
    """Stores a data set.

    Raises:
      ValueError: if a line is wrong; the message names it.
    """
    pairs = sum(1 for _ in jobs_lib.parse_examples(content))
    file = File(
      f"file-{secrets.token_hex(12)}",
      name,
      len(content),
      pairs,
      int(time.time()),
      self._owner,
      hashlib.sha256(content).hexdigest(),
    )
    path = self._path(file.id)
    safe_files.write(path, content)
    try:
      with self._open() as database:
        database.insert(file)
    except BaseException:
      path.unlink(missing_ok=True)
      raise
    return file

  def files(self) -> list[File]:
    """Returns all files, the newest first."""
    return self._select(File, _NEWEST, self._owner)

  def file(self, id: str) -> File:
    """Returns a file.

    Raises:
      UnknownError: if the id is unknown.
    """
    with self._open() as database:
      return database.one(File, id)

  def content(self, id: str) -> bytes:
    """Returns the content of a file.

    Raises:
      UnknownError: if the id is unknown.
      ValueError: if the content has changed since it was stored.
    """
    file = self.file(id)
    try:
      content = self._path(file.id).read_bytes()
    except FileNotFoundError:
      raise jobs_lib.UnknownError("file", id) from None
    if file.sha256 not in (None, hashlib.sha256(content).hexdigest()):
      raise ValueError(f"{id} is damaged on the server: upload it again.")
    return content

  def delete_file(self, id: str) -> None:
    """Removes a file.

    Raises:
      UnknownError: if the id is unknown.
      InUseError: if a queued or running job needs it.
    """
    with self._open() as database:
      database.execute("begin immediate")  # Prevents jobs from being added.
      database.one(File, id)
      is_used = f"{_IS_OPEN} and ? in (training_file, validation_file)"
      for job in database.select(Job, is_used, id):
        raise jobs_lib.InUseError(f"The job {job.id} needs {id}.")
      database.execute("delete from files where id = ?", [id])
    self._path(id).unlink(missing_ok=True)

  def add_job(
    self,
    training_file: str,
    validation_file: str | None,
    name: str,
    settings: jobs_lib.Settings,
    metadata: Mapping[str, str] | None = None,
  ) -> Job:
    """Queues a job.

    Args:
      training_file: The id of a file.
      validation_file: The id of a file, or None.
      name: The beginning of the prompt's name.
      settings: The settings to tune with.
      metadata: The user's own notes.

    Raises:
      UnknownError: if a file does not exist.
    """
    id = f"ftjob-{secrets.token_hex(12)}"
    job = Job(
      id,
      int(time.time()),
      jobs_lib.QUEUED,
      f"{name}-{id[-12:]}",
      settings,
      training_file,
      validation_file,
      self._model,
      self._fingerprint,
      owner=self._owner,
      metadata=metadata,
    )
    with self._open() as database:
      database.execute("begin immediate")  # Prevents files from being removed.
      for file in filter(None, (training_file, validation_file)):
        database.one(File, file)
      database.insert(job)
      database.insert(
        _event(id, "The job is queued.", {"status": jobs_lib.QUEUED})
      )
    return job

  def jobs(self) -> list[Job]:
    """Returns all jobs, the newest first."""
    return self._select(Job, _NEWEST, self._owner)

  def counts(self) -> dict[str, int]:
    """Returns the number of jobs by status."""
    counts = dict.fromkeys(jobs_lib.STATUSES, 0)
    with self._open() as database:
      query = "select status, count(*) from jobs group by status"
      return counts | {row[0]: row[1] for row in database.execute(query)}

  def job(self, id: str) -> Job:
    """Returns a job.

    Raises:
      UnknownError: if the id is unknown.
    """
    with self._open() as database:
      return database.one(Job, id)

  def has_work(self) -> bool:
    """Returns whether a job waits to be tuned or ended."""
    return bool(self._select(Job, f"{_IS_WORK} limit 1", self._fingerprint))

  def claims(self) -> int:
    """Returns the number of times workers claimed a job of the base model."""
    jobs = self._select(Job, _IS_OWN, self._fingerprint)
    return sum(job.attempts for job in jobs)

  def cancel(self, id: str) -> Job:
    """Cancels a job; a running one ends after its current step."""
    job = self.job(id)
    self._update(job, is_cancelled=True)
    self.finish(job, jobs_lib.CANCELLED, only_if="status = 'queued'")
    return self.job(id)

  def claim(self) -> Job | None:
    """Returns the next job of the base model for its only worker, or None.

    A job that another worker has left comes first, then the oldest one. This
    also ends cancelled jobs of any model, and jobs that made no progress.
    """
    in_order = f"{_IS_WORK} order by status = 'running' desc, rowid"
    for job in self._select(Job, in_order, self._fingerprint):
      cluster = jobs_lib.cluster_folder(self.run_folder(job))
      # `on_cluster` submitted it, and its worker then ends it properly.
      is_submitted = (cluster / "job").exists()
      if job.is_cancelled and not is_submitted:
        self.finish(job, jobs_lib.CANCELLED)
        self.remove_run(job)
      elif job.tries < MAX_TRIES and job.fingerprint == self._fingerprint:
        message = "The job resumes." if job.attempts else "The job starts."
        counts = {"attempts": job.attempts + 1, "tries": job.tries + 1}
        # The update fails if the job was cancelled just now.
        if self._update(
          job, _IS_OPEN, message, status=jobs_lib.RUNNING, **counts
        ):
          return self.job(job.id)
      else:
        if is_submitted:
          (cluster / "stop").touch()
        if job.is_cancelled:
          self.finish(job, jobs_lib.CANCELLED)
        else:
          error = f"It ended its worker {job.tries} times without progress."
          reason = self.events(job.id)[-1]
          if reason.kind == "notice":
            error += f" The last time: {reason.message}"
          self.finish(job, jobs_lib.FAILED, error=error)
    return None

  def release(self, job: Job) -> None:
    """Leaves a job, whose run is saved, for another worker."""
    self._update(job, tries=0)

  def advance(self, job: Job, step: int) -> None:
    """Resets the number of tries when a job reaches a new checkpoint.

    Call this before the checkpoint is written. If writing it kills the worker,
    the job reaches the same checkpoint again, which is not progress.

    Args:
      job: The job.
      step: The step of the checkpoint.
    """
    self._update(job, f"saved < {step:d}", tries=1, saved=step)

  def add_event(
    self, job: Job, kind: str, message: str, data: Mapping[str, Any]
  ) -> None:
    """Adds an event."""
    with self._open() as database:
      database.insert(_event(job.id, message, data, kind))

  def finish(
    self,
    job: Job,
    status: str,
    error: str | None = None,
    score: float | None = None,
    step: int | None = None,
    only_if: str = _IS_OPEN,
  ) -> None:
    """Ends a job, unless it has ended before."""
    done = (
      "Cancelled." if status == jobs_lib.CANCELLED else f"The job has {status}."
    )
    values = {"error": error, "score": score, "step": step}
    now = int(time.time())
    self._update(
      job, only_if, error or done, status=status, finished_at=now, **values
    )

  def _update(
    self, job: Job, only_if: str = "1", message: str = "", **values: Any
  ) -> bool:
    """Changes a job if it meets a condition; adds an event for a new status.

    Returns:
      Whether the job met the condition.
    """
    names = ", ".join(f"{name} = ?" for name in values)
    with self._open() as database:
      changed = database.execute(
        f"update jobs set {names} where id = ? and {only_if}",
        [*values.values(), job.id],
      ).rowcount
      if changed and message:
        status = {"status": values["status"]}
        database.insert(_event(job.id, message, status))
    return bool(changed)

  def events(self, id: str, after: int = 0) -> list[JobEvent]:
    """Returns a job's events after the number `after`, the oldest first."""
    where = "job = ? and number > ? order by number"
    return self._select(JobEvent, where, id, after)

  def _path(self, file: str) -> pathlib.Path:
    return self.folder / "files" / f"{file}.jsonl"

  def _select(self, kind: type[Row], where: str, *values: Any) -> list[Row]:
    with self._open() as database:
      return database.select(kind, where, *values)

  def _open(self) -> contextlib.AbstractContextManager[Database]:
    return database_lib.transaction(self.folder, self._owner)


def _event(
  job: str, message: str, data: Mapping[str, Any], kind: str = "status"
) -> JobEvent:
  number: Any = None  # The database numbers events.
  return JobEvent(number, job, time.time(), kind, message, data)
