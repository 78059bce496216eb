"""Jobs that a cluster runs: Slurm's commands are scripts here."""

import contextlib
import os
import pathlib
import re
import signal
import sys
import types

import numpy as np
import pytest
import slurm

from prompt_tuning.inference.requests import TunedPrompt
from prompt_tuning.tuning_jobs import job_store, jobs, on_cluster, worker
from t5x.runs import events

submitit = pytest.importorskip("submitit")

SIGNALS = signal.SIGTERM, signal.SIGUSR2
# Jobs run at once, wait, or are lost, as files beside the commands say.
COMMANDS = {
  "sbatch": f"""#!{sys.executable}
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
pid = 4194305  # No process has it.
if (here / "is_full").exists():
  (here / f"pending_{{pid}}").touch()
elif not (here / "loses_jobs").exists():
  run = ["bash", "-c", f"SLURM_JOB_ID=$$ exec bash {{script}}"]
  pid = subprocess.Popen(run, start_new_session=True,
    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    env=os.environ | {{f"SLURM_{{k}}": str(v) for k, v in slurm.items()}}).pid
print("Submitted batch job", pid)
""",
  "srun": """#!/bin/bash
until [[ $1 == */python* ]]; do shift; done
exec "$@"
""",
  "squeue": """#!/bin/bash
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
""",
  "scancel": """#!/bin/bash
rm $(dirname $0)/pending_$1
""",
}


class Model:
  """Tells of a step, and makes a prompt of ones."""

  def tune(
    self, train, validation, *, folder, on_event, should_stop, **settings
  ):
    if settings["learning_rate"] == 100:
      raise ValueError("That is fast.")
    on_event(events.Event("step", 1, 0, 2))
    on_event(events.Event("train", 1, 0, 2, {"train": {"loss": np.float32(2)}}))
    folder.mkdir(exist_ok=True)
    array = np.ones((settings["length"], 4), np.float32)
    status = "interrupted" if should_stop() else "finished"
    return TunedPrompt(array, None, status)


class Preempted(Model):
  """Gets a signal when it begins, another one each time."""

  def tune(self, *data, folder, **settings):
    folder.mkdir(exist_ok=True)
    for number in SIGNALS:
      if not (mark := folder / number.name).exists():
        mark.touch()
        signal.raise_signal(number)
        break
    return super().tune(*data, folder=folder, **settings)


class Mortal(Model):
  """Reaches one more checkpoint each time, and dies before the third."""

  def tune(self, *data, folder, on_event, **settings):
    folder.mkdir(exist_ok=True)
    file = folder / "step"
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
  for name, text in COMMANDS.items():
    path = folder / name
    path.write_text(text)
    path.chmod(0o755)
  monkeypatch.setenv("PATH", str(folder), prepend=":")
  return folder


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
  """Looks often, and has jobs find this file and what it imports."""
  here = pathlib.Path(__file__).parent
  monkeypatch.setenv("PYTHONPATH", f"{here}:{here.parent}", ":")
  monkeypatch.setattr(on_cluster, "_LOOK_SECONDS", 0.05)
  monkeypatch.setattr(on_cluster, "_QUEUE_SECONDS", 0.05)


@pytest.fixture
def work(store, tmp_path):
  """Returns a function that works on the jobs of a store."""

  def run(model=Model, should_stop=lambda: False, **options):
    tuner = on_cluster.Tuner(model, "slurm", options)
    while store.has_work() and not should_stop():
      # The supervisor starts a worker again.
      with contextlib.suppress(RuntimeError):
        worker.work(store, tuner, tmp_path / "prompts", should_stop)

  return run


def test_slurm_tunes_and_the_worker_forwards_events(
  cluster, store, queue, work, tmp_path, monkeypatch
):
  """A job of a killed worker is not submitted again, nor its events sent."""
  job = queue(length=3)

  def killed(*event):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(store, "add_event", killed)
    with pytest.raises(KeyboardInterrupt):
      work(slurm_partition="gpu")
  work()
  assert store.job(job.id).status == jobs.SUCCEEDED
  assert len(list(cluster.glob("ran_*"))) == 1
  assert "--partition=gpu" in (cluster / "ran_1").read_text()
  path = tmp_path / "prompts" / f"{job.prompt}.safetensors"
  assert TunedPrompt.load(path).length == 3
  trained = [x for x in store.events(job.id) if x.kind == "train"]
  assert [x.data["metrics"] for x in trained] == [{"train": {"loss": 2.0}}]


