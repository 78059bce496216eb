"""Starts a worker while there are jobs, and again if it ends before them."""

from collections.abc import Sequence
import subprocess
import threading
import time

from absl import logging

from prompt_tuning.tuning_jobs.job_store import JobStore

# Between looks at the jobs, and before a worker is started again. The pause
# doubles with every worker that fails soon: it costs as much as loading a
# model, and what failed, such as a disk, takes its time.
_LOOK_SECONDS = 1.0
_LONGEST_PAUSE = 300.0
# For a worker to save its run.
_STOP_SECONDS = 60.0


class Supervisor:
  """One worker process, as long as there is work: it holds a model."""

  def __init__(self, store: JobStore, command: Sequence[str]):
    """Starts nothing yet.

    Args:
      store: The jobs.
      command: Of the worker.
    """
    self._store, self._command = store, list(command)
    self._process: subprocess.Popen | None = None
    # Workers in a row that came to no job, and how the last one ended.
    self._failures, self._code = 0, 0
    self._pause, self._next_start = 0.0, 0.0
    # Of the store, when the worker was started.
    self._claims = 0
    self._stop, self._wake = threading.Event(), threading.Event()
    self._thread = threading.Thread(target=self._watch, name="supervisor")

  def start(self) -> None:
    """Begins to look for jobs."""
    self._thread.start()

  def wake(self) -> None:
    """Says that there may be a job."""
    self._wake.set()

  @property
  def pid(self) -> int | None:
    """The worker's process, if there is one."""
    process = self._process
    if process is None or process.poll() is not None:
      return None
    return process.pid

  @property
  def problem(self) -> str | None:
    """Why jobs wait although nobody works, if workers end before they begin."""
    if not self._failures:
      return None
    return (
      f"No job is worked on: {self._failures} worker(s) in a row ended before "
      f"they came to one, the last with {self._code}: the log says why."
    )

  def stop(self) -> None:
    """Begins to stop; see `close`."""
    self._stop.set()
    self._wake.set()

  def close(self) -> None:
    """Stops the worker, which saves its run, and waits for that."""
    self.stop()
    if self._thread.is_alive():
      self._thread.join()
    process = self._process
    if process is None or process.poll() is not None:
      return
    try:
      process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
      process.kill()
      process.wait()

  def _watch(self) -> None:
    while not self._stop.is_set():
      try:
        self._look()
      except Exception:  # Such as a full disk: it may have room later.
        logging.exception("Jobs could not be looked at.")
      self._wake.wait(_LOOK_SECONDS)
      self._wake.clear()
    if self._process is not None:
      self._process.terminate()

  def _look(self) -> None:
    if (process := self._process) is not None:
      code = process.poll()
      if came_to_a_job := self._store.claims() > self._claims:
        self._failures = 0
      if code is not None:
        self._process = None
        self._note_end(code, came_to_a_job)
    is_wanted = self._process is None and not self._stop.is_set()
    if not is_wanted or time.monotonic() < self._next_start:
      return
    if self._store.has_work():
      self._claims = self._store.claims()
      self._process = subprocess.Popen(self._command)
    else:  # Those that no worker came to were cancelled.
      self._failures, self._pause = 0, 0.0

  def _note_end(self, code: int, came_to_a_job: bool) -> None:
    """Says when the next worker may start.

    Args:
      code: What the last one ended with.
      came_to_a_job: Whether it began one: the store gives up a job that ends
        its workers.
    """
    if not code:
      self._failures, self._pause = 0, 0.0
      return
    self._code, now = code, time.monotonic()
    if not came_to_a_job:
      self._failures += 1
    elif now - self._next_start > _LONGEST_PAUSE:  # It worked for long.
      self._pause = 0.0
    self._pause = min(max(_LOOK_SECONDS, 2 * self._pause), _LONGEST_PAUSE)
    self._next_start = now + self._pause
    told = self.problem or f"The worker ended with {code}."
    logging.error("%s The next may start in %g s.", told, self._pause)
