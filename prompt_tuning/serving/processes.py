"""Several servers at one address, each a process with its share of the cores.

On a CPU, small models run faster as several programs on one core each than as
one program on all cores, whose threads wait for each other at every operation.
"""

import argparse
from collections.abc import Iterator, Sequence
import contextlib
import importlib
import multiprocessing
from multiprocessing import connection
import os
import signal
import sys
import tempfile
import threading
import time
from typing import Any

from prompt_tuning import cores
from prompt_tuning.serving.listening import listen

_SPAWN = multiprocessing.get_context("spawn")
# Pause before a server is replaced.
_PAUSE_SECONDS = 1.0


def serve(options: argparse.Namespace) -> None:
  """Serves until this process gets a signal.

  Server i, from 1, also listens on the common port plus i. A server that is
  killed, or whose engine fails, is replaced while the others answer.

  Args:
    options: Values of the flags of `prompt-tuning serve`.

  Raises:
    ValueError: if there are fewer cores than servers, the port is taken, or a
      server cannot start, for a reason that it prints.
  """
  shares = cores.shares(options.processes)
  if not all(shares):
    raise ValueError(
      f"--processes={options.processes} needs as many cores, and Linux."
    )
  with listen(options.host, options.port) as free:  # Fails if it is taken.
    port = free.getsockname()[1]
  # The other values cannot be sent to a process.
  plain = {"run": None, "parser": None, "port": port}
  options = argparse.Namespace(**vars(options) | plain)
  with tempfile.TemporaryDirectory(prefix="prompt_tuning_") as folder:
    servers = _Servers(
      [
        (options, number, folder, share)
        for number, share in enumerate(shares, 1)
      ]
    )
    with servers.ended_by_signals():
      servers.run()


class _Servers:
  """Processes, each of which is replaced when it ends.

  Attributes:
    is_stopping: Whether the servers should end without replacement.
  """

  def __init__(self, arguments: Sequence[Any]):
    """Starts nothing yet; takes the arguments of `_serve_one` for each."""
    self._arguments = arguments
    self._running: dict[int, Any] = {}
    self._replaced: set[int] = set()
    self.is_stopping = False

  @contextlib.contextmanager
  def ended_by_signals(self) -> Iterator[None]:
    """Lets signals stop the servers, and stops them at the end."""
    names = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.signal(x, lambda *_: self._stop()) for x in names]
    try:
      yield
    finally:
      self._stop()
      for process in self._running.values():
        process.join()
      for name, handler in zip(names, handlers, strict=True):
        signal.signal(name, handler)

  def run(self) -> None:
    """Runs all servers until a signal.

    Raises:
      ValueError: if a server cannot start. One that replaces another is tried
        again instead.
    """
    for place in range(len(self._arguments)):
      self._start(place)
    while self._running:
      connection.wait([x.sentinel for x in self._running.values()])
      for place, process in [*self._running.items()]:
        if process.is_alive():
          continue
        del self._running[place]
        if self.is_stopping:
          continue
        ended = f"Server {place + 1} ended with code {process.exitcode}"
        if process.exitcode > 0 and place not in self._replaced:
          raise ValueError(f"{ended}, so the others end too.")
        print(f"{ended}. Starting another.", file=sys.stderr)
        self._replaced.add(place)
        time.sleep(_PAUSE_SECONDS)
        self._start(place)

  def _start(self, place: int) -> None:
    self._running[place] = process = _SPAWN.Process(
      target=_serve_one, args=self._arguments[place]
    )
    process.start()
    if self.is_stopping:  # The signal came during the start.
      process.terminate()

  def _stop(self) -> None:
    """Asks all servers to end; they finish their answers first."""
    self.is_stopping = True
    for process in self._running.values():
      if process.pid is not None:
        process.terminate()


def _serve_one(
  options: argparse.Namespace, number: int, folder: str, share: Any
) -> None:
  """Runs one server in its own process."""
  os.sched_setaffinity(0, share)  # Before anything starts a thread per core.
  importlib.import_module("t5x")  # Keeps TensorFlow quiet.
  from prompt_tuning.serving import server
  from t5x.configuration import command_flags

  command_flags.report_errors()
  parent = multiprocessing.parent_process()
  assert parent is not None

  def end_with_parent() -> None:
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)

  threading.Thread(target=end_with_parent, daemon=True).start()
  try:
    server.serve(options, number, folder)
  except (ValueError, OSError, ImportError) as error:
    print(f"Error: {error}", file=sys.stderr)
    sys.exit(1)
