"""Tuning on a cluster: a worker submits its jobs there and waits for them."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import time
from typing import Any

from absl import logging
import pydantic

import prompt_tuning as pt
from prompt_tuning.inference.requests import TunedPrompt
from prompt_tuning.tuning_jobs import restarts
from prompt_tuning.tuning_jobs.jobs import cluster_folder
from t5x.files import parsing, safe_files
from t5x.runs import command_line, events

_EVENT = pydantic.TypeAdapter(events.Event)

# The pauses between looks at a job, and at the cluster's queue.
_LOOK_SECONDS = 1.0
_QUEUE_SECONDS = 15.0

_Pairs = Sequence[tuple[str, str]]


def tune(
  load: Callable[[], pt.Model],
  cluster: str,
  options: Mapping[str, str | int | bool],
  train: _Pairs,
  validation: _Pairs | None,
  *,
  folder: pathlib.Path,
  on_event: events.OnEvent,
  should_stop: events.ShouldStop,
  **settings: Any,
) -> TunedPrompt:
  """Tunes like `Model.tune`; waits for the job if it was already submitted.

  The cluster's machines share the folder of the runs. They write files there;
  only the worker writes to the store, because SQLite is for one machine.

  Args:
    load: Loads the model, on a machine of the cluster.
    cluster: submitit's name for the cluster, such as "slurm"; "local" starts
      processes on this machine.
    options: Parameters of `submitit.AutoExecutor.update_parameters`, such as
      {"timeout_min": 600, "slurm_partition": "gpu"}.
    train: As for `Model.tune`, like the other arguments below.

  Raises:
    ValueError: if examples, settings or the cluster's options are wrong.
    RuntimeError: if the cluster refuses the job (its controller may be
      restarting), or ends it early. The run in `folder` can be resumed.
    CancelledError: if `should_stop` returns True. The run can be resumed too.
  """
  import submitit

  shared = cluster_folder(folder)
  shared.mkdir(parents=True, exist_ok=True)
  (shared / "stop").unlink(missing_ok=True)
  id_file = shared / "job"
  if cluster == "slurm" and id_file.exists():
    job = submitit.SlurmJob(shared, id_file.read_text())
  else:
    try:
      executor = submitit.AutoExecutor(shared, cluster=cluster)
      executor.update_parameters(name="prompt_tuning", **options)
    except (RuntimeError, NameError, TypeError, ValueError) as error:
      reason = " ".join(str(error).split())
      raise ValueError(f"submitit, {cluster!r}: {reason}") from error
    job = executor.submit(
      _tune, load, train, validation, folder, shared, settings
    )
    safe_files.write(id_file, job.job_id.encode())
  _follow(job, shared, on_event, should_stop)
  id_file.unlink(missing_ok=True)
  result = job.result() if job.paths.result_pickle.exists() else None
  if isinstance(result, str):
    raise ValueError(result)
  if result is not None and result.status != "interrupted":
    return result
  if should_stop():
    raise events.CancelledError
  raise RuntimeError(f"The cluster ended the job: see runs/{shared.name}.")


def _follow(
  job: Any,
  shared: pathlib.Path,
  on_event: events.OnEvent,
  should_stop: events.ShouldStop,
) -> None:
  """Forwards a job's events until it is over."""
  import submitit

  # For Slurm, submitit would call `sacct`, which many small clusters lack.
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
      if is_stopping and state == "PENDING":  # A running job saves its run.
        job.cancel(check=False)
      # The queue may not list a new job yet.
      is_over |= not state and now >= submitted + _QUEUE_SECONDS
    # After the look at the job, so that none of its events is missed.
    _forward_events(shared, on_event)
    if not is_over:
      time.sleep(_LOOK_SECONDS)


def _state(id: str) -> str:
  """Returns the state of a Slurm job; "" if Slurm knows no such job."""
  command = ("squeue", "--noheader", f"--jobs={id}", "--format=%T")
  asked = subprocess.run(command, capture_output=True, text=True, check=False)
  if asked.returncode:
    return "" if "Invalid job id" in asked.stderr else "UNKNOWN"
  return asked.stdout.strip()


def _tune(
  load: Callable[[], pt.Model],
  train: _Pairs,
  validation: _Pairs | None,
  folder: pathlib.Path,
  shared: pathlib.Path,
  settings: Mapping[str, Any],
) -> TunedPrompt | str:
  """Tunes a prompt on the cluster's machine; saves the run if it has to end.

  Returns:
    The prompt, or the message of an error that would occur again.
  """
  import submitit

  # submitit ignores SIGTERM, and ends a job on its own signal, which comes
  # before the time limit.
  own = signal.Signals[f"SIG{submitit.JobEnvironment.USR_SIG}"]
  with (
    (shared / "events.jsonl").open("a") as log,
    command_line.StopSignals(signal.SIGTERM, own) as signals,
  ):
    log.write("\n")  # The machine may have died within a line.

    def on_event(event: events.Event) -> None:
      if event.kind not in ("step", "evaluating"):
        line = json.dumps(dataclasses.asdict(event), default=float)
        log.write(f"{line}\n")
        log.flush()
        os.fsync(log.fileno())

    def should_stop() -> bool:
      return signals.should_stop() or (shared / "stop").exists()

    try:
      return restarts.tune(
        load().tune,
        train,
        validation,
        folder=folder,
        on_event=on_event,
        should_stop=should_stop,
        **settings,
      )
    except (ValueError, FloatingPointError) as error:
      if isinstance(error.__cause__, OSError):
        raise
      return str(error)


def _forward_events(shared: pathlib.Path, on_event: events.OnEvent) -> None:
  """Passes on a task's new events; a file keeps the position reached."""
  path, position = shared / "events.jsonl", shared / "forwarded"
  if not path.exists():
    return
  start = 0
  if position.exists():
    with parsing.of(position, "a position", "Remove it to start again."):
      start = int(position.read_text())
  written = start
  with path.open("rb") as file:
    file.seek(start)
    for line in file:
      if not line.endswith(b"\n"):  # The rest of the line comes later.
        break
      start += len(line)
      if not line.strip():
        continue
      try:
        with parsing.of(path, "a list of events"):
          event = _EVENT.validate_json(line)
      except ValueError as error:  # A machine may have died within a line.
        logging.warning("A line is ignored: %s", error)
        continue
      on_event(event)
      written = start
      safe_files.write(position, str(start).encode())
  if start > written:
    safe_files.write(position, str(start).encode())
