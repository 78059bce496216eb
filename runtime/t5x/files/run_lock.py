"""One run per folder: a lock that names its holder.

The lock is a file or an object, because an operating system's locks do not
reach other machines. A holder on this machine counts as gone if its process is
gone. A holder on another machine, whose processes cannot be seen, counts as
gone if it has not touched the file for a while.

In a bucket the holder rewrites the object. Each write succeeds only if the
object still has the generation that the writer wrote last (or, to take a free
lock, does not exist), so one of two writers fails.
"""

from collections.abc import Callable, Mapping
import contextlib
import datetime
import json
import os
import socket
import threading
import time
from typing import Any
import uuid

from absl import logging
from etils import epath
import filelock
import jax
import psutil

from t5x import multihost
from t5x.files import parsing, safe_files, storage

# Seconds between touches, and seconds without a touch until the lock is free.
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


def _machine() -> str:
  """Returns a name of this machine or container, in which pids are unique."""
  try:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
      machine = file.read().strip()
    machine += f"/{os.stat('/proc/self/ns/pid').st_ino}"
  except OSError:
    machine = str(uuid.getnode())
  return f"{socket.gethostname()}/{machine}"


def _read_lease(path: str, content: bytes) -> dict[str, Any]:
  remedy = "It is damaged: remove it, if no run is active in its folder."
  keys = {"machine": str, "pid": int, "token": str}
  return parsing.json_file(path, "a lock", keys, remedy, content)


def _pid_here(lease: Mapping[str, Any]) -> int | None:
  """Returns the process that wrote an object, if it is on this machine."""
  return lease["pid"] if lease["machine"] == _machine() else None


class BucketLease:
  """A lease on an object, like `filelock.SoftFileLease` for a file."""

  def __init__(self, path: str, on_loss: Callable[[str], None]):
    """Makes a lease without acquiring it.

    Args:
      path: The path of the object.
      on_loss: Called in another thread with the reason if another run took it.
    """
    self._path = path
    self._files: Any = storage.file_system(path)
    self._on_loss = on_loss
    self._token = uuid.uuid4().hex
    self._generation = "0"
    self._num_writes = 0
    # (generation, the time at which it was first seen)
    self._seen = ("0", 0.0)
    self._writing = threading.Lock()
    self._released = threading.Event()
    self._thread: threading.Thread | None = None

  def touches(self) -> tuple[str, str] | None:
    """Returns the holder's token and the generation, or None if it is free."""
    if (there := self._files.read_version(self._path)) is None:
      return None
    return _read_lease(self._path, there[0])["token"], there[1]

  def acquire(self, timeout: float, poll_interval: float) -> None:
    """Takes the object if it is free or its holder is gone.

    Raises:
      filelock.Timeout: if a living process holds it for `timeout` seconds.
    """
    end = time.monotonic() + timeout
    while not self._try():
      if time.monotonic() > end:
        raise filelock.Timeout(self._path)
      time.sleep(poll_interval)
    self._thread = threading.Thread(target=self._beat, daemon=True)
    self._thread.start()

  def confirm(self) -> bool:
    """Rewrites the object; returns whether this lease still held it."""
    with self._writing:
      if self._released.is_set():
        return False
      try:
        self._write(self._generation)
      except FileExistsError:
        return False
    return True

  def release(self) -> None:
    """Deletes the object."""
    self._released.set()
    with self._writing:
      self._files.remove_version(self._path, self._generation)
    if self._thread is not None:
      self._thread.join()

  def _try(self) -> bool:
    there = self._files.read_version(self._path)
    replaces = "0"
    if there is not None:
      content, replaces = there
      if replaces != self._seen[0]:
        self._seen = (replaces, time.monotonic())
      pid = _pid_here(_read_lease(self._path, content))
      is_gone = pid is not None and not psutil.pid_exists(pid)
      waited = time.monotonic() - self._seen[1]
      if not is_gone and waited < LEASE_SECONDS:
        return False
    try:
      self._write(replaces)
    except FileExistsError:
      return False
    return True

  def _write(self, replaces: str) -> None:
    self._num_writes += 1
    holder = {
      "machine": _machine(),
      "pid": os.getpid(),
      "token": self._token,
      "writes": self._num_writes,
    }
    self._generation = self._files.write_version(
      self._path, json.dumps(holder).encode(), replaces
    )

  def _beat(self) -> None:
    while not self._released.wait(HEARTBEAT_SECONDS):
      try:
        is_held = self.confirm()
      except Exception:
        # The bucket could not be reached. `RunLock.check` tries again.
        continue
      if not is_held and not self._released.is_set():
        self._on_loss("its object was replaced")
        return


