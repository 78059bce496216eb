"""The worker: its events, its files, its second tries, and its supervisor."""

import itertools
import json
import os
import signal
import sqlite3
import sys
import threading
import time
import types

import filelock
import numpy as np
import pytest

from prompt_tuning import prompt_files
from prompt_tuning.inference.requests import TunedPrompt
from prompt_tuning.tuning_jobs import job_store, jobs, worker
from prompt_tuning.tuning_jobs.job_store import JobStore
from t5x.files import compilation_cache
from t5x.runs import events

LADDER = "checkpoints/ladder_xs/lm_100"


class Model:
  """Makes files as a cluster's run does, then a prompt, or an error."""

  def __init__(self, end=lambda: None):
    self.periods, self.folders, self._end = [], [], end

  def tune(
    self, *pairs, folder, on_event, stats_period, eval_period, **settings
  ):
    self.periods.append((settings["steps"], stats_period, eval_period))
    self.folders.append(folder)
    folder.mkdir(exist_ok=True)
    jobs.cluster_folder(folder).mkdir(exist_ok=True)
    for event in self._end() or []:
      on_event(event)
    is_stopped = settings["should_stop"]()
    return TunedPrompt(
      np.ones((2, 4), np.float32), None, "interrupted" if is_stopped else None
    )


def _work(store, model, should_stop=lambda: False):
  worker.work(store, model, store.folder.parent / "prompts", should_stop)


def _raise(error):
  raise error


def test_the_curve_of_a_job_has_about_a_hundred_losses(store, queue):
  """A run takes the periods of any number of steps."""
  for steps in [*range(1, 3000), 10_090, 999_983, 1_000_000]:
    stats, evals = worker._periods(steps)
    assert stats >= 1  # `train` takes no others.
    assert evals % stats == 0
    assert steps // stats < 200
    assert min(steps, 10) <= steps // evals < 20
  model = Model()
  queue(steps=250)
  _work(store, model)
  assert model.periods == [(250, 2, 24)]


def test_jobs_of_a_model_are_not_done_by_another(monkeypatch):
  model = types.SimpleNamespace(fingerprint="new")
  monkeypatch.setattr(worker.pt, "load", lambda *_, **__: model)
  flags = types.SimpleNamespace(checkpoint="base", vocabulary="", dtype="")
  for flags.fingerprint in (None, "new"):
    assert worker._load(flags) is model
  flags.fingerprint = "old"
  with pytest.raises(ValueError, match="base has the fingerprint new"):
    worker._load(flags)


def test_only_the_run_of_a_failed_job_is_kept(store, queue):
  made, never, cancelled, failed, last = (queue() for _ in range(5))
  assert store.cancel(never.id).status == jobs.CANCELLED
  ends = iter(
    [
      lambda: None,
      lambda: store.cancel(cancelled.id) and None,
      lambda: _raise(ValueError("It is not right.")),
      lambda: None,
    ]
  )
  _work(store, Model(lambda: next(ends)()))
  all_jobs = made, never, cancelled, failed, last
  statuses = [store.job(job.id).status for job in all_jobs]
  assert statuses == [
    *("succeeded", "cancelled", "cancelled", "failed", "succeeded")
  ]
  assert store.job(failed.id).error == "It is not right."
  kept = {path.name for path in (store.folder / "runs").iterdir()}
  assert kept == {failed.id, f"{failed.id}.cluster"}
  prompts = {path.stem for path in (store.folder.parent / "prompts").iterdir()}
  assert prompts == {made.prompt, last.prompt}
  assert not store.has_work()


def test_stopped_job_is_left_to_another_worker(store, queue):
  job = queue()
  checkpoint = events.Event("checkpoint", 7, 0, 9)
  asked = []

  def should_stop():  # Once before the job, then within it.
    asked.append(1)
    return len(asked) > 1

  _work(store, Model(lambda: [checkpoint]), should_stop)
  left = store.job(job.id)
  assert (left.status, left.tries, left.saved) == (jobs.RUNNING, 0, 7)
  assert store.run_folder(job).exists()  # The next worker resumes it.
  other = Model()
  _work(JobStore(store.folder), other)
  assert other.folders == [store.run_folder(job)]
  ended = store.job(job.id)
  assert (ended.status, ended.attempts) == (jobs.SUCCEEDED, 2)


