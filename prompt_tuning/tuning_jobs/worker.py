"""The process that tunes prompts, one job after another, and ends with them.

  python -m prompt_tuning.tuning_jobs.worker --checkpoint=... --jobs=DIR \\
    --prompts=DIR --fingerprint=...

A job's run goes on where it was stopped or killed, and ends with the same
prompt.
"""

import t5x  # noqa: F401  # Before what imports TensorFlow, to keep that quiet.

# isort: split

import argparse
from collections.abc import Callable
import contextlib
import functools
import math
import os
import pathlib
import signal
import sqlite3
import threading
from typing import Any

from absl import logging
from etils import epath
import filelock

import prompt_tuning as pt
from prompt_tuning.inference.tuned_prompt import TunedPrompt
from prompt_tuning.training import cluster_options
from prompt_tuning.tuning_jobs import jobs, on_cluster
from prompt_tuning.tuning_jobs.job_store import JobStore
from prompt_tuning.tuning_jobs.jobs import Job
from t5x.runs import compilation_cache, events

# Of the server, which answers meanwhile.
_NICENESS = 10
# Of a job's curves, about.
_LOSSES, _SCORES = 100, 10
# Errors whose texts are for who queued a job.
_TOLD = (ValueError, FloatingPointError, on_cluster.ClusterError)
# Between looks at whether to stop, while another worker is there.
_LOOK_SECONDS = 0.5


def work(
  store: JobStore,
  model: pt.Model | on_cluster.Tuner,
  prompts: pathlib.Path | epath.Path,
  should_stop: Callable[[], bool],
) -> None:
  """Works on jobs until there is none, or it should stop.

  Args:
    store: The jobs.
    model: The base model, or what stands for it.
    prompts: Folder for the prompts.
    should_stop: Whether to leave the rest to another worker.

  Raises:
    OSError: if a job can only be left to another worker, such as for want of
      room on a disk; or sqlite3.OperationalError, or what an OSError is the
      cause of. The store counts tries.
  """
  while not should_stop() and (job := store.claim()) is not None:
    try:
      if not _tune(store, model, prompts, job, should_stop):
        return
    except Exception as error:
      if _may_pass(error):
        with contextlib.suppress(sqlite3.Error, OSError):
          store.note(job, "notice", str(error), {})
        raise
      if isinstance(error, _TOLD):
        why = str(error)
      else:
        logging.exception("The job %s failed.", job.id)
        why = "The worker failed: its log says why."
      store.finish(job, jobs.FAILED, error=why)


def _may_pass(error: Exception) -> bool:
  """Whether a job may come further later: a disk may have room again."""
  passing = (OSError, sqlite3.OperationalError)
  return isinstance(error, passing) or isinstance(error.__cause__, OSError)


def _tune(
  store: JobStore,
  model: pt.Model | on_cluster.Tuner,
  prompts: pathlib.Path | epath.Path,
  job: Job,
  should_stop: Callable[[], bool],
) -> bool:
  """Runs a job; returns False if it is to go on later."""

  def should_end() -> bool:
    return should_stop() or store.job(job.id).is_cancelled

  def on_event(event: events.Event) -> None:
    if event.kind != "step":
      _note(store, job, event)

  settings = job.settings
  validation = job.validation_file
  stats_period, eval_period = _periods(settings.steps)
  try:
    prompt = model.tune(
      store.pairs(job.training_file),
      store.pairs(validation) if validation else None,
      length=settings.length,
      steps=settings.steps,
      init=settings.init,
      learning_rate=settings.learning_rate,
      batch_size=settings.batch_size,
      seed=settings.seed,
      rank=settings.rank,
      stats_period=stats_period,
      eval_period=eval_period,
      folder=store.run_folder(job),
      on_event=on_event,
      should_stop=should_end,
    )
  except events.CancelledError:
    prompt = None
  if store.job(job.id).is_cancelled:
    store.finish(job, jobs.CANCELLED)
    store.remove_run(job)
    return True
  if prompt is None or prompt.status == "interrupted":
    store.release(job)
    return False
  # The prompt first: a job that has succeeded has one.
  _save(prompt, prompts / f"{job.prompt}.safetensors")
  store.finish(
    job,
    jobs.SUCCEEDED,
    score=prompt.score,
    step=None if prompt.metadata is None else prompt.metadata.step,
  )
  store.remove_run(job)
  return True