@pytest.mark.parametrize(
  ("refusals", "submissions", "reason"),
  [
    (0, 5, r"The cluster ended the job: see runs/ftjob-\w*\.cluster\.$"),
    (1, 4, r"The cluster ended the job: "),
    (5, 0, r"Unable to contact slurm controller$"),  # It may be restarting.
  ],
)
def test_job_that_the_cluster_refuses_or_loses_is_submitted_again(
  cluster, store, queue, work, refusals, submissions, reason
):
  (cluster / "refusals").write_text(str(refusals))
  (cluster / "loses_jobs").touch()
  job = queue()
  work()
  assert len(list(cluster.glob("ran_*"))) == submissions
  job = store.job(job.id)
  assert job.status == jobs.FAILED
  assert re.search(
    rf"5 times without progress\. The last time: {reason}", job.error
  )


@pytest.mark.parametrize(
  ("model", "rate", "submissions", "error"),
  [
    (Preempted, 0.3, 3, None),  # It saves itself and resumes.
    (Mortal, 0.3, 3, None),  # It is not given up, as it makes progress.
    (Model, 100, 1, "That is fast."),
  ],
)
def test_job_that_ends_early_resumes(
  store, queue, work, monkeypatch, model, rate, submissions, error
):
  tasks = []

  def submit(task):
    """Calls the task here, as submitit does: it ignores SIGTERM."""
    tasks.append(task)
    results = []
    before = [signal.signal(x, signal.SIG_IGN) for x in SIGNALS]
    with contextlib.suppress(KeyboardInterrupt):
      results.append(task())
    after = [signal.signal(*x) for x in zip(SIGNALS, before, strict=True)]
    assert after == [signal.SIG_IGN] * 2
    pickle = types.SimpleNamespace(exists=lambda: bool(results))
    return types.SimpleNamespace(
      job_id="1",
      done=lambda: True,
      paths=types.SimpleNamespace(result_pickle=pickle),
      result=results.pop,
    )

  def end(code):
    raise KeyboardInterrupt

  executor = types.SimpleNamespace(
    update_parameters=lambda **options: None, submit=submit
  )
  monkeypatch.setattr(submitit, "AutoExecutor", lambda *_, **__: executor)
  monkeypatch.setattr(job_store, "MAX_TRIES", 3 if model is Preempted else 2)
  monkeypatch.setattr(os, "_exit", end)
  job = queue(learning_rate=rate)
  work(model)
  job = store.job(job.id)
  assert len(tasks) == job.attempts == submissions
  assert (job.error, job.status) == (error, "failed" if error else "succeeded")


@pytest.mark.parametrize("first_states", [[], ["UNKNOWN"]])
def test_job_that_waits_for_a_machine_leaves_the_queue_when_told_to(
  cluster, store, queue, work, monkeypatch, first_states
):
  """Slurm may not answer at first."""
  state = on_cluster._state
  monkeypatch.setattr(
    on_cluster,
    "_state",
    lambda id: first_states.pop() if first_states else state(id),
  )
  (cluster / "is_full").touch()
  job = queue()
  # Once it was submitted.
  work(should_stop=lambda: any(cluster.glob("ran_*")))
  assert not list(cluster.glob("pending_*"))
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
  (cluster / "is_full").touch()
  job = queue()

  def killed():
    if any(cluster.glob("ran_*")):
      raise KeyboardInterrupt
    return False

  with pytest.raises(KeyboardInterrupt):
    work(should_stop=killed)
  assert store.cancel(job.id).status == jobs.RUNNING  # As far as is known.
  work()
  assert store.job(job.id).status == jobs.CANCELLED
  assert not list(cluster.glob("pending_*"))
  assert not list((store.folder / "runs").iterdir())


def test_line_that_a_machine_died_in_is_skipped(tmp_path):
  (tmp_path / "events.jsonl").write_text('{"kind": "tra')
  settings = {"length": 1, "learning_rate": 1}
  on_cluster._Task(Model, [], None, tmp_path / "run", tmp_path, settings)()
  forwarded = []
  on_cluster._forward_events(tmp_path, forwarded.append)
  assert [event.kind for event in forwarded] == ["train"]


def test_wrong_options_are_told(cluster, store, queue, work):
  job = queue()
  work(wall_time=3)
  assert "submitit, 'slurm'" in store.job(job.id).error
