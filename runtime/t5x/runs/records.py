"""Files that a run leaves: `record.json`, `metrics.jsonl`, TensorBoard's."""

from collections.abc import Mapping, Sequence
import datetime
import importlib.metadata
import json
import os
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

from t5x import checkpoints, gin_utils
from t5x.files import run_lock, safe_files, storage
from t5x.runs import events, metric_lines, record_schema

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


def _usable_cpus() -> int | None:
  """Returns the number of cores that this process may use, if it is known."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count()


def cpu_model() -> str | None:
  """Returns the name of the CPU model, if it is known."""
  try:
    with open("/proc/cpuinfo", encoding="utf-8") as f:
      names = (x.partition(":")[2] for x in f if x.startswith("model name"))
      return next(names, "").strip() or platform.processor() or None
  except OSError:
    return platform.processor() or None


def _git(*args: str) -> str | None:
  """Returns git's answer about this file's repository, or None."""
  try:
    return subprocess.run(
      ["git", "-C", os.path.dirname(__file__), *args],
      capture_output=True,
      text=True,
      check=True,
    ).stdout.strip()
  except (OSError, subprocess.CalledProcessError):
    return None


def _versions(packages: Sequence[str]) -> dict[str, str]:
  versions = {"python": platform.python_version()}
  for package in (*_PACKAGES, *packages):
    try:
      versions[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      continue
  return versions


def environment(packages: Sequence[str] = ()) -> dict[str, Any]:
  """Returns the fields of a record about the code and the devices.

  Args:
    packages: More packages whose versions are recorded.
  """
  # An installed copy may be inside another project's repository.
  is_tracked = _git("ls-files", "--error-unmatch", __file__) is not None
  commit = _git("rev-parse", "HEAD") if is_tracked else None
  changes = _git("status", "--porcelain", *_SOURCES) if commit else None
  return {
    "commit": commit,
    "uncommitted_changes": None if changes is None else bool(changes),
    "versions": _versions(packages),
    "device": {
      "platform": jax.default_backend(),
      "kind": jax.devices()[0].device_kind,
      "count": jax.device_count(),
      "processes": jax.process_count(),
      "cpus": _usable_cpus(),
      "cpu": cpu_model(),
    },
  }


def command() -> list[str]:
  """Returns the command line, or nothing if this is not a program of t5x."""
  folder, name = os.path.split(sys.argv[0])
  module = os.path.splitext(name)[0]
  if os.path.basename(folder) != "t5x":
    return []
  return ["python", "-m", f"t5x.{module}", *sys.argv[1:]]


def make_folder(path: str, name: str, kind: str) -> None:
  """Makes a run's folder.

  Args:
    path: The folder.
    name: The macro that names it.
    kind: The kind of its record.

  Raises:
    ValueError: if it cannot be made or written, or has a record of another
      kind.
  """
  try:
    if storage.is_bucket(path):
      storage.check_writable(path, name)
    else:
      os.makedirs(path, exist_ok=True)
      with tempfile.TemporaryFile(dir=path):
        pass
  except OSError as e:
    raise ValueError(
      f"{name}={path!r} cannot be written: {e.strerror}. Choose another folder."
    ) from e
  if (there := (read(path) or {}).get("kind", kind)) != kind:
    raise ValueError(
      f"{name}={path!r} has the record of a run of t5x.{there}. Choose another "
      "folder."
    )


def read(folder: str) -> dict[str, Any] | None:
  """Returns a run's record, if it has one; a garbled one is set aside."""
  path = os.path.join(folder, "record.json")
  try:
    content = epath.Path(path).read_bytes()
  except FileNotFoundError:
    return None
  try:
    record = json.loads(content)
    if isinstance(record, dict):
      return record
    problem = "it is not a JSON object"
  except (ValueError, RecursionError) as e:
    problem = f"it is not JSON: {e}" if content else "it is empty"
  if jax.process_index() == 0:
    safe_files.set_aside(path, problem, "It is written anew.")
  return None


def note_killed(folder: str) -> None:
  """Corrects the record of a killed run from "running" to "interrupted".

  The killed process could not do it, and this one may fail before it writes a
  record.

  Args:
    folder: The run's folder. The caller holds its lock, so no run is active.
  """
  if jax.process_index() > 0:
    return
  fields = read(folder)
  if fields is None or fields.get("status") != "running":
    return
  path = os.path.join(folder, "record.json")
  fields["status"] = "interrupted"
  safe_files.write(path, json.dumps(fields, indent=2, sort_keys=True) + "\n")
  logging.warning(
    "%s says that the run begun on %s is running, but its process is gone: it "
    "was killed. The record now says interrupted.",
    path,
    fields.get("started"),
  )


