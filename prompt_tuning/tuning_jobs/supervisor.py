"""Supervision of the worker: it runs while there are jobs."""

from collections.abc import Sequence
import subprocess
import threading
import time

from absl import logging

from prompt_tuning.tuning_jobs.job_store import JobStore

# The pauses between looks at the jobs, and before the next worker. The latter
# doubles with each worker that fails soon: a start costs as much as loading a
# model, and a full disk takes time to clear.
_LOOK_SECONDS = 1.0
_LONGEST_PAUSE = 300.0
# The time that a worker has to save its run.
_STOP_SECONDS = 60.0


class Supervisor:
  """One worker process, which holds a model only while there is work."""

  def __init__(self, store: JobStore, command: Sequence[str]):
    """Starts nothing yet.

    Args:
      store: The jobs.
      command: The command line of the worker.
    """
    self._store, self._command = store, list(command)
    self._process: subprocess.Popen | None = None
    # The workers in a row that claimed no job, and the last one's exit code.
    self._failures, self._code = 0, 0
    self._pause, self._next_start = 0.0, 0.0
    # The store's claims when the worker started.
    self._claims = 0
    self._stop, self._wake = threading.Event(), threading.Event()
    self._thread = threading.Thread(target=self._watch, name="supervisor")

  def start(self) -> None:
    """Starts to look for jobs."""
    self._thread.start()

  def wake(self) -> None:
    """Has the supervisor look for jobs now."""
    self._wake.set()

  @property
  def problem(self) -> str | None:
    """The reason why no job runs, if workers end before they claim one."""
    if not self._failures:
      return None
    return (
      f"No job is running: the last {self._failures} worker(s) ended before "
      f"they claimed one, the last with exit code {self._code}. See the log."
    )

  def stop(self) -> None:
    """Asks the worker to stop; `close` waits for it."""
    self._stop.set()
    self._wake.set()

  def close(self) -> None:
    """Stops the worker and waits until it has saved its run."""
    self.stop()
    if self._thread.is_alive():
      self._thread.join()
    if (process := self._process) is not None:
      try:
        process.wait(_STOP_SECONDS)
      except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

  def _watch(self) -> None:
    while not self._stop.is_set():
      try:
        self._look()
      except Exception:  # A full disk may have room later.
        logging.exception("The supervisor could not look at the jobs.")
      self._wake.wait(_LOOK_SECONDS)
      self._wake.clear()
    if self._process is not None:
      self._process.terminate()

  def _look(self) -> None:
    if (process := self._process) is not None:
      if has_claimed := self._store.claims() > self._claims:
        self._failures = 0
      if (code := process.poll()) is None:
        return
      self._process = None
      self._plan_restart(code, has_claimed)
    if self._stop.is_set() or time.monotonic() < self._next_start:
      return
    if self._store.has_work():
      self._claims = self._store.claims()
      self._process = subprocess.Popen(self._command)
    else:  # The jobs that no worker claimed were cancelled.
      self._failures, self._pause = 0, 0.0

  def _plan_restart(self, code: int, has_claimed: bool) -> None:
    """Sets the earliest time for the next worker.

    Args:
      code: The exit code of the last one.
      has_claimed: Whether that one claimed a job. The store gives up a job that
        ends its workers.
    """
    if not code:
      self._failures, self._pause = 0, 0.0
      return
    self._code, now = code, time.monotonic()
    if not has_claimed:
      self._failures += 1
    elif now - self._next_start > _LONGEST_PAUSE:  # It worked for long.
      self._pause = 0.0
    self._pause = min(max(_LOOK_SECONDS, 2 * self._pause), _LONGEST_PAUSE)
    self._next_start = now + self._pause
    problem = self.problem or f"The worker ended with exit code {code}."
    logging.error("%s The next one starts in %g s.", problem, self._pause)
