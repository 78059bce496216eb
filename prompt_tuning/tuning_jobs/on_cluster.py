"""Tuning on a cluster, which a worker hands its jobs to and waits for."""

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
from prompt_tuning import safe_files
from prompt_tuning.inference.tuned_prompt import TunedPrompt
from t5x.runs import events

# Between looks at a job, and at the queue of the cluster.
_LOOK_SECONDS = 1.0
_QUEUE_SECONDS = 15.0
# A job that ends without a result, such as one that was preempted or had no
# time left, goes on. So often in a row may it come no further, or not be taken;
# the pause after that doubles.
_TRIES = 5

Pairs = Sequence[tuple[str, str]]


class ClusterError(RuntimeError):
  """The cluster did not take a job, or ended it, again and again."""


class Tuner:
  """Stands for a model, where prompts are tuned: each is a job of a cluster.

  The folder of the runs is one that the cluster's machines share. They write
  files there, and only the worker tells the store: SQLite is for one machine.
  """

  def __init__(
    self,
    load: Callable[[], pt.Model],
    cluster: str,
    options: Mapping[str, str | int | bool],
  ):
    """Submits nothing yet.

    Args:
      load: Returns the model, on a machine of the cluster.
      cluster: As submitit names it: "slurm", or "local" for processes here.
      options: Of `submitit.AutoExecutor.update_parameters`, such as
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
    """See `Model.tune`; a job that is there already is waited for.

    Raises:
      ValueError: for wrong examples or settings, or options of the cluster.
      ClusterError: if the cluster does not take the job, or ends it, again and
        again.
      CancelledError: if it was to stop; what the job saved stays in `folder`.
    """
    place = folder.with_name(f"{folder.name}.cluster")
    place.mkdir(parents=True, exist_ok=True)
    work = _Work(self._load, train, validation, str(folder), place, settings)
    tries, furthest, refusal = 0, -1, ""
    while tries < _TRIES:
      if refusal:
        _wait(_QUEUE_SECONDS * 2 ** (tries - 1), should_stop)
      work.stop.unlink(missing_ok=True)
      tries, refusal = tries + 1, ""
      try:
        job = _Submitted(self._found(place) or self._submit(work))
      except RuntimeError as error:  # Such as while Slurm starts again.
        refusal = _line(error) or repr(error)
        logging.warning("%s was not submitted: %s", place, refusal)
        continue
      while True:
        is_over = job.is_over()  # Before the last look at what it has told.
        if (saved := _tell(place, on_event)) > furthest:
          tries, furthest = 1, saved
        if is_over:
          break
        if should_stop():
          work.stop.touch()
          job.leave_queue()
        time.sleep(_LOOK_SECONDS)
      (place / "job").unlink(missing_ok=True)
      if work.result.exists():
        return _read(work.result, folder)
      if should_stop():
        raise events.CancelledError
    raise ClusterError(
      f"The cluster did not take the job, or ended it, {_TRIES} times before "
      f"it came any further: see runs/{place.name}. {refusal}".rstrip()
    )

  def _found(self, place: pathlib.Path) -> Any:
    """Returns the job that a worker submitted before it was killed."""
    import submitit

    if self._cluster != "slurm" or not (place / "job").exists():
      return None
    return submitit.SlurmJob(place, (place / "job").read_text())

  def _submit(self, work: "_Work") -> Any:
    import submitit

    work.result.unlink(missing_ok=True)
    try:
      executor = submitit.AutoExecutor(work.place, cluster=self._cluster)
      executor.update_parameters(name="prompt_tuning", **self._options)
    except (RuntimeError, NameError, TypeError, ValueError) as error:
      raise ValueError(
        f"submitit, {self._cluster!r}: {_line(error)}"
      ) from error
    job = executor.submit(work)
    safe_files.write(work.place / "job", job.job_id.encode())
    return job


def _line(error: Exception) -> str:
  return " ".join(str(error).split())


def _wait(seconds: float, should_stop: events.ShouldStop) -> None:
  """Waits.

  Raises:
    CancelledError: if it should stop.
  """
  end = time.monotonic() + seconds
  while time.monotonic() < end:
    if should_stop():
      raise events.CancelledError
    time.sleep(_LOOK_SECONDS)


class _Submitted:
  """A job of submitit's, and whether it is over.

  Of Slurm, submitit asks `sacct`, which many small clusters are without, and
  after a while every ten minutes only. `squeue` is everywhere.
  """

  def __init__(self, job: Any):
    """Asks for nothing yet."""
    self._job = job
    self._asked, self._next_leave = time.monotonic(), 0.0

  def is_over(self) -> bool:
    """Whether it has ended, or is no longer there."""
    import submitit

    if not isinstance(self._job, submitit.SlurmJob):
      return self._job.done()
    if self._job.paths.result_pickle.exists():
      return True
    if time.monotonic() < self._asked + _QUEUE_SECONDS:
      return False
    self._asked = time.monotonic()
    return not _state(self._job.job_id)

  def leave_queue(self) -> None:
    """Cancels it if it waits for a machine: one that runs saves itself.

    To be called until it is over: the cluster may not say, or not yet.
    """
    import submitit

    is_slurms = isinstance(self._job, submitit.SlurmJob)
    if not is_slurms or time.monotonic() < self._next_leave:
      return
    self._next_leave = time.monotonic() + _QUEUE_SECONDS
    if _state(self._job.job_id) == "PENDING":
      self._job.cancel(check=False)


def _state(id: str) -> str:
  """Returns the state of a job of Slurm's, "" if there is no such job."""
  command = ("squeue", "--noheader", f"--jobs={id}", "--format=%T")
  asked = subprocess.run(command, capture_output=True, text=True, check=False)
  if asked.returncode:
    return "" if "Invalid job id" in asked.stderr else "UNKNOWN"
  return asked.stdout.strip()