class LockLostError(OSError):
  """An error: another run may have taken the folder."""


class RunLock:
  """A lock that keeps other runs out of a folder.

  If a run has several processes, the first takes the lock for all of them.
  """

  def __init__(self, folder: str, name: str, part: str = "run"):
    """Makes a lock without taking it.

    Args:
      folder: An existing folder, the same for all processes.
      name: The macro that names the folder, for messages.
      part: A part of the folder, if several runs may divide it.
    """
    self._what = f"{name}={folder!r}"
    self._path = os.path.join(folder, f"{part}.lock")
    self._holder_path = f"{self._path}.json"
    self._is_first = jax.process_index() == 0
    self._loss: str | None = None
    self._lease: BucketLease | _DiskLease
    if storage.is_bucket(self._path):
      self._lease = BucketLease(self._path, self._note_loss)
    else:
      self._lease = _DiskLease(
        self._path,
        lease_duration=LEASE_SECONDS,
        heartbeat_interval=HEARTBEAT_SECONDS,
        on_compromise=lambda loss: self._note_loss(loss.reason),
        # The thread that releases it may not be the one that took it.
        thread_local=False,
      )

  def __enter__(self) -> "RunLock":
    """Takes the lock; waits if its holder may be gone.

    Raises:
      ValueError: if another run holds it. Its cause is an OSError, because a
        later attempt may succeed.
      OSError: if the folder cannot be written.
    """
    problem = self._take() if self._is_first else None
    if problem := multihost.from_first_process(problem):
      raise ValueError(problem) from filelock.Timeout(self._path)
    return self

  def __exit__(self, *error) -> None:
    if self._is_first and self._loss is None:
      # A failed deletion must not hide the error that ended the run.
      with contextlib.suppress(OSError):
        epath.Path(self._holder_path).unlink()
      with contextlib.suppress(OSError):
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
        f"{self._path} could not be written for {LEASE_SECONDS:.0f} s, so "
        f"another run may take {self._what}. This one stops here; the same "
        "command resumes it."
      )
    if self._loss is not None:
      raise LockLostError(
        f"{self._what} was taken by another run while this one was suspended "
        f"({self._loss}): {_name_holder(self._path)}. This one stops here."
      )

  def _take(self) -> str | None:
    """Takes the lock, or returns the reason that it cannot be taken."""
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
          "%s is locked by %s. Waiting at most %.0f s to see whether it is "
          "alive.",
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


def find_holder(folder: str) -> str | None:
  """Returns the name of another live process that has locked a folder.

  Args:
    folder: The folder.

  Returns:
    The process and its machine, or None if there is none.
  """
  path = os.path.join(folder, "run.lock")
  try:
    if storage.is_bucket(folder):
      files: Any = storage.file_system(path)
      if (there := files.read_version(path)) is None:
        return None
      pid = _pid_here(_read_lease(path, there[0]))
      written = files.modified(path).timestamp()
      is_ours = pid == os.getpid()
    else:
      written = os.stat(path).st_mtime
      lease = _lease(path)
      if (owner := lease.owner) is None:
        return None
      # Processes in two containers may both have the number 1.
      is_ours = lease.is_lock_held_by_us
      is_here = owner.hostname.partition("?")[0] == socket.gethostname()
      pid = owner.pid if is_here else None
    is_gone = pid is not None and not psutil.pid_exists(pid)
    is_held = not is_gone and time.time() - written < LEASE_SECONDS
    return _name_holder(path) if is_held and not is_ours else None
  except (OSError, ValueError, RuntimeError):
    return None  # No lock file, or a bucket that may not be listed.


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
  with contextlib.suppress(OSError, ValueError):
    keys = {"host": str, "pid": int, "since": str}
    holder = parsing.json_file(f"{path}.json", "a lock's holder", keys)
    if owner is None or holder["pid"] == owner.pid:
      return (
        f"process {holder['pid']} on {holder['host']} since {holder['since']}"
      )
  return name
