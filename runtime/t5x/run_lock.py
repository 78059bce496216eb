"""One run per folder: a lock that names its holder.

It is a file, as an operating system's locks do not reach other machines. Its
holder is gone if that process is, on the same machine, or if the file was not
touched for a while, on another one, whose processes cannot be looked at.
"""

import contextlib
import datetime
import json
import os
import socket
import time
from typing import Any

from absl import logging
import filelock
import jax

from t5x import multihost, safe_files

# Seconds between touches, and without one until the lock may be taken.
HEARTBEAT_SECONDS = 5.0
LEASE_SECONDS = 60.0


class RunLock:
  """Keeps other runs out of a folder while this one is in it.

  Of several processes of a run, the first takes it for all.
  """

  def __init__(self, folder: str, name: str, part: str = "run"):
    """Notes the folder.

    Args:
      folder: An existing folder, the same for all processes.
      name: The macro that names it, for messages.
      part: Of the folder, where that may be divided between runs.
    """
    self._what = f"{name}={folder!r}"
    self._path = os.path.join(folder, f"{part}.lock")
    self._holder_path = _details(self._path)
    self._is_first = jax.process_index() == 0
    self._loss: str | None = None
    self._lease = filelock.SoftFileLease(
      self._path,
      lease_duration=LEASE_SECONDS,
      heartbeat_interval=HEARTBEAT_SECONDS,
      on_compromise=self._note_loss,
      # It may be given back by another thread than took it.
      thread_local=False,
    )

  def __enter__(self) -> "RunLock":
    """Takes the lock, and waits for one whose holder may be gone.

    Raises:
      ValueError: if another run holds it.
      OSError: if the folder cannot be written.
    """
    problem = self._take() if self._is_first else None
    if problem := multihost.of_first_process(problem):
      raise ValueError(problem)
    return self

  def __exit__(self, *error) -> None:
    if self._is_first and self._loss is None:
      with contextlib.suppress(OSError):
        os.unlink(self._holder_path)
      self._lease.release()

  def check(self) -> None:
    """Raises RuntimeError if the lock was lost, before something is written.

    That happens to a process that was suspended for longer than the lease.
    """
    if self._loss is not None:
      raise RuntimeError(
        f"{self._what} was taken by another run while this one was suspended "
        f"({self._loss}): {_name_holder(self._path)}. This one stops here."
      )

  def _take(self) -> str | None:
    """Takes the lock, or returns why that cannot be."""
    deadline = time.monotonic() + LEASE_SECONDS + 2 * HEARTBEAT_SECONDS
    # (inode, time of the last touch)
    seen: set[tuple[int, int]] = set()
    waits = False
    while True:
      try:
        self._lease.acquire(timeout=HEARTBEAT_SECONDS / 10, poll_interval=0.05)
      except filelock.Timeout:
        pass
      else:
        break
      with contextlib.suppress(FileNotFoundError):
        status = os.stat(self._path)
        seen.add((status.st_ino, status.st_mtime_ns))
      # A second time of one file: its holder is alive and touched it.
      if len(seen) > len({inode for inode, _ in seen}) or (
        time.monotonic() > deadline
      ):
        return (
          f"{self._what} is in use by another run: {_name_holder(self._path)}. "
          "Stop it first, or choose another folder."
        )
      if not waits:
        waits = True
        logging.warning(
          "%s is locked by %s. Waiting to see whether it is alive, at most "
          "%.0f s.",
          self._what,
          _name_holder(self._path),
          LEASE_SECONDS,
        )
    holder = {
      "host": socket.gethostname(),
      "pid": os.getpid(),
      "since": datetime.datetime.now(datetime.UTC).isoformat(
        timespec="seconds"
      ),
    }
    safe_files.write(self._holder_path, json.dumps(holder) + "\n")
    return None

  def _note_loss(self, loss: filelock.LeaseCompromise) -> None:
    self._loss = loss.reason


def find_holder(folder: str, part: str = "run") -> str | None:
  """Names another process that holds a folder's lock and is alive.

  Args:
    folder: The folder.
    part: Of it, as in `RunLock`.

  Returns:
    Which process, on which machine; None if there is none.
  """
  path = os.path.join(folder, f"{part}.lock")
  try:
    age = time.time() - os.stat(path).st_mtime
  except OSError:
    return None
  owner = _owner(path)
  if age > LEASE_SECONDS or owner is None or owner.pid == os.getpid():
    return None
  if owner.hostname.partition("?")[0] == socket.gethostname():
    try:
      os.kill(owner.pid, 0)
    except ProcessLookupError:
      return None
    except PermissionError:
      pass  # It is there, and somebody else's.
  return _name_holder(path)


def _owner(path: str) -> Any:
  """What filelock wrote of a lock's holder, if that can be read."""
  return filelock.SoftFileLease(path, lease_duration=LEASE_SECONDS).owner


def _details(path: str) -> str:
  """Where a lock's holder is named: filelock's own file says no time."""
  return f"{path}.json"


def _name_holder(path: str) -> str:
  """Names who holds a lock, as far as that can be read."""
  owner = _owner(path)
  name = (
    "an unknown process"
    if owner is None
    else f"process {owner.pid} on {owner.hostname.partition('?')[0]}"
  )
  try:
    with open(_details(path), encoding="utf-8") as file:
      holder = json.load(file)
    if owner is None or holder["pid"] == owner.pid:
      return (
        f"process {holder['pid']} on {holder['host']} since {holder['since']}"
      )
  except (OSError, ValueError, KeyError, TypeError):
    pass
  return name