def _caused(error, cause):
  error.__cause__ = cause
  return error


@pytest.mark.parametrize(
  ("error", "at_save"),
  [
    (OSError(28, "No space left"), False),
    (sqlite3.OperationalError("It is locked."), False),
    (_caused(ValueError("It cannot be written."), OSError(28, "")), False),
    # A bucket's errors are not Python's own: all of them may pass.
    (RuntimeError("503"), True),
  ],
)
def test_job_is_tried_again_after_an_error_that_may_pass(
  store, queue, monkeypatch, error, at_save
):
  first, second = queue(), queue()
  with monkeypatch.context() as patch:
    if at_save:
      patch.setattr(TunedPrompt, "save", lambda *_: _raise(error))
    model = Model() if at_save else Model(lambda: _raise(error))
    for attempt in range(job_store.MAX_TRIES):
      with pytest.raises(type(error)):
        _work(store, model)
      job = store.job(first.id)
      assert (job.status, job.tries) == ("running", attempt + 1)
      assert store.events(job.id)[-1].message == str(error)
    with pytest.raises(type(error)):
      _work(store, model)
  job = store.job(first.id)
  assert job.status == "failed"
  assert job.error.endswith(f"without progress. The last time: {error}")
  assert (store.job(second.id).status, store.job(second.id).tries) == (
    "running",
    1,
  )
  _work(store, Model())
  assert store.job(second.id).status == "succeeded"


def test_events_of_a_job_that_diverges_are_json(store, queue):
  """JSON has no NaN."""
  metrics = {"train": {"loss": float("nan"), "accuracy": 50.0}}

  def diverge():
    yield events.Event("step", 1, 0, 9)  # Not kept.
    yield events.Event("train", 1, 0, 9, metrics)
    yield events.Event("eval", 1, 0, 9, score=-float("inf"))
    raise FloatingPointError("The loss is nan.")

  job = queue()
  _work(store, Model(diverge))
  assert store.job(job.id).error == "The loss is nan."
  with sqlite3.connect(store.folder / "jobs.sqlite") as connection:
    texts = [row[0] for row in connection.execute("select data from events")]
  connection.close()
  data = [json.loads(text, parse_constant=pytest.fail) for text in texts]
  place = {"step": 1, "steps": 9}
  assert [x for x in data if "steps" in x] == [
    {**place, "metrics": {"train": {"loss": None, "accuracy": 50.0}}},
    {**place, "score": None},
  ]


@pytest.fixture
def main(store, monkeypatch):
  """Returns the worker's `main`, and the signal handlers that it sets."""
  handlers = {}
  monkeypatch.setattr(signal, "signal", handlers.__setitem__)
  monkeypatch.setattr(os, "nice", lambda _: None)
  monkeypatch.setattr(compilation_cache, "enable", lambda: None)
  flags = dict.fromkeys(("checkpoint", "vocabulary", "dtype", "submit"))
  flags |= {"jobs": store.folder, "prompts": store.folder, "fingerprint": None}
  flags["parent"] = os.getppid()
  return lambda **x: worker.main(types.SimpleNamespace(**flags | x)), handlers


def test_worker_whose_server_ended_before_it_began_does_nothing(
  store, queue, main, monkeypatch
):
  job = queue()
  monkeypatch.setattr(os, "getppid", lambda: 2)
  main[0](parent=1)
  assert store.job(job.id).status == "queued"


def test_worker_that_waits_for_another_ends_when_it_is_told_to(store, main):
  run, handlers = main
  with filelock.FileLock(store.folder / "worker.lock"):
    waiting = threading.Thread(target=run, daemon=True)
    waiting.start()
    waiting.join(1)
    assert waiting.is_alive()
    handlers[signal.SIGTERM]()
    waiting.join(10)
    assert not waiting.is_alive()


def _await(condition):
  deadline = time.monotonic() + 400
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
    started.append(worker.Supervisor(store, [sys.executable, *command]))
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
  supervisor, counts = worker.Supervisor(store, ["false"]), [0]
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
  _await(lambda: supervisor.problem is None)
