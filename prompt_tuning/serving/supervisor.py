"""Starts a worker while there are jobs, and again if it ends before them."""

from collections.abc import Sequence
import subprocess
import threading

from absl import logging

from prompt_tuning.serving.job_store import JobStore

# Between looks at the jobs, and before a worker is started again.
_LOOK_SECONDS = 1.0
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

  def close(self) -> None:
    """Stops the worker, which saves its run."""
    self._stop.set()
    self._wake.set()
    if self._thread.is_alive():
      self._thread.join()
    process = self._process
    if process is None or process.poll() is not None:
      return
    process.terminate()
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

  def _look(self) -> None:
    process = self._process
    if process is not None and (code := process.poll()) is not None:
      self._process = None
      if code:
        logging.error("The worker ended with %d.", code)
        self._stop.wait(_LOOK_SECONDS)
    is_wanted = self._process is None and not self._stop.is_set()
    if is_wanted and self._store.has_work():
      self._process = subprocess.Popen(self._command)
