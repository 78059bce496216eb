"""The process that tunes prompts, one job after another, and its supervisor.

  python -m prompt_tuning.tuning_jobs.worker '{"checkpoint": ..., ...}'

A job that was stopped or killed resumes, and ends with the same prompt.
"""

import t5x  # noqa: F401  # Before TensorFlow's first import, to quiet it.

# isort: split

from collections.abc import Callable, Sequence
import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import types
from typing import Any

from absl import logging
from etils import epath
import filelock

import prompt_tuning as pt
from prompt_tuning.inference.requests import TunedPrompt
from prompt_tuning.training import cluster_options, defaults
from prompt_tuning.tuning_jobs import jobs, on_cluster, owners, restarts
from prompt_tuning.tuning_jobs.job_store import JobStore
from prompt_tuning.tuning_jobs.jobs import Job
from t5x.runs import events

# Flags of the server that are arguments of `pt.load`.
OF_MODEL = ("checkpoint", "vocabulary", "dtype", "base_weights")

# Below the priority of the server, which answers meanwhile.
_NICENESS = 10
# The user who queued the job gets the messages of these errors.
_USER_ERRORS = (ValueError, FloatingPointError)
# The pause between checks whether to stop, while another worker runs.
_LOOK_SECONDS = 0.5

# The pause between checks for jobs.
_JOBS_SECONDS = 1.0
# The pause after a worker failed. It doubles with each failure in a row: a
# start costs as much as loading a model, and a full disk takes time to clear.
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 300.0
# The time that a worker has to save its run.
_STOP_SECONDS = 60.0


def work(
  store: JobStore,
  tune: Callable[..., TunedPrompt],
  prompts: pathlib.Path | epath.Path,
  should_stop: Callable[[], bool],
) -> None:
  """Works on jobs until all are done, or it should stop.

  Args:
    store: The jobs.
    tune: `Model.tune` of the base model, or of a cluster that has it.
    prompts: The folder for the prompts.
    should_stop: Returns whether to leave the rest to another worker.

  Raises:
    Exception: if a later worker may finish the job, for example if a disk is
      full. The store counts the tries.
  """

  def examples(file: str) -> list[tuple[str, str]]:
    return [*jobs.parse_examples(store.content(file))]

  while not should_stop() and (job := store.claim()) is not None:
    settings, prompt = dataclasses.asdict(job.settings), None
    del settings["n_epochs"]  # `steps` includes it.
    stats_period, eval_period = defaults.periods(job.settings.steps)
    try:
      with contextlib.suppress(events.CancelledError):
        prompt = tune(
          examples(job.training_file),
          examples(job.validation_file) if job.validation_file else None,
          **settings,
          stats_period=stats_period,
          eval_period=eval_period,
          folder=store.run_folder(job),
          on_event=functools.partial(_add_event, store, job),
          should_stop=lambda x=job: (
            should_stop() or store.job(x.id).is_cancelled
          ),
        )
      if store.job(job.id).is_cancelled:
        store.finish(job, jobs.CANCELLED)
      elif prompt is None or prompt.status == "interrupted":
        store.release(job)
        return
      else:
        # Saves the prompt first: a succeeded job must have one.
        stem, step = owners.stem(job.prompt, job.owner), None
        if (metadata := prompt.metadata) is not None:
          step = metadata.step
          # A name for people; the trainer names the pairs by their digest.
          named = dataclasses.replace(
            metadata, task=store.file(job.training_file).filename
          )
          prompt = dataclasses.replace(prompt, metadata=named)
        prompt.save(prompts / f"{stem}.safetensors")
        store.finish(job, jobs.SUCCEEDED, score=prompt.score, step=step)
      store.remove_run(job)
    except Exception as error:
      if not isinstance(error, _USER_ERRORS) or isinstance(
        error.__cause__, OSError
      ):
        with contextlib.suppress(sqlite3.Error, OSError):
          store.add_event(job, "notice", str(error), {})
        raise
      store.finish(job, jobs.FAILED, error=str(error))


def _add_event(store: JobStore, job: Job, event: events.Event) -> None:
  if event.kind in ("step", "evaluating"):
    return
  step = event.step - event.first_step
  steps = event.last_step - event.first_step
  data: dict[str, Any] = {"step": step, "steps": steps}
  if event.score is not None:
    data["score"] = event.score
  if event.metrics:
    data["metrics"] = event.metrics
  text = event.text or f"{event.kind}, step {step} of {steps}"
  store.add_event(job, event.kind, text, data)
  if event.kind == "checkpoint":
    store.advance(job, event.step)