def _save(prompt: TunedPrompt, path: pathlib.Path | epath.Path) -> None:
  """Saves a prompt.

  Raises:
    OSError: for whatever may pass: the errors of a bucket are of many kinds.
  """
  try:
    prompt.save(path)
  except (ValueError, OSError):
    raise
  except Exception as error:
    raise OSError(f"{path} could not be written: {error!r}") from error


def _periods(steps: int) -> tuple[int, int]:
  """Returns the steps between losses, and between scores, a multiple."""
  stats = max(1, steps // _LOSSES)
  evals = max(1, steps // _SCORES)
  return stats, evals - evals % stats


def _note(store: JobStore, job: Job, event: events.Event) -> None:
  step = event.step - event.first_step
  steps = event.last_step - event.first_step
  data: dict[str, Any] = {"step": step, "steps": steps}
  if event.score is not None:
    data["score"] = _finite(event.score)
  if event.metrics:
    data["metrics"] = {
      task: {name: _finite(value) for name, value in metrics.items()}
      for task, metrics in event.metrics.items()
    }
  text = event.text or f"{event.kind}, step {step} of {steps}"
  store.note(job, event.kind, text, data)
  if event.kind == "checkpoint":
    store.advance(job, event.step)


def _finite(value: float) -> float | None:
  """Returns a number that JSON has; of a loss that diverges, None."""
  return value if math.isfinite(value) else None


def _acquire(
  lock: filelock.BaseFileLock, should_stop: Callable[[], bool]
) -> bool:
  """Waits for a lock; returns False if it should stop first."""
  while not should_stop():
    with contextlib.suppress(filelock.Timeout):
      lock.acquire(timeout=_LOOK_SECONDS)
      return True
  return False


def _load(
  checkpoint: str, vocabulary: str | None, dtype: str, fingerprint: str | None
) -> pt.Model:
  """Reads the base model, here or on a machine of a cluster.

  Raises:
    ValueError: if it is no longer the one that jobs were queued for.
  """
  model = pt.load(checkpoint, vocabulary, dtype=dtype)
  if fingerprint not in (None, model.fingerprint):
    raise ValueError(
      f"{checkpoint} has the fingerprint {model.fingerprint}, the server's "
      f"model {fingerprint}: start the server again."
    )
  return model


def main() -> None:
  """Works; SIGTERM, or the end of the server, stops it."""
  parser = argparse.ArgumentParser(description=__doc__)
  for name in ("checkpoint", "jobs", "prompts"):
    parser.add_argument(f"--{name}", required=True)
  parser.add_argument("--fingerprint")
  # The server's process, which may have ended while this one was starting.
  parser.add_argument("--parent", type=int, default=os.getppid())
  parser.add_argument("--vocabulary")
  parser.add_argument("--dtype", default="float32")
  parser.add_argument("--submit")
  parser.add_argument("--option", action="append", default=[])
  args = parser.parse_args()
  logging.set_verbosity(logging.WARNING)
  os.nice(_NICENESS)
  compilation_cache.enable()
  stop = threading.Event()
  signal.signal(signal.SIGTERM, lambda *_: stop.set())
  # A terminal's Ctrl-C reaches this too: the server says when to stop.
  signal.signal(signal.SIGINT, signal.SIG_IGN)

  def should_stop() -> bool:
    return stop.is_set() or os.getppid() != args.parent

  store = JobStore(args.jobs, fingerprint=args.fingerprint)
  # One that a killed server left ends after its step.
  lock = filelock.FileLock(store.folder / "worker.lock")
  if not _acquire(lock, should_stop):
    return
  with lock:
    load = functools.partial(
      _load, args.checkpoint, args.vocabulary, args.dtype, args.fingerprint
    )
    work(
      store,
      on_cluster.Tuner(load, args.submit, cluster_options.read(args.option))
      if args.submit
      else load(),
      epath.Path(args.prompts),
      should_stop,
    )


if __name__ == "__main__":
  main()