def base_facts(base: checkpoints.BaseCheckpoint) -> dict[str, Any]:
  """Returns the identity of the base model."""
  return {
    "path": base.path,
    "step": base.step,
    "fingerprint": base.fingerprint,
    "name": base.metadata.get("name"),
  }


def format_metrics(task: str, metrics: Mapping[str, float]) -> str:
  """Returns a task's metrics as a line to read."""
  values = ", ".join(f"{name} {value:.2f}" for name, value in metrics.items())
  return f"{task}: {values}"


class RunRecord:
  """The record of an active run, which is on disk from its first second."""

  def __init__(
    self,
    folder: str,
    kind: str,
    seconds_before: float = 0.0,
    started: str | None = None,
    lock: run_lock.RunLock | None = None,
    **facts: Any,
  ):
    """Starts a record.

    Args:
      folder: The folder of `record.json`.
      kind: "train", "eval" or "infer".
      seconds_before: Seconds that earlier attempts took.
      started: The time at which the first of them began; now by default.
      lock: The folder's lock: once it is lost, nothing is written.
      **facts: More fields, as JSON.
    """
    self._path = os.path.join(folder, "record.json")
    self._lock = lock
    self._start = time.monotonic()
    self._seconds_before = seconds_before
    self.fields: dict[str, Any] = {
      "schema": record_schema.VERSION,
      "kind": kind,
      "status": "running",
      "error": None,
      "started": started
      or datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
      "command": command(),
      **environment(),
      "gin": gin_utils.config_text(),
      **facts,
    }

  @property
  def seconds(self) -> float:
    """Wall time in seconds, including earlier attempts."""
    return self._seconds_before + time.monotonic() - self._start

  def __enter__(self) -> "RunRecord":
    self.write()
    return self

  def __exit__(self, error_type, error, traceback) -> None:
    if error is None:
      return
    try:
      if isinstance(error, (events.CancelledError, KeyboardInterrupt)):
        self.write(status="interrupted")
      else:
        self.write(status="failed", error=f"{error_type.__name__}: {error}")
    except OSError as e:
      # It must not hide the run's own error, such as a full disk.
      logging.warning("The record could not be written: %s", e)

  def write(self, **fields: Any) -> None:
    """Updates fields and the file.

    Raises:
      ValueError: if they do not match the schema, for example if a score is not
        a number; the record stays as it was.
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
    record = record_schema.validate(updated, self._path)
    self.fields = updated
    if jax.process_index() == 0:
      safe_files.write(self._path, record_schema.dump(record))


class MetricLog:
  """A log of scalars, in `metrics.jsonl` and for TensorBoard.

  Attributes:
    summary_writer: TensorBoard's writer in the first process; None in others.
  """

  def __init__(
    self,
    folder: str,
    first_step: int,
    evals: Sequence[Mapping[str, Any]] = (),
    is_evaluated: bool = True,
  ):
    """Opens the files.

    Args:
      folder: The run's folder.
      first_step: The step to resume from. Lines of later steps are dropped.
      evals: The inference evaluations so far; missing lines are added.
      is_evaluated: Whether `first_step` has been evaluated; if not, the lines
        of its interrupted evaluation are dropped.
    """
    self._path = os.path.join(folder, "metrics.jsonl")
    self.summary_writer = None
    if jax.process_index() == 0:
      evaluated = [
        {"step": e["step"], **_scalars(f"inference_eval/{task}", values)}
        for e in evals
        for task, values in e["metrics"].items()
      ]
      metric_lines.keep(
        self._path,
        lambda line: (
          line["step"] < first_step
          or (
            line["step"] == first_step
            and (is_evaluated or not _is_of_evaluation(line))
          )
        ),
        lambda kept: [line for line in evaluated if line not in kept],
      )
      # It takes a while to import, and only training needs it.
      from t5x.runs import event_file

      self.summary_writer = event_file.EventFile(folder, first_step)

  def write(self, step: int, prefix: str, values: Mapping[str, float]) -> None:
    """Logs `values` under `prefix/name`."""
    if self.summary_writer is None:
      return
    scalars = _scalars(prefix, values)
    storage.append(self._path, json.dumps({"step": step, **scalars}) + "\n")
    for name, value in scalars.items():
      self.summary_writer.add_scalar(name, value, step)
    self.summary_writer.flush()

  def close(self) -> None:
    if self.summary_writer is not None:
      self.summary_writer.close()


def _is_of_evaluation(line: metric_lines.Line) -> bool:
  return any("_eval/" in name for name in line)


def _scalars(prefix: str, values: Mapping[str, float]) -> dict[str, float]:
  """Returns values under their names in `metrics.jsonl`."""
  return {f"{prefix}/{name}": float(x) for name, x in values.items()}