@dataclasses.dataclass(frozen=True)
class _Work:
  """What a machine of the cluster does."""

  load: Callable[[], pt.Model]
  train: Pairs
  validation: Pairs | None
  folder: str
  place: pathlib.Path
  settings: Mapping[str, Any]

  @property
  def stop(self) -> pathlib.Path:
    """Where it is told to stop."""
    return self.place / "stop"

  @property
  def result(self) -> pathlib.Path:
    """Where it says how it ended, if it did."""
    return self.place / "result.json"

  def __call__(self) -> None:
    """Tunes a prompt; one that is to stop saves its run, and has no result."""
    path = self.place / "events.jsonl"
    _end_last_line(path)
    with path.open("a") as told, _ended_by_cluster() as is_ended:

      def on_event(event: events.Event) -> None:
        if event.kind != "step":
          told.write(
            f"{json.dumps(dataclasses.asdict(event), default=float)}\n"
          )
          told.flush()
          os.fsync(told.fileno())

      try:
        prompt = self.load().tune(
          self.train,
          self.validation,
          folder=self.folder,
          on_event=on_event,
          should_stop=lambda: is_ended() or self.stop.exists(),
          **self.settings,
        )
        if prompt.status == "interrupted":
          return
        outcome = {"status": prompt.status}
      except (ValueError, FloatingPointError) as error:
        if isinstance(error.__cause__, OSError):  # It may pass.
          raise
        outcome = {"error": str(error)}
    safe_files.write(self.result, json.dumps(outcome).encode())


@contextlib.contextmanager
def _ended_by_cluster() -> Iterator[Callable[[], bool]]:
  """Yields whether a signal came that a cluster sends before it ends a job.

  submitit makes nothing of SIGTERM, and ends a job at its own signal, which
  comes before the limit of time.
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


def _end_last_line(path: pathlib.Path) -> None:
  """Ends the line of a file that a machine died in, if there is one."""
  with path.open("ab+") as file:
    if file.tell():
      file.seek(-1, os.SEEK_END)
      if file.read() != b"\n":
        file.write(b"\n")


def _tell(place: pathlib.Path, on_event: events.OnEvent) -> int:
  """Tells what is new; how much was told outlives the worker.

  Returns:
    The last step of which there is a new checkpoint, or -1.
  """
  path, told, saved = place / "events.jsonl", place / "told", -1
  if not path.exists():
    return saved
  start = int(told.read_text()) if told.exists() else 0
  with path.open("rb") as file:
    file.seek(start)
    for line in file:
      if not line.endswith(b"\n"):  # The rest of it comes later.
        break
      try:
        event = events.Event(**json.loads(line))
      except ValueError:
        logging.warning("%s has half a line: %r", path, line[:80])
      else:
        on_event(event)
        if event.kind == "checkpoint":
          saved = max(saved, event.step)
      start += len(line)
      safe_files.write(told, str(start).encode())
  return saved


def _read(result: pathlib.Path, folder: pathlib.Path) -> TunedPrompt:
  outcome = json.loads(result.read_text())
  if "error" in outcome:
    raise ValueError(outcome["error"])
  prompt = TunedPrompt.load(folder / "prompt.safetensors")
  return dataclasses.replace(prompt, status=outcome["status"])
