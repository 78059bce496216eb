"""The record of a run, `record.json`, and the folder that it is kept in."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import logging
from etils import epath
import jax

from t5x import checkpoints, gin_utils, multihost
from t5x.configuration import identity
from t5x.files import run_lock, safe_files, storage
from t5x.runs import events, record_schema

_PACKAGES = (
  "jax",
  "jaxlib",
  "flax",
  "optax",
  "orbax-checkpoint",
  "seqio",
  "tensorflow",
  "tensorflow-datasets",
  "numpy",
  "prompt-tuning",
  "t5x",
)
# The repository without the records of other runs.
_SOURCES = ("--", ":/", ":(top,exclude)results")


def cpu_model() -> str | None:
  """Returns the name of the CPU model, if it is known."""
  with (
    contextlib.suppress(OSError),
    open("/proc/cpuinfo", encoding="utf-8") as f,
  ):
    names = (x.partition(":")[2] for x in f if x.startswith("model name"))
    if name := next(names, "").strip():
      return name
  return platform.processor() or None


def _git(*args: str) -> str | None:
  """Returns git's output for this file's repository, or None."""
  try:
    return subprocess.run(
      ["git", "-C", os.path.dirname(__file__), *args],
      capture_output=True,
      text=True,
      check=True,
    ).stdout.strip()
  except (OSError, subprocess.CalledProcessError):
    return None


def environment(packages: Sequence[str] = ()) -> dict[str, Any]:
  """Returns the fields of a record about the code and the devices.

  Args:
    packages: More packages whose versions are recorded.
  """
  # An installed copy may be inside another project's repository.
  is_tracked = _git("ls-files", "--error-unmatch", __file__) is not None
  commit = _git("rev-parse", "HEAD") if is_tracked else None
  changes = _git("status", "--porcelain", *_SOURCES) if commit else None
  versions = {"python": platform.python_version()}
  for package in (*_PACKAGES, *packages):
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      versions[package] = importlib.metadata.version(package)
  return {
    "commit": commit,
    "uncommitted_changes": None if changes is None else bool(changes),
    "versions": versions,
    "device": {
      "platform": jax.default_backend(),
      "kind": jax.devices()[0].device_kind,
      "count": jax.device_count(),
      "processes": jax.process_count(),
      "cpus": len(os.sched_getaffinity(0))
      if hasattr(os, "sched_getaffinity")
      else os.cpu_count(),
      "cpu": cpu_model(),
    },
  }


@contextlib.contextmanager
def _emptied(folder: str, is_new: bool) -> Iterator[None]:
  """Removes a new folder if an error leaves it empty."""
  try:
    yield
  except BaseException:
    with contextlib.suppress(OSError):
      if is_new and not storage.is_bucket(folder):
        os.rmdir(folder)
    raise


@contextlib.contextmanager
def locked_folder(
  folder: str,
  macro: str,
  program: str,
  configuration: identity.RunConfiguration | None,
  part: str = "run",
  is_shared: bool = False,
) -> Iterator[tuple[run_lock.RunLock, dict[str, Any]]]:
  """Makes a run's folder, and holds its lock.

  Args:
    folder: The folder, the same for all processes.
    macro: The macro that names it, for messages.
    program: "train", "eval" or "infer".
    configuration: The settings, which all processes must share.
    part: The lock to hold, where runs may share the folder.
    is_shared: Whether another run may be active in the folder.

  Yields:
    The lock, and the previous run's record, {} without one. The record of a
    killed run is corrected from "running" to "interrupted" at once, because the
    new run may fail before it writes a record.

  Raises:
    ValueError: if the folder cannot be written, another run holds the lock, or
      the folder has the record of another program.
  """
  identity.check_same_everywhere(configuration, folder)
  is_new = not epath.Path(folder).exists()
  try:
    if storage.is_bucket(folder):
      storage.check_access(folder, f"{macro}={folder!r}", "write to")
    else:
      os.makedirs(folder, exist_ok=True)
      with tempfile.TemporaryFile(dir=folder):
        pass
  except OSError as e:
    raise ValueError(
      f"{macro}={folder!r} cannot be written: {e.strerror}. Choose another "
      "folder."
    ) from e
  with _emptied(folder, is_new), run_lock.RunLock(folder, macro, part) as lock:
    record = read(folder)
    identity.check_kind(record.get("kind"), program, f"{macro}={folder!r}")
    if jax.process_index() == 0 and not is_shared:
      safe_files.remove_leftovers(folder)
    if record.get("status") == "running" and not is_shared:
      record["status"] = "interrupted"
      if jax.process_index() == 0:
        path = os.path.join(folder, "record.json")
        _write(path, record)
        logging.warning(
          "%s says that the run started on %s is running, but its process is "
          "gone: it was killed. The record now says interrupted.",
          path,
          record.get("started"),
        )
    yield lock, record


def read(folder: str) -> dict[str, Any]:
  """Returns a run's record, or {} without one; sets a damaged one aside."""
  path = os.path.join(folder, "record.json")
  try:
    content = epath.Path(path).read_bytes()
  except FileNotFoundError:
    return {}
  try:
    record_schema.parse(content, path)
    return json.loads(content)
  except ValueError as e:
    if jax.process_index() == 0:
      safe_files.set_aside(path, str(e), "A new one is written.")
    return {}