def _load(flags: types.SimpleNamespace) -> pt.Model:
  """Reads the base model, here or on a machine of a cluster.

  Raises:
    ValueError: if it is not the model for which the jobs were queued.
  """
  model = pt.load(**{name: getattr(flags, name) for name in OF_MODEL})
  if flags.fingerprint not in (None, model.fingerprint):
    raise ValueError(
      f"{flags.checkpoint} has the fingerprint {model.fingerprint}, but the "
      f"server loaded a model with {flags.fingerprint}: restart the server."
    )
  return model


def main(flags: types.SimpleNamespace) -> None:
  """Runs the worker until SIGTERM, or until its server ends.

  Args:
    flags: The server's flags, with the `fingerprint` of its model and the
      number of its process, `parent`, which may end while this one starts.
  """
  logging.set_verbosity(logging.WARNING)
  os.nice(_NICENESS)
  stop = threading.Event()
  signal.signal(signal.SIGTERM, lambda *_: stop.set())
  # Ctrl-C reaches this process too, but the server decides when it stops.
  signal.signal(signal.SIGINT, signal.SIG_IGN)

  def should_stop() -> bool:
    return stop.is_set() or os.getppid() != flags.parent

  store = JobStore(flags.jobs, fingerprint=flags.fingerprint)
  # The worker of a killed server still finishes its step.
  lock = filelock.FileLock(store.folder / "worker.lock")
  try:
    held = lock.acquire(poll_interval=_LOOK_SECONDS, cancel_check=should_stop)
  except filelock.Timeout:
    return
  with held:
    if should_stop():
      return
    if flags.submit:
      options = cluster_options.read(flags.submit, flags.option)
      load = functools.partial(_load, flags)
      tune = functools.partial(on_cluster.tune, load, flags.submit, options)
    else:
      tune = functools.partial(restarts.tune, _load(flags).tune)
    work(store, tune, epath.Path(flags.prompts), should_stop)


class Supervisor(threading.Thread):
  """A thread that runs one worker process, but only while there is work.

  Attributes:
    problem: The reason that no job runs, if the last worker failed before it
      claimed one.
  """

  def __init__(self, store: JobStore, command: Sequence[str]):
    """Starts nothing yet.

    Args:
      store: The jobs.
      command: The command line of the worker.
    """
    super().__init__(name="supervisor")
    self.problem: str | None = None
    self._store, self._command = store, list(command)
    self._end, self._wake = threading.Event(), threading.Event()

  def wake(self) -> None:
    """Makes the supervisor look for jobs now."""
    self._wake.set()

  def stop(self) -> None:
    """Asks the worker to stop; `close` waits for it."""
    self._end.set()
    self._wake.set()

  def close(self) -> None:
    """Stops the worker and waits until it has saved its run."""
    self.stop()
    if self.is_alive():
      self.join()

  def run(self) -> None:
    """Looks for jobs until it is stopped."""
    failures = 0  # Number of workers in a row that failed.
    while not self._end.is_set():
      try:
        if self._store.has_work():
          failures = self._run_worker(failures)
          pause = min(_FIRST_PAUSE * 2 ** min(failures - 1, 9), _LONGEST_PAUSE)
          self._end.wait(pause if failures else 0)
          continue
        # Jobs that no worker claimed were cancelled.
        failures, self.problem = 0, None
      except Exception:  # For example, a full disk may have room later.
        logging.exception("The supervisor could not look at the jobs.")
      self._wake.wait(_JOBS_SECONDS)
      self._wake.clear()

  def _run_worker(self, failures: int) -> int:
    """Runs a worker to its end; returns the failures in a row."""
    start, claims = time.monotonic(), self._store.claims()
    self._process = process = subprocess.Popen(self._command)
    try:
      while process.poll() is None and not self._end.wait(_JOBS_SECONDS):
        # The worker waits for a locked store itself.
        with contextlib.suppress(sqlite3.Error, OSError):
          if self._store.claims() > claims:
            self.problem = None
    finally:
      process.terminate()
      try:
        code = process.wait(_STOP_SECONDS)
      except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    has_claimed = self._store.claims() > claims
    if not code or self._end.is_set():
      self.problem = None
      return 0
    # The store fails a job that keeps killing its workers.
    worked_long = has_claimed and time.monotonic() - start > _LONGEST_PAUSE
    failures = 1 if worked_long else failures + 1
    ended = f"{failures} worker(s) in a row failed, the last with code {code}"
    logging.error("%s.", ended)
    problem = f"No job is running: {ended} before it claimed one. See the log."
    self.problem = None if has_claimed else problem
    return failures


if __name__ == "__main__":
  main(types.SimpleNamespace(**json.loads(sys.argv[1])))
