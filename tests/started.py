"""Processes: Python, or scripts in `tests/` with several JAX CPU devices."""

from collections.abc import Callable, Iterable, Sequence
import contextlib
import os
import pathlib
import secrets
import socket
import subprocess
import sys
import time
from typing import Any

TESTS = pathlib.Path(__file__).parent
# The lock of a process on another machine, in filelock's format.
LOCK_ELSEWHERE = (
  "filelock/2\npid=5\nhost=elsewhere\nmode=lease\ntoken=ab\nduration=1.0\n"
  "start=33\n"
)


def start(
  script: str, arguments: Sequence[Any], devices: int
) -> subprocess.Popen:
  """Starts a script in this folder."""
  path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
  return subprocess.Popen(
    [sys.executable, str(TESTS / script), *map(str, arguments)],
    env={
      **os.environ,
      "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} "
      f"--xla_force_host_platform_device_count={devices}",
      "PYTHONPATH": path,
    },
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def python(
  *words: Any, status: int | None = 0, **options: Any
) -> subprocess.CompletedProcess:
  """Runs Python with these words to its end; None allows any exit status."""
  pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
  command = [sys.executable, *map(str, words)]
  done = subprocess.run(command, text=True, **pipes | options)
  text = f"{' '.join(command[1:])}\n{done.stderr[-3000:]}"
  assert status in (None, done.returncode), text
  return done


def plain_environment() -> dict[str, str]:
  """Returns a user's environment, without the tests' JAX and log settings."""
  hidden = ("JAX_", "TF_CPP_")
  return {k: x for k, x in os.environ.items() if not k.startswith(hidden)}


def last_lines(processes: Iterable[subprocess.Popen]) -> list[list[str]]:
  """Waits and returns each process's last line; Gloo prints others first."""
  lines = []
  for process in processes:
    output, errors = process.communicate(timeout=1200)
    assert process.returncode == 0, errors
    lines.append(output.splitlines()[-1:])
  return lines


def wait(is_true: Callable[[], Any], seconds: float = 60.0) -> None:
  """Waits until a condition holds."""
  deadline = time.monotonic() + seconds
  while not is_true():
    assert time.monotonic() < deadline
    time.sleep(0.02)


def free_address(ports: int = 1) -> str:
  """Returns a free address for the first of several processes.

  Args:
    ports: The number of consecutive free ports, starting with the address's.
  """
  # Linux gives outgoing connections ports from 32768.
  first = 20_000 + secrets.randbelow(12_000)
  with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
    for port in range(first, first + ports):
      stack.enter_context(socket.socket()).bind(("localhost", port))
    return f"localhost:{first}"
  return free_address(ports)
