"""Jobs that a cluster runs."""

import json
import os
import pathlib
import signal
import stat
import sys
import types

import numpy as np
import pytest
import slurm

from prompt_tuning.inference.tuned_prompt import TunedPrompt
from prompt_tuning.training import cluster_options
from prompt_tuning.tuning_jobs import jobs, on_cluster, worker
from prompt_tuning.tuning_jobs.job_store import JobStore
from t5x.runs import events

pytest.importorskip("submitit")

SIGNALS = signal.SIGTERM, signal.SIGUSR2
LINE = json.dumps({"prompt": "a", "completion": "b"}).encode()
# Slurm's commands. Jobs run at once, or are lost.
SBATCH = f"""#!{sys.executable}
import os, pathlib, subprocess, sys
here, script = pathlib.Path(__file__).parent, pathlib.Path(sys.argv[-1])
number = 1 + len(list(here.glob("ran_*")))
refusals = here / "refusals"
if refusals.exists() and (left := int(refusals.read_text())):
  refusals.write_text(str(left - 1))
  sys.exit("Unable to contact slurm controller")
(here / f"ran_{{number}}").write_text(script.read_text())
slurm = dict(NTASKS=1, JOB_NUM_NODES=1, NODEID=0, PROCID=0, LOCALID=0,
  JOB_NODELIST="here")
pid = 4194305  # There is none such.
if (here / "is_full").exists():
  (here / f"pending_{{pid}}").touch()
elif not (here / "loses_jobs").exists():
  run = ["bash", "-c", f"SLURM_JOB_ID=$$ exec bash {{script}}"]
  pid = subprocess.Popen(run, start_new_session=True,
    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    env=os.environ | {{f"SLURM_{{k}}": str(v) for k, v in slurm.items()}}).pid
print("Submitted batch job", pid)
"""
SRUN = """#!/bin/bash
until [[ $1 == */python* ]]; do shift; done
exec "$@"
"""
SQUEUE = """#!/bin/bash
for x; do [[ $x == --jobs=* ]] && job=${x#--jobs=}; done
if [[ -e $(dirname $0)/pending_$job ]]; then
  echo PENDING
  exit
fi
if [[ ! -d /proc/$job ]]; then
  echo "slurm_load_jobs error: Invalid job id specified" >&2
  exit 1
fi
grep -q "State:.Z" /proc/$job/status || echo RUNNING
"""

SCANCEL = """#!/bin/bash
rm $(dirname $0)/pending_$1
"""


class Model:
  """Tells of a step, and makes a prompt of ones."""

  def tune(
    self, train, validation, *, folder, on_event, should_stop, **settings
  ):
    if settings["learning_rate"] == 100:
      raise ValueError("That is fast.")
    on_event(events.Event("step", 1, 0, 2))
    on_event(events.Event("train", 1, 0, 2, {"train": {"loss": np.float32(2)}}))
    prompt = TunedPrompt(np.ones((settings["length"], 4), np.float32), None)
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    prompt.save(pathlib.Path(folder, "prompt.safetensors"))
    return TunedPrompt(
      prompt.array, None, "interrupted" if should_stop() else "finished"
    )


class Preempted(Model):
  """Gets a signal when it begins, another one each time."""

  def tune(self, *data, folder, **settings):
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    for number in SIGNALS:
      if not (mark := pathlib.Path(folder, number.name)).exists():
        mark.touch()
        signal.raise_signal(number)
        break
    return super().tune(*data, folder=folder, **settings)


class Mortal(Model):
  """Comes one checkpoint further each time, and dies before the third."""

  def tune(self, *data, folder, on_event, **settings):
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    file = pathlib.Path(folder, "step")
    step = 1 + int(file.read_text() if file.exists() else 0)
    file.write_text(str(step))
    on_event(events.Event("checkpoint", step, 0, 3))
    if step < 3:
      os._exit(1)
    return super().tune(*data, folder=folder, on_event=on_event, **settings)


@pytest.fixture
def cluster(tmp_path, monkeypatch):
  """Puts commands of Slurm in front of those that there are."""
  folder = tmp_path / "bin"
  folder.mkdir()
  for name, text in (
    ("sbatch", SBATCH),
    ("srun", SRUN),
    ("squeue", SQUEUE),
    ("scancel", SCANCEL),
  ):
    path = folder / name
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
  monkeypatch.setenv("PATH", str(folder), prepend=":")
  return folder


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
  """Looks often, and has jobs find this file and what it imports."""
  here = pathlib.Path(__file__).parent
  monkeypatch.setenv("PYTHONPATH", f"{here}:{here.parent}", ":")
  monkeypatch.setattr(on_cluster, "_LOOK_SECONDS", 0.05)
  monkeypatch.setattr(on_cluster, "_QUEUE_SECONDS", 0.05)