def _write(path: str, record: Mapping[str, Any]) -> None:
  text = json.dumps(record, indent=2, sort_keys=True) + "\n"
  safe_files.write(path, text)


def format_metrics(task: str, metrics: Mapping[str, float]) -> str:
  """Returns a task's metrics as a readable line."""
  values = ", ".join(f"{name} {value:.2f}" for name, value in metrics.items())
  return f"{task}: {values}"


class RunRecord:
  """The record of an active run, which is on disk from the start.

  Attributes:
    fields: The fields, as JSON.
  """

  def __init__(
    self,
    folder: str,
    kind: str,
    lock: run_lock.RunLock | None = None,
    base: checkpoints.BaseCheckpoint | None = None,
    configuration: identity.RunConfiguration | None = None,
    seconds_before: float = 0.0,
    **facts: Any,
  ):
    """Starts a record.

    Args:
      folder: The folder of `record.json`.
      kind: "train", "eval" or "infer".
      lock: The folder's lock: once it is lost, nothing is written.
      base: The base model, if there is one.
      configuration: The settings, if they are known.
      seconds_before: Seconds that earlier attempts took.
      **facts: More fields, as JSON.
    """
    self._lock = lock
    self._reserve: safe_files.Reserve | None = None
    self._path = os.path.join(folder, "record.json")
    self._start = time.monotonic()
    self._seconds_before = seconds_before
    now = datetime.datetime.now(datetime.UTC)
    program = pathlib.Path(sys.argv[0])
    command = ["python", "-m", f"t5x.{program.stem}", *sys.argv[1:]]
    self.fields: dict[str, Any] = {
      "schema": record_schema.VERSION,
      "kind": kind,
      "status": "running",
      "error": None,
      "started": now.isoformat(timespec="seconds"),
      "command": command if program.parent.name == "t5x" else [],
      **environment(),
      "gin": gin_utils.config_text(),
      "base": base
      and {
        "path": base.path,
        "step": base.step,
        "fingerprint": base.fingerprint,
        "name": base.metadata.get("name"),
      },
      "configuration": configuration and configuration.to_json(),
      **facts,
    }

  @property
  def seconds(self) -> float:
    """Wall time in seconds, including earlier attempts."""
    return self._seconds_before + time.monotonic() - self._start

  def __enter__(self) -> "RunRecord":
    if jax.process_index() == 0:
      self._reserve = safe_files.Reserve(self._path)
    self.write()
    if multihost.watch is not None:
      multihost.watch.on_loss.append(self._note_loss)
    return self

  def _note_loss(self, reason: str) -> None:
    """Writes that another process, perhaps the first one, was lost."""
    fields = read(os.path.dirname(self._path))
    if fields.get("status") == "running":  # Else it wrote its own error.
      _write(self._path, {**fields, "status": "failed", "error": reason})

  def __exit__(self, error_type, error, traceback) -> None:
    # All processes agreed to stop.
    if not isinstance(error, (events.CancelledError, type(None))):
      # Now, because this process may wait for the others while it exits.
      multihost.fail()
    if multihost.watch is not None:
      multihost.watch.on_loss.remove(self._note_loss)
    if self._reserve is not None:
      self._reserve.free()
    if error is None:
      return
    try:
      if isinstance(error, (events.CancelledError, KeyboardInterrupt)):
        self.write(status="interrupted")
      else:
        self.write(status="failed", error=f"{error_type.__name__}: {error}")
    except OSError as e:
      # This must not hide the run's own error, such as a full disk.
      logging.warning("The record could not be written: %s", e)

  def write(self, **fields: Any) -> None:
    """Updates fields and the file.

    Raises:
      ValueError: if the fields do not match the schema, for example if a score
        is not a number; the record stays as it was.
      run_lock.LockLostError: if another run may have taken the folder.
    """
    if self._lock is not None:
      self._lock.check()
    updated = {
      **self.fields,
      **fields,
      "seconds": round(self.seconds, 2),
      # Linux counts kilobytes.
      "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
      * (1 if sys.platform == "darwin" else 1024),
    }
    text = record_schema.dump(updated, self._path)
    self.fields = updated
    if jax.process_index() == 0:
      safe_files.write(self._path, text)
