"""The worker's process: when it starts, and how it ends."""

import itertools
import json
import os
import signal
import sys
import time

import numpy as np
import pytest

from prompt_tuning import prompt_files
from prompt_tuning.tuning_jobs import jobs, worker
from prompt_tuning.tuning_jobs.worker import Supervisor

LADDER = "checkpoints/ladder_xs/lm_100"


def _await(condition, seconds=400):
  deadline = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.05)


@pytest.fixture
def supervise(store, monkeypatch):
  """Returns a function that starts a supervisor whose worker is a program."""
  monkeypatch.setattr(worker, "_JOBS_SECONDS", 0.05)
  monkeypatch.setattr(worker, "_FIRST_PAUSE", 0.05)
  monkeypatch.setattr(worker, "_LONGEST_PAUSE", 0.8)
  started = []

  def start(*command):
    started.append(Supervisor(store, [sys.executable, *command]))
    assert started[0].problem is None
    started[0].start()
    return started[0]

  yield start
  for supervisor in started:
    supervisor.close()


@pytest.mark.slow
def test_killed_worker_is_started_again(store, supervise, tmp_path):
  """SIGKILL in the middle of a run; the prompt is that of one left alone."""
  settings = jobs.Settings(2, 12, "random_uniform", batch_size=4)
  lines = b'{"prompt": "Sarah is in the garden .", "completion": "True"}\n' * 8
  file = store.add_file("data.jsonl", lines).id
  killed, alone = (
    store.add_job(file, file, "mine", settings).id for _ in range(2)
  )
  flags = {"checkpoint": LADDER, "vocabulary": None, "dtype": "float32"}
  flags |= {"jobs": str(store.folder), "prompts": str(tmp_path / "prompts")}
  flags |= {"submit": None, "fingerprint": None, "parent": os.getpid()}
  module = "prompt_tuning.tuning_jobs.worker"
  supervisor = supervise("-m", module, json.dumps(flags))
  _await(lambda: any(x.kind == "checkpoint" for x in store.events(killed)))
  os.kill(supervisor._process.pid, signal.SIGKILL)
  _await(lambda: not store.has_work())
  ended = [store.job(id) for id in (killed, alone)]
  assert [job.status for job in ended] == ["succeeded"] * 2
  assert ended[0].attempts == 2
  prompts = [
    prompt_files.load_prompt(tmp_path / "prompts" / f"{job.prompt}.safetensors")
    for job in ended
  ]
  np.testing.assert_array_equal(prompts[0][0], prompts[1][0])
  assert prompts[0][1] == prompts[1][1]


def test_worker_that_cannot_begin_is_started_less_and_less_often(
  store, queue, supervise, tmp_path
):
  """One without memory for the model, for instance; then it begins."""
  job = queue()
  (tmp_path / "started").touch()
  begin = tmp_path / "begin"
  supervisor = supervise(
    "-c",
    "import os, sqlite3, sys, time\n"
    f"with open({str(tmp_path / 'started')!r}, 'a') as file:\n"
    "  print(time.monotonic(), file=file)\n"
    f"if not os.path.exists({str(begin)!r}): sys.exit(3)\n"
    f"store = sqlite3.connect({str(store.folder / 'jobs.sqlite')!r})\n"
    "with store: store.execute('update jobs set attempts = 1')\n"
    "time.sleep(60)",
  )

  def starts():
    supervisor.wake()  # A new job does not shorten the pause.
    return [*map(float, (tmp_path / "started").read_text().split())]

  _await(lambda: len(starts()) >= 7)
  pauses = [b - a for a, b in itertools.pairwise(starts())]
  for pause, least in zip(pauses, (0.05, 0.1, 0.2, 0.4, 0.8, 0.8), strict=True):
    assert pause >= least
  assert "6 worker(s) in a row failed, the last with code 3 before" in (
    supervisor.problem
  )
  begin.touch()
  _await(lambda: supervisor.problem is None)
  assert store.job(job.id).attempts == 1
  process = supervisor._process
  supervisor.close()
  assert process.returncode == -signal.SIGTERM


@pytest.mark.parametrize(
  ("longest", "failures"), [(300, [1, 2, 3]), (0, [1] * 3)]
)
def test_failures_at_a_job_are_counted_too(
  store, queue, monkeypatch, longest, failures
):
  """A disk that is full has no room a second later, but may in an hour."""
  monkeypatch.setattr(worker, "_LONGEST_PAUSE", longest)
  monkeypatch.setattr(worker, "_JOBS_SECONDS", 0.01)
  monkeypatch.setattr(store, "claims", iter(range(99)).__next__)
  supervisor, counts = Supervisor(store, ["false"]), [0]
  for _ in failures:
    counts.append(supervisor._run_worker(counts[-1]))
    assert supervisor.problem is None
  assert counts[1:] == failures
  supervisor._command = ["true"]
  assert supervisor._run_worker(counts[-1]) == 0


def test_problem_is_over_when_no_job_waits(store, queue, supervise):
  job = queue()
  supervisor = supervise("-c", "import sys; sys.exit(3)")
  _await(lambda: supervisor.problem is not None)
  store.cancel(job.id)
  _await(lambda: supervisor.problem is None, 30)