def _work(store, tmp_path, model=Model, should_stop=lambda: False, **options):
  (tmp_path / "prompts").mkdir(exist_ok=True)
  tuner = on_cluster.Tuner(model, "slurm", options)
  worker.work(store, tuner, tmp_path / "prompts", should_stop)


def _queue(store, **settings):
  file = store.add_file("data.jsonl", LINE).id
  return store.add_job(file, None, "mine", jobs.Settings(**settings))


def test_slurm_tunes_and_the_worker_tells(cluster, tmp_path):
  store = JobStore(tmp_path / "jobs")
  job = _queue(store, length=3)
  wrong = _queue(store, learning_rate=100)
  _work(store, tmp_path, slurm_partition="gpu")
  assert store.job(job.id).status == jobs.SUCCEEDED
  assert "--partition=gpu" in (cluster / "ran_1").read_text()
  path = tmp_path / "prompts" / f"{job.prompt}.safetensors"
  assert TunedPrompt.load(path).length == 3
  told = [x for x in store.events(job.id) if x.kind == "train"]
  assert [x.data["metrics"] for x in told] == [{"train": {"loss": 2.0}}]
  assert store.job(wrong.id).error == "That is fast."


def test_job_that_the_cluster_loses_is_submitted_again(cluster, tmp_path):
  (cluster / "loses_jobs").touch()
  store = JobStore(tmp_path / "jobs")
  job = _queue(store)
  _work(store, tmp_path)
  assert len(list(cluster.glob("ran_*"))) == 5
  job = store.job(job.id)
  assert job.status == jobs.FAILED
  told = "ended it, 5 times before it came any further: see runs/"
  assert f"{told}{job.id}.cluster" in job.error


@pytest.mark.parametrize("refusals", [1, 5])
def test_job_that_the_cluster_does_not_take_is_submitted_again(
  cluster, tmp_path, refusals
):
  """Such as while Slurm's controller starts again."""
  (cluster / "refusals").write_text(str(refusals))
  store = JobStore(tmp_path / "jobs")
  job = _queue(store)
  _work(store, tmp_path)
  job = store.job(job.id)
  if refusals == 1:
    assert job.status == jobs.SUCCEEDED, job.error
  else:
    assert job.status == jobs.FAILED
    assert job.error.endswith("Unable to contact slurm controller")


def test_job_that_the_cluster_does_not_take_can_be_left(
  cluster, tmp_path, monkeypatch
):
  monkeypatch.setattr(on_cluster, "_QUEUE_SECONDS", 600)
  refusals = cluster / "refusals"
  refusals.write_text("1")
  store = JobStore(tmp_path / "jobs")
  job = _queue(store)
  _work(store, tmp_path, should_stop=lambda: refusals.read_text() == "0")
  job = store.job(job.id)
  assert (job.status, job.tries) == (jobs.RUNNING, 0)


def test_job_that_the_cluster_signals_saves_itself_and_goes_on(
  tmp_path, monkeypatch
):
  submitted = []

  def submit(tuner, work):
    """Runs it here, as submitit does there: it makes nothing of SIGTERM."""
    submitted.append(work)
    before = [signal.signal(x, signal.SIG_IGN) for x in SIGNALS]
    work()
    after = [signal.signal(*x) for x in zip(SIGNALS, before, strict=True)]
    assert after == [signal.SIG_IGN] * 2
    return types.SimpleNamespace(done=lambda: True)

  monkeypatch.setattr(on_cluster.Tuner, "_submit", submit)
  store = JobStore(tmp_path / "jobs")
  job = _queue(store)
  _work(store, tmp_path, Preempted)
  assert len(submitted) == 3
  assert store.job(job.id).status == jobs.SUCCEEDED
  assert store.job(job.id).attempts == 1


