"""Supervision of the worker: it runs while there are jobs."""

from collections.abc import Sequence
import subprocess
import threading
import time

from absl import logging

from prompt_tuning.tuning_jobs.job_store import JobStore

# The pause between looks at the jobs.
_LOOK_SECONDS = 1.0
# The pause after a worker that failed. It doubles with each in a row: a start
# costs as much as loading a model, and a full disk takes time to clear.
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 300.0
# The time that a worker has to save its run.
_STOP_SECONDS = 60.0


class Supervisor:
  """One worker process, which holds a model only while there is work.

  Attributes:
    problem: The reason why no job runs, if the last worker failed before it
      claimed one.
  """

  def __init__(self, store: JobStore, command: Sequence[str]):
    """Starts nothing yet.

    Args:
      store: The jobs.
      command: The command line of the worker.
    """
    self.problem: str | None = None
    self._store, self._command = store, list(command)
    self._stop, self._wake = threading.Event(), threading.Event()
    self._thread = threading.Thread(target=self._watch, name="supervisor")

  def start(self) -> None:
    """Starts to look for jobs."""
    self._thread.start()

  def wake(self) -> None:
    """Has the supervisor look for jobs now."""
    self._wake.set()

  def stop(self) -> None:
    """Asks the worker to stop; `close` waits for it."""
    self._stop.set()
    self._wake.set()

  def close(self) -> None:
    """Stops the worker and waits until it has saved its run."""
    self.stop()
    if self._thread.is_alive():
      self._thread.join()

  def _watch(self) -> None:
    failures = 0  # Of workers in a row.
    while not self._stop.is_set():
      try:
        if self._store.has_work():
          failures = self._run_worker(failures)
          pause = min(_FIRST_PAUSE * 2 ** min(failures - 1, 9), _LONGEST_PAUSE)
          self._stop.wait(pause if failures else 0)
          continue
        # The jobs that no worker claimed were cancelled.
        failures, self.problem = 0, None
      except Exception:  # A full disk may have room later.
        logging.exception("The supervisor could not look at the jobs.")
      self._wake.wait(_LOOK_SECONDS)
      self._wake.clear()

  def _run_worker(self, failures: int) -> int:
    """Runs a worker to its end; returns the failures in a row."""
    start, claims = time.monotonic(), self._store.claims()
    self._process = process = subprocess.Popen(self._command)
    try:
      while process.poll() is None and not self._stop.wait(_LOOK_SECONDS):
        if self._store.claims() > claims:
          self.problem = None
    finally:
      process.terminate()
      try:
        code = process.wait(_STOP_SECONDS)
      except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    has_claimed = self._store.claims() > claims
    if not code or self._stop.is_set():
      self.problem = None
      return 0
    # The store gives up a job that ends its workers.
    worked_long = has_claimed and time.monotonic() - start > _LONGEST_PAUSE
    failures = 1 if worked_long else failures + 1
    ended = f"{failures} worker(s) in a row failed, the last with code {code}"
    logging.error("%s.", ended)
    problem = f"No job is running: {ended} before it claimed one. See the log."
    self.problem = None if has_claimed else problem
    return failures
