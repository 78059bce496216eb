"""Tests of jobs on a cluster, with functions in place of Slurm's commands."""

import contextlib
import functools
import pathlib
import re
import signal
import sys
import types

import cloudpickle
import numpy as np
import pytest
import slurm

from prompt_tuning.inference.requests import TunedPrompt
from prompt_tuning.tuning_jobs import job_store, jobs, on_cluster, worker
from t5x.runs import events

submitit = pytest.importorskip("submitit")

SIGNALS = signal.SIGTERM, signal.SIGUSR2


class Model:
  """A model that reports a step and makes a prompt of ones."""

  def begin(self, folder, on_event):
    """Does nothing; subclasses may end the run here."""

  def tune(
    self, train, validation, *, folder, on_event, should_stop, **settings
  ):
    if settings["learning_rate"] == 100:
      raise ValueError("That is fast.")
    folder.mkdir(exist_ok=True)
    self.begin(folder, on_event)
    on_event(events.Event("step", 1, 0, 2))
    on_event(events.Event("train", 1, 0, 2, {"train": {"loss": np.float32(2)}}))
    array = np.ones((settings["length"], 4), np.float32)
    status = "interrupted" if should_stop() else "finished"
    return TunedPrompt(array, None, status)


class Preempted(Model):
  """A model that gets one signal at its first start, another at its second."""

  def begin(self, folder, on_event):
    for number in SIGNALS:
      if not (mark := folder / number.name).exists():
        mark.touch()
        signal.raise_signal(number)
        break


class Mortal(Model):
  """A model that dies at its first two checkpoints, one at each start."""

  def begin(self, folder, on_event):
    step = 1 + len(list(folder.iterdir()))
    (folder / f"{step}").touch()
    on_event(events.Event("checkpoint", step, 0, 3))
    if step < 3:
      sys.exit("It died.")


def _run(job):
  """Runs a job's task in this process, ignoring signals as submitit does."""
  before = [signal.signal(x, signal.SIG_IGN) for x in SIGNALS]
  with contextlib.suppress(SystemExit):
    result = "success", job.submission().result()
    job.paths.result_pickle.write_bytes(cloudpickle.dumps(result))
  after = [signal.signal(*x) for x in zip(SIGNALS, before, strict=True)]
  assert after == [signal.SIG_IGN] * 2


@pytest.fixture
def cluster(monkeypatch):
  """A stand-in for Slurm that runs a job when asked for the job's state.

  It refuses the first `refusals` jobs, and fails to answer `outages` times.
  Jobs wait forever if it `is_full`, and are forgotten if it `loses_jobs`.
  """
  cluster = types.SimpleNamespace(
    **{"parameters": [], "jobs": {}, "refusals": 0, "outages": 0},
    **{"is_full": False, "loses_jobs": False},
  )

  def submit(executor, command):
    if cluster.refusals:
      cluster.refusals -= 1
      raise RuntimeError("Unable to contact slurm controller")
    cluster.parameters.append(executor.parameters)
    job = submitit.SlurmJob(executor.folder, str(len(cluster.parameters)))
    if not cluster.loses_jobs:
      cluster.jobs[job.job_id] = job
    return job

  def squeue(command, **options):
    id = command[2].removeprefix("--jobs=")
    error = "" if id in cluster.jobs else "Invalid job id"
    if cluster.outages:
      cluster.outages, error = cluster.outages - 1, "Timeout"
    elif not error and not cluster.is_full:
      _run(cluster.jobs.pop(id))
    return types.SimpleNamespace(
      returncode=len(error),
      stderr=error,
      stdout="PENDING\n" if cluster.is_full else "RUNNING\n",
    )

  for kind, name, function in (
    (submitit.SlurmExecutor, "affinity", lambda _: 2),
    (submitit.SlurmExecutor, "_submit_command", submit),
    (submitit.SlurmJob, "cancel", lambda x, check: cluster.jobs.pop(x.job_id)),
    (on_cluster.subprocess, "run", squeue),
  ):
    monkeypatch.setattr(kind, name, function)
  return cluster


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
  """Polls often, and lets jobs import this file and its imports."""
  here = pathlib.Path(__file__).parent
  monkeypatch.setenv("PYTHONPATH", f"{here}:{here.parent}", ":")
  monkeypatch.setattr(on_cluster, "_LOOK_SECONDS", 0.05)
  monkeypatch.setattr(on_cluster, "_QUEUE_SECONDS", 0.05)


@pytest.fixture
def work(store, tmp_path):
  """Returns a function that works on the jobs of a store."""

  def run(model=Model, should_stop=lambda: False, cluster="slurm", **options):
    tune = functools.partial(on_cluster.tune, model, cluster, options)
    while store.has_work() and not should_stop():
      # The supervisor would start another worker.
      with contextlib.suppress(RuntimeError):
        worker.work(store, tune, tmp_path / "prompts", should_stop)

  return run