def test_job_that_waits_for_a_machine_leaves_the_queue_when_told_to(
  cluster, tmp_path
):
  (cluster / "is_full").touch()
  store = JobStore(tmp_path / "jobs")
  job = _queue(store)
  # Once it was submitted.
  _work(store, tmp_path, should_stop=lambda: any(cluster.glob("ran_*")))
  assert not list(cluster.glob("pending_*"))
  assert store.job(job.id).status == jobs.RUNNING  # Of nobody.
  (cluster / "is_full").unlink()
  _work(store, tmp_path)
  assert store.job(job.id).status == jobs.SUCCEEDED


def test_job_that_comes_further_each_time_is_not_given_up(
  cluster, tmp_path, monkeypatch
):
  monkeypatch.setattr(on_cluster, "_TRIES", 2)
  _come_further_each_time(tmp_path)
  assert len(list(cluster.glob("ran_*"))) == 3


def _come_further_each_time(tmp_path):
  store = JobStore(tmp_path / "jobs")
  job = _queue(store)
  _work(store, tmp_path, Mortal)
  assert store.job(job.id).status == jobs.SUCCEEDED
  assert (tmp_path / "prompts" / f"{job.prompt}.safetensors").exists()


@pytest.mark.slow
def test_real_slurm_tunes_again_and_again(tmp_path, monkeypatch):
  monkeypatch.setattr(on_cluster, "_TRIES", 2)
  with slurm.cluster():
    _come_further_each_time(tmp_path)
    wrong = JobStore(tmp_path / "others")
    job = _queue(wrong)
    _work(wrong, tmp_path, slurm_partition="gpu")
  assert "invalid partition specified: gpu" in wrong.job(job.id).error


def test_killed_worker_s_job_is_waited_for(cluster, tmp_path):
  """What it submitted is not submitted again, what it told not told again."""
  store = JobStore(tmp_path / "jobs")
  job = _queue(store)

  def killed(*event):
    raise KeyboardInterrupt

  note = store.note
  store.note = killed
  with pytest.raises(KeyboardInterrupt):
    _work(store, tmp_path)
  store.note = note
  _work(store, tmp_path)
  assert store.job(job.id).status == jobs.SUCCEEDED
  assert len(list(cluster.glob("ran_*"))) == 1
  assert sum(x.kind == "train" for x in store.events(job.id)) == 1


def test_job_that_is_cancelled_while_no_worker_is_there_leaves_the_queue(
  cluster, tmp_path
):
  (cluster / "is_full").touch()
  store = JobStore(tmp_path / "jobs")
  job = _queue(store)

  def killed():
    if any(cluster.glob("ran_*")):
      raise KeyboardInterrupt
    return False

  with pytest.raises(KeyboardInterrupt):
    _work(store, tmp_path, should_stop=killed)
  assert store.cancel(job.id).status == jobs.RUNNING  # As far as is known.
  _work(store, tmp_path)
  assert store.job(job.id).status == jobs.CANCELLED
  assert not list(cluster.glob("pending_*"))
  assert not list((store.folder / "runs").iterdir())


def test_cluster_that_does_not_answer_is_asked_again(
  cluster, tmp_path, monkeypatch
):
  (cluster / "is_full").touch()
  store = JobStore(tmp_path / "jobs")
  _queue(store)
  asked, state = [], on_cluster._state

  def first_unknown(job):
    asked.append(job)
    return "UNKNOWN" if len(asked) == 1 else state(job)

  monkeypatch.setattr(on_cluster, "_state", first_unknown)
  monkeypatch.setattr(on_cluster, "_QUEUE_SECONDS", 0)
  _work(store, tmp_path, should_stop=lambda: any(cluster.glob("ran_*")))
  assert not list(cluster.glob("pending_*"))


def test_line_that_a_machine_died_in_is_skipped(tmp_path):
  (tmp_path / "events.jsonl").write_text('{"kind": "tra')
  settings = {"length": 1, "learning_rate": 1}
  work = on_cluster._Work(
    Model, [], None, str(tmp_path / "run"), tmp_path, settings
  )
  work()
  told = []
  on_cluster._tell(tmp_path, told.append)
  assert [event.kind for event in told] == ["train"]


def test_wrong_options_are_told(cluster, tmp_path):
  store = JobStore(tmp_path / "jobs")
  job = _queue(store)
  _work(store, tmp_path, wall_time=3)
  assert "submitit, 'slurm'" in store.job(job.id).error
  with pytest.raises(ValueError, match="NAME=VALUE, got timeout"):
    cluster_options.read(["timeout"])
