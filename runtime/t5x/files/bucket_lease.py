"""A lock in a bucket: an object that its holder rewrites regularly.

Each write succeeds only if the object still has the generation that the writer
wrote last (or, to take a free lock, does not exist): of two writers, one fails.
"""

from collections.abc import Callable
import json
import os
import socket
import threading
import time
from typing import Any
import uuid

import filelock

from t5x.files import storage


def _machine() -> str:
  """Returns a name of this machine or container: pids are unique in it."""
  try:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
      machine = file.read().strip()
    machine += f"/{os.stat('/proc/self/ns/pid').st_ino}"
  except OSError:
    machine = str(uuid.getnode())
  return f"{socket.gethostname()}/{machine}"


def is_running(pid: int) -> bool:
  """Returns whether a process of any user runs on this machine."""
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  except PermissionError:
    pass
  return True


def is_held(path: str, lease_duration: float) -> bool:
  """Returns whether another living process holds a lock.

  Args:
    path: The path of its object.
    lease_duration: Seconds without a write after which it is free.
  """
  files: Any = storage.file_system(path)
  try:
    if (there := files.read_version(path)) is None:
      return False
    written = files.modified(path).timestamp()
  except FileNotFoundError:
    return False
  holder = _parse(there[0])
  if holder.get("machine") == _machine():
    pid = holder.get("pid", -1)
    return pid != os.getpid() and is_running(pid)
  return time.time() - written < lease_duration


def _parse(content: bytes) -> dict[str, Any]:
  try:
    holder = json.loads(content)
  except ValueError:
    return {}
  return holder if isinstance(holder, dict) else {}


class BucketLease:
  """A lease on an object, as `filelock.SoftFileLease` is one on a file."""

  def __init__(
    self,
    path: str,
    lease_duration: float,
    heartbeat_interval: float,
    on_loss: Callable[[str], None],
  ):
    """Makes a lease, which is not acquired yet.

    Args:
      path: The path of the object.
      lease_duration: Seconds without a write after which another may take it.
      heartbeat_interval: Seconds between writes.
      on_loss: Called in another thread with the reason, if another took it.
    """
    self._path = path
    self._files: Any = storage.file_system(path)
    self._lease_duration = lease_duration
    self._heartbeat_interval = heartbeat_interval
    self._on_loss = on_loss
    self._token = uuid.uuid4().hex
    self._generation = "0"
    self._num_writes = 0
    # (generation, when it was seen first)
    self._seen = ("0", 0.0)
    self._writing = threading.Lock()
    self._released = threading.Event()
    self._thread: threading.Thread | None = None

  def touches(self) -> tuple[str, str] | None:
    """Returns the holder's token and the generation, or None if it is free."""
    if (there := self._files.read_version(self._path)) is None:
      return None
    return _parse(there[0]).get("token", ""), there[1]

  def acquire(self, timeout: float, poll_interval: float) -> None:
    """Takes the object once it is free or its holder is gone.

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
      holder = _parse(content)
      is_gone = holder.get("machine") == _machine() and not is_running(
        holder.get("pid", -1)
      )
      waited = time.monotonic() - self._seen[1]
      if not is_gone and waited < self._lease_duration:
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
    while not self._released.wait(self._heartbeat_interval):
      try:
        is_held = self.confirm()
      except Exception:
        # The bucket was out of reach. `RunLock.check` tries again.
        continue
      if not is_held and not self._released.is_set():
        self._on_loss("its object was replaced")
        return