def test_job_of_a_killed_worker_is_not_submitted_again(
  cluster, store, queue, work, tmp_path, monkeypatch
):
  """Another worker continues the job: one submission, and each event once."""
  job = queue(length=3)

  def killed(*event):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(store, "add_event", killed)
    with pytest.raises(KeyboardInterrupt):
      work(slurm_partition="gpu")
  work()
  assert store.job(job.id).status == jobs.SUCCEEDED
  (parameters,) = cluster.parameters
  assert parameters["partition"] == "gpu"
  path = tmp_path / "prompts" / f"{job.prompt}.safetensors"
  assert TunedPrompt.load(path).length == 3
  trained = [x for x in store.events(job.id) if x.kind == "train"]
  assert [x.data["metrics"] for x in trained] == [{"train": {"loss": 2.0}}]


@pytest.mark.slow
def test_another_process_tunes(store, queue, work):
  job = queue()
  work(cluster="local")
  assert store.job(job.id).status == jobs.SUCCEEDED
  assert [x for x in store.events(job.id) if x.kind == "train"]


@pytest.mark.parametrize(
  ("refusals", "submissions", "reason"),
  [
    (1, 4, r"The cluster ended the job: see runs/ftjob-\w*\.cluster\.$"),
    (5, 0, r"Unable to contact slurm controller$"),  # Slurm may be restarting.
  ],
)
def test_job_that_the_cluster_refuses_or_loses_is_submitted_again(
  cluster, store, queue, work, refusals, submissions, reason
):
  cluster.refusals, cluster.loses_jobs = refusals, True
  job = queue()
  work()
  assert len(cluster.parameters) == submissions
  job = store.job(job.id)
  assert job.status == jobs.FAILED
  assert re.search(rf"5 times without .* The last time: {reason}", job.error)


@pytest.mark.parametrize(
  ("model", "rate", "submissions", "error"),
  [
    (Preempted, 0.3, 3, None),  # It saves itself and resumes.
    (Mortal, 0.3, 3, None),  # It is not given up, as it makes progress.
    (Model, 100, 1, "That is fast."),
  ],
)
def test_job_that_ends_early_resumes(
  cluster, store, queue, work, monkeypatch, model, rate, submissions, error
):
  monkeypatch.setattr(job_store, "MAX_TRIES", 3 if model is Preempted else 2)
  job = queue(learning_rate=rate)
  work(model)
  job = store.job(job.id)
  assert len(cluster.parameters) == job.attempts == submissions
  assert (job.error, job.status) == (error, "failed" if error else "succeeded")


def test_job_that_waits_for_a_machine_leaves_the_queue_when_told_to(
  cluster, store, queue, work
):
  cluster.is_full, cluster.outages = True, 1
  job = queue()
  # The worker stops once the job is submitted.
  work(should_stop=lambda: bool(cluster.parameters))
  assert not cluster.jobs
  job = store.job(job.id)
  assert (job.status, job.tries) == (jobs.RUNNING, 0)


@pytest.mark.slow
def test_real_slurm_tunes_again_and_again(
  store, queue, work, tmp_path, monkeypatch
):
  monkeypatch.setattr(job_store, "MAX_TRIES", 2)
  with slurm.cluster():
    job = queue()
    work(Mortal)
    wrong = queue()
    work(slurm_partition="gpu")
  assert store.job(job.id).status == jobs.SUCCEEDED
  assert (tmp_path / "prompts" / f"{job.prompt}.safetensors").exists()
  assert "invalid partition specified: gpu" in store.job(wrong.id).error


def test_job_that_is_cancelled_while_no_worker_is_there_leaves_the_queue(
  cluster, store, queue, work
):
  cluster.is_full = True
  job = queue()

  def killed():
    if cluster.parameters:
      raise KeyboardInterrupt
    return False

  with pytest.raises(KeyboardInterrupt):
    work(should_stop=killed)
  assert store.cancel(job.id).status == jobs.RUNNING  # No worker has ended it.
  work()
  assert store.job(job.id).status == jobs.CANCELLED
  assert not cluster.jobs
  assert not list((store.folder / "runs").iterdir())


def test_line_that_a_machine_died_in_is_skipped(tmp_path):
  (tmp_path / "events.jsonl").write_text('{"kind": "tra')
  settings = {"length": 1, "learning_rate": 1}
  on_cluster._tune(Model, [], None, tmp_path / "run", tmp_path, settings)
  forwarded = []
  on_cluster._forward_events(tmp_path, forwarded.append)
  assert [event.kind for event in forwarded] == ["train"]


def test_wrong_options_are_told(cluster, store, queue, work):
  job = queue()
  work(wall_time=3)
  assert "submitit, 'slurm'" in store.job(job.id).error
