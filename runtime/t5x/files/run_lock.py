"""One run per folder: a lock that names its holder.

The lock is a file or an object, because an operating system's locks do not
reach other machines. A holder on this machine is gone if its process is. A
holder on another machine, whose processes cannot be seen, is gone if it has not
touched the file for a while.
"""

import contextlib
import datetime
import json
import os
import socket
import time
from typing import Any

from absl import logging
from etils import epath
import filelock
import jax

from t5x import multihost
from t5x.files import bucket_lease, safe_files, storage

# Seconds between touches, and seconds without one until the lock is free.
HEARTBEAT_SECONDS = 5.0
LEASE_SECONDS = 60.0


class _DiskLease(filelock.SoftFileLease):
  """A lease on a lock file."""

  def touches(self) -> tuple[str, str] | None:
    """Returns the file's identity and its last touch, or None."""
    try:
      status = os.stat(self.lock_file)
    except FileNotFoundError:
      return None
    return str(status.st_ino), str(status.st_mtime_ns)

  def confirm(self) -> bool:
    """Returns whether the file still names this holder."""
    owner = self.owner
    return owner is not None and owner.token == self.token


class LockLostError(OSError):
  """An error: another run may have taken the folder."""


class RunLock:
  """A lock that keeps other runs out of a folder.

  Of several processes of a run, the first takes it for all.
  """

  def __init__(self, folder: str, name: str, part: str = "run"):
    """Makes a lock, which is not taken yet.

    Args:
      folder: An existing folder, the same for all processes.
      name: The macro that names it, for messages.
      part: A part of the folder, if several runs may divide it.
    """
    self._what = f"{name}={folder!r}"
    self._path = os.path.join(folder, f"{part}.lock")
    self._holder_path = f"{self._path}.json"
    self._is_first = jax.process_index() == 0
    self._loss: str | None = None
    self._lease = self._make_lease()

  def _make_lease(self) -> "_DiskLease | bucket_lease.BucketLease":
    if storage.is_bucket(self._path):
      return bucket_lease.BucketLease(
        self._path, LEASE_SECONDS, HEARTBEAT_SECONDS, self._note_loss
      )
    return _DiskLease(
      self._path,
      lease_duration=LEASE_SECONDS,
      heartbeat_interval=HEARTBEAT_SECONDS,
      on_compromise=lambda loss: self._note_loss(loss.reason),
      # Another thread than took it may release it.
      thread_local=False,
    )

  def __enter__(self) -> "RunLock":
    """Takes the lock, after waiting while its holder may be gone.

    Raises:
      ValueError: if another run holds it.
      OSError: if the folder cannot be written.
    """
    problem = self._take() if self._is_first else None
    if problem := multihost.from_first_process(problem):
      raise ValueError(problem)
    return self

  def __exit__(self, *error) -> None:
    if self._is_first and self._loss is None:
      with contextlib.suppress(OSError):
        epath.Path(self._holder_path).unlink()
      self._lease.release()

  def check(self) -> None:
    """Checks that the lock is still held; call it before writing.

    A process loses the lock if it is suspended for longer than the lease, or
    cannot write to the folder for that long.

    Raises:
      LockLostError: if it is not held any more.
    """
    if self._is_first and self._loss is None and not self._lease.confirm():
      self._note_loss("it was replaced")
    if self._loss == "refresh-failed":
      raise LockLostError(
        f"{self._path} could not be written for {LEASE_SECONDS:.0f} s, so that "
        f"another run may take {self._what}. This one stops here; the same "
        "command resumes it."
      )
    if self._loss is not None:
      raise LockLostError(
        f"{self._what} was taken by another run while this one was suspended "
        f"({self._loss}): {_name_holder(self._path)}. This one stops here."
      )

  def _take(self) -> str | None:
    """Takes the lock, or returns the reason that it cannot."""
    deadline = time.monotonic() + LEASE_SECONDS + 2 * HEARTBEAT_SECONDS
    seen: set[tuple[str, str]] = set()
    waits = False
    while True:
      try:
        self._lease.acquire(timeout=HEARTBEAT_SECONDS / 10, poll_interval=0.05)
      except filelock.Timeout:
        pass
      else:
        break
      if (touch := self._lease.touches()) is not None:
        seen.add(touch)
      # A second touch of the same file means that its holder is alive.
      if len(seen) > len({file for file, _ in seen}) or (
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

  def _note_loss(self, reason: str) -> None:
    self._loss = reason


def find_holder(folder: str, part: str = "run") -> str | None:
  """Returns the name of another living process that holds a folder's lock.

  Args:
    folder: The folder.
    part: A part of it, as in `RunLock`.

  Returns:
    The process and its machine, or None.
  """
  path = os.path.join(folder, f"{part}.lock")
  if storage.is_bucket(folder):
    if not storage.HAS_GCS:
      return None
    is_held = bucket_lease.is_held(path, LEASE_SECONDS)
    return _name_holder(path) if is_held else None
  try:
    age = time.time() - os.stat(path).st_mtime
  except OSError:
    return None
  lease = _lease(path)
  owner = lease.owner
  # In two containers, both may be process 1.
  if age > LEASE_SECONDS or owner is None or lease.is_lock_held_by_us:
    return None
  is_here = owner.hostname.partition("?")[0] == socket.gethostname()
  if is_here and not bucket_lease.is_running(owner.pid):
    return None
  return _name_holder(path)


def _lease(path: str) -> filelock.SoftFileLease:
  """Returns a lease that reads a lock file."""
  return filelock.SoftFileLease(path, lease_duration=LEASE_SECONDS)


def _name_holder(path: str) -> str:
  """Returns the name of a lock's holder, as far as it can be read."""
  owner: Any = None if storage.is_bucket(path) else _lease(path).owner
  name = (
    "an unknown process"
    if owner is None
    else f"process {owner.pid} on {owner.hostname.partition('?')[0]}"
  )
  try:
    holder = json.loads(epath.Path(f"{path}.json").read_text())
    if owner is None or holder["pid"] == owner.pid:
      return (
        f"process {holder['pid']} on {holder['host']} since {holder['since']}"
      )
  except (OSError, ValueError, KeyError, TypeError):
    pass
  return name
