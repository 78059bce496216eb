"""Processes that are stopped together."""

from collections.abc import Callable, Iterator
import contextlib
import signal
import subprocess


class Processes:
  """The processes that run now.

  `stop` is for signal handlers, which must not wait, so there is no lock. A
  process that starts during a call of `stop` checks `stopping` afterwards.
  """

  def __init__(self):
    self._running: set[subprocess.Popen] = set()
    self.stopping: int | None = None

  @contextlib.contextmanager
  def running(self, start: Callable[[], subprocess.Popen]) -> Iterator[int]:
    """Starts a process and waits for it.

    Yields:
      Its exit status, negative after a signal.
    """
    if self.stopping:
      yield -signal.SIGTERM
      return
    process = start()
    self._running.add(process)
    if self.stopping:
      process.terminate()
    try:
      yield process.wait()
    finally:
      self._running.discard(process)

  def stop(self, number: int) -> None:
    """Terminates all processes, and lets no more start."""
    self.stopping = number
    for process in tuple(self._running):
      process.terminate()
