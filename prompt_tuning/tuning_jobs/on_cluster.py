"""Tuning on a cluster: a worker submits its jobs there and waits for them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import threading
import time
from typing import Any

from absl import logging

import prompt_tuning as pt
from prompt_tuning.inference.requests import TunedPrompt
from prompt_tuning.tuning_jobs.jobs import cluster_folder
from t5x.files import safe_files
from t5x.runs import events

# The pauses between looks at a job, and at the cluster's queue.
_LOOK_SECONDS = 1.0
_QUEUE_SECONDS = 15.0
# A job that ends without a result (preempted, out of time) is submitted again.
# This many submissions in a row may be refused or make no progress; the pause
# after a refusal doubles.
_TRIES = 5
# The outcome, which an interrupted task does not write.
_RESULT = "result.json"

Pairs = Sequence[tuple[str, str]]


class ClusterError(RuntimeError):
  """A cluster that refused or ended a job again and again."""


class Tuner:
  """A substitute for `Model` whose `tune` submits a job to a cluster.

  The cluster's machines share the folder of the runs. They write files there;
  only the worker writes to the store, as SQLite is for one machine.
  """

  def __init__(
    self,
    load: Callable[[], pt.Model],
    cluster: str,
    options: Mapping[str, str | int | bool],
  ):
    """Submits nothing yet.

    Args:
      load: Loads the model, on a machine of the cluster.
      cluster: submitit's name for it, such as "slurm"; "local" starts processes
        on this machine.
      options: Parameters of `submitit.AutoExecutor.update_parameters`, such as
        {"timeout_min": 600, "slurm_partition": "gpu"}.
    """
    self._load, self._cluster, self._options = load, cluster, dict(options)

  def tune(
    self,
    train: Pairs,
    validation: Pairs | None,
    *,
    folder: pathlib.Path,
    on_event: events.OnEvent,
    should_stop: events.ShouldStop,
    **settings: Any,
  ) -> TunedPrompt:
    """Tunes as `Model.tune` does; waits for a job that was submitted before.

    Raises:
      ValueError: if examples, settings or the cluster's options are wrong.
      ClusterError: if the cluster refuses or ends the job again and again.
      CancelledError: if `should_stop` says so; the run stays in `folder`.
    """
    shared = cluster_folder(folder)
    shared.mkdir(parents=True, exist_ok=True)
    task = _Task(self._load, train, validation, str(folder), shared, settings)
    tries, furthest, refusal, pause = 0, -1, "", 0.0
    while tries < _TRIES:
      next_try = time.monotonic() + pause
      while time.monotonic() < next_try:
        if should_stop():
          raise events.CancelledError
        time.sleep(_LOOK_SECONDS)
      (shared / "stop").unlink(missing_ok=True)
      tries, refusal, pause = tries + 1, "", 0.0
      try:
        job = self._submitted(shared) or self._submit(task)
      except RuntimeError as error:  # Slurm's controller may be restarting.
        refusal = _line(error) or repr(error)
        logging.warning("%s was not submitted: %s", shared, refusal)
        pause = _QUEUE_SECONDS * 2 ** (tries - 1)
        continue
      for saved in _follow(job, shared, on_event, should_stop):
        if saved > furthest:
          tries, furthest = 1, saved
      (shared / "job").unlink(missing_ok=True)
      if (shared / _RESULT).exists():
        return _read_result(shared, folder)
      if should_stop():
        raise events.CancelledError
    raise ClusterError(
      f"The cluster refused or ended the job {_TRIES} times without progress: "
      f"see runs/{shared.name}. {refusal}".rstrip()
    )

  def _submitted(self, shared: pathlib.Path) -> Any:
    """Returns the job that an earlier worker submitted, or None."""
    import submitit

    if self._cluster != "slurm" or not (shared / "job").exists():
      return None
    return submitit.SlurmJob(shared, (shared / "job").read_text())

  def _submit(self, task: "_Task") -> Any:
    import submitit

    (task.shared / _RESULT).unlink(missing_ok=True)
    try:
      executor = submitit.AutoExecutor(task.shared, cluster=self._cluster)
      executor.update_parameters(name="prompt_tuning", **self._options)
    except (RuntimeError, NameError, TypeError, ValueError) as error:
      raise ValueError(
        f"submitit, {self._cluster!r}: {_line(error)}"
      ) from error
    job = executor.submit(task)
    safe_files.write(task.shared / "job", job.job_id.encode())
    return job


def _line(error: Exception) -> str:
  return " ".join(str(error).split())


def _follow(
  job: Any,
  shared: pathlib.Path,
  on_event: events.OnEvent,
  should_stop: events.ShouldStop,
) -> Iterator[int]:
  """Forwards a job's events until it is over.

  Yields:
    The step of the newest checkpoint after each look; -1 without a new one.
  """
  import submitit

  # Of Slurm, submitit asks `sacct`, which many small clusters lack.
  is_slurm = isinstance(job, submitit.SlurmJob)
  submitted = next_look = time.monotonic()
  is_over = False
  while not is_over:
    if is_stopping := should_stop():
      (shared / "stop").touch()
    is_over = job.paths.result_pickle.exists() if is_slurm else job.done()
    if is_slurm and (now := time.monotonic()) >= next_look:
      next_look = now + (_LOOK_SECONDS if is_stopping else _QUEUE_SECONDS)
      state = _state(job.job_id)
      if is_stopping and state == "PENDING":  # A running one saves itself.
        job.cancel(check=False)
      # The queue may not list a new job yet.
      is_over |= not state and now >= submitted + _QUEUE_SECONDS
    # After the look at the job, so that no event of it is missed.
    yield _forward_events(shared, on_event)
    if not is_over:
      time.sleep(_LOOK_SECONDS)


def _state(id: str) -> str:
  """Returns the state of a Slurm job; "" if Slurm knows no such job."""
  command = ("squeue", "--noheader", f"--jobs={id}", "--format=%T")
  asked = subprocess.run(command, capture_output=True, text=True, check=False)
  if asked.returncode:
    return "" if "Invalid job id" in asked.stderr else "UNKNOWN"
  return asked.stdout.strip()


@dataclasses.dataclass(frozen=True)
class _Task:
  """The function that a machine of the cluster calls, with its arguments."""

  load: Callable[[], pt.Model]
  train: Pairs
  validation: Pairs | None
  folder: str
  shared: pathlib.Path
  settings: Mapping[str, Any]

  def __call__(self) -> None:
    """Tunes a prompt; saves the run if it has to stop before the end."""
    path, stop = self.shared / "events.jsonl", self.shared / "stop"
    with path.open("a") as log, _termination_signal() as is_terminated:
      log.write("\n")  # The machine may have died within a line.

      def on_event(event: events.Event) -> None:
        if event.kind != "step":
          line = json.dumps(dataclasses.asdict(event), default=float)
          log.write(f"{line}\n")
          log.flush()
          os.fsync(log.fileno())

      try:
        prompt = self.load().tune(
          self.train,
          self.validation,
          folder=self.folder,
          on_event=on_event,
          should_stop=lambda: is_terminated() or stop.exists(),
          **self.settings,
        )
        if prompt.status == "interrupted":
          return
        outcome = {"status": prompt.status}
      except (ValueError, FloatingPointError) as error:
        if isinstance(error.__cause__, OSError):  # It may succeed later.
          raise
        outcome = {"error": str(error)}
    safe_files.write(self.shared / _RESULT, json.dumps(outcome).encode())


@contextlib.contextmanager
def _termination_signal() -> Iterator[Callable[[], bool]]:
  """Yields a function that says whether the cluster is about to end the job.

  submitit ignores SIGTERM, and ends a job at its own signal, which comes before
  the time limit. This catches both.
  """
  import submitit

  ended = threading.Event()
  before = {
    number: signal.signal(number, lambda *_: ended.set())
    for number in (
      signal.SIGTERM,
      signal.Signals[f"SIG{submitit.JobEnvironment.USR_SIG}"],
    )
  }
  try:
    yield ended.is_set
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def _forward_events(shared: pathlib.Path, on_event: events.OnEvent) -> int:
  """Passes on the new events of a task; the position outlives the worker.

  Returns:
    The step of the last new checkpoint, or -1.
  """
  path, position, saved = shared / "events.jsonl", shared / "forwarded", -1
  if not path.exists():
    return saved
  start = int(position.read_text()) if position.exists() else 0
  with path.open("rb") as file:
    file.seek(start)
    for line in file:
      if not line.endswith(b"\n"):  # The rest of it comes later.
        break
      try:
        event = events.Event(**json.loads(line)) if line.strip() else None
      except ValueError:
        event = None
        logging.warning("%s has half a line: %r", path, line[:80])
      if event is not None:
        on_event(event)
        if event.kind == "checkpoint":
          saved = max(saved, event.step)
      start += len(line)
      safe_files.write(position, str(start).encode())
  return saved


def _read_result(shared: pathlib.Path, folder: pathlib.Path) -> TunedPrompt:
  outcome = json.loads((shared / _RESULT).read_text())
  if "error" in outcome:
    raise ValueError(outcome["error"])
  prompt = TunedPrompt.load(folder / "prompt.safetensors")
  return dataclasses.replace(prompt, status=outcome["status"])
