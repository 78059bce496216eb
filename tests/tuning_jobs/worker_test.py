"""Tests of the worker's events, files and retries, and of its supervisor."""

import contextlib
import functools
import os
import signal
import sqlite3
import threading
import types
from unittest import mock

import filelock
import numpy as np
import pytest
import seqio
import started
import tiny

import prompt_tuning as pt
from prompt_tuning.inference.requests import TunedPrompt
from prompt_tuning.tuning_jobs import job_store, jobs, restarts, worker
from prompt_tuning.tuning_jobs.job_store import JobStore
from t5x.runs import events


class Model:
  """A model that makes a cluster run's folders, then a prompt or an error."""

  def __init__(self, end=lambda: None):
    self._end = end

  def tune(self, *pairs, folder, on_event, should_stop, **settings):
    self.folder, self.settings = folder, settings
    folder.mkdir(exist_ok=True)
    jobs.cluster_folder(folder).mkdir(exist_ok=True)
    for event in self._end() or []:
      on_event(event)
    status = "interrupted" if should_stop() else None
    return TunedPrompt(np.ones((2, 4), np.float32), None, status)


def _work(store, model, should_stop=lambda: False):
  worker.work(store, model.tune, store.folder.parent / "prompts", should_stop)


def test_the_curve_of_a_job_has_about_a_hundred_losses(store, queue):
  model = Model()
  queue(steps=250)
  _work(store, model)
  periods = {"stats_period": 2, "eval_period": 24}
  assert model.settings.items() > periods.items()


def test_jobs_of_a_model_are_not_done_by_another(monkeypatch):
  model = types.SimpleNamespace(fingerprint="new")
  monkeypatch.setattr(worker.pt, "load", lambda *_, **__: model)
  flags = types.SimpleNamespace(**dict.fromkeys(worker.OF_MODEL, "base"))
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
      mock.Mock(side_effect=ValueError("It is not right.")),
      lambda: None,
    ]
  )
  _work(store, Model(lambda: next(ends)()))
  for status, *some in (
    (jobs.SUCCEEDED, made, last),
    (jobs.CANCELLED, never, cancelled),
    (jobs.FAILED, failed),
  ):
    assert {store.job(job.id).status for job in some} == {status}
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

  def should_stop():  # The first call is before the job, the next within it.
    asked.append(1)
    return len(asked) > 1

  _work(store, Model(lambda: [checkpoint]), should_stop)
  left = store.job(job.id)
  assert (left.status, left.tries, left.saved) == (jobs.RUNNING, 0, 7)
  assert store.run_folder(job).exists()  # The next worker resumes it.
  other = Model()
  _work(JobStore(store.folder), other)
  assert other.folder == store.run_folder(job)
  ended = store.job(job.id)
  assert (ended.status, ended.attempts) == (jobs.SUCCEEDED, 2)


def test_run_of_another_dtype_starts_again(base, tmp_path):
  """A stopped run starts over if the model's dtype changed meanwhile."""
  words = seqio.ByteVocabulary()
  pairs, seen = [("a dull film", "bad"), ("a fine film", "good")], []
  tune = functools.partial(
    restarts.tune,
    **{"length": 2, "steps": 4, "eval_period": 2, "batch_size": 2},
    folder=tmp_path / "run",
    on_event=seen.append,
  )
  stopped = tune(
    pt.load(base, words).tune,
    *(pairs, pairs),
    should_stop=lambda: any(x.kind == "checkpoint" for x in seen),
  )
  assert stopped.status == "interrupted"
  half = pt.load(base, words, "bfloat16")
  seen.clear()
  tuned = tune(half.tune, pairs, pairs, should_stop=lambda: False)
  assert tuned.status == "finished"
  assert any(x.text.startswith("The job starts again") for x in seen)
  assert min(x.step for x in seen if x.kind == "step") == tiny.BASE_STEP + 1


@pytest.mark.parametrize(
  ("error", "at_save"),
  [
    (OSError(28, "No space left"), False),
    (sqlite3.OperationalError("It is locked."), False),
    (ValueError("It cannot be written."), False),
    # Buckets raise errors of other types, and any of them may be temporary.
    (RuntimeError("503"), True),
  ],
)
def test_job_is_tried_again_after_an_error_that_may_pass(
  store, queue, monkeypatch, error, at_save
):
  first, second = queue(), queue()
  if isinstance(error, ValueError):
    error.__cause__ = OSError(28, "No space left")
  fail = mock.Mock(side_effect=error)
  with monkeypatch.context() as patch:
    model = Model() if at_save else Model(fail)
    patch.setattr(TunedPrompt, "save", fail)
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
  other = store.job(second.id)
  assert (other.status, other.tries) == ("running", 1)
  _work(store, Model())
  assert store.job(second.id).status == "succeeded"


def test_events_of_a_job_that_diverges_are_json(store, queue):
  """NaN and infinity become null, because JSON has neither."""
  metrics = {"train": {"loss": float("nan"), "accuracy": 50.0}}

  def diverge():
    yield events.Event("step", 1, 0, 9)  # The store does not keep steps.
    yield events.Event("train", 1, 0, 9, metrics)
    yield events.Event("eval", 1, 0, 9, score=-float("inf"))
    raise FloatingPointError("The loss is nan.")

  job = queue()
  _work(store, Model(diverge))
  assert store.job(job.id).error == "The loss is nan."
  place = {"step": 1, "steps": 9}
  data = [x.data for x in store.events(job.id)]
  assert [x for x in data if "steps" in x] == [
    {**place, "metrics": {"train": {"loss": None, "accuracy": 50.0}}},
    {**place, "score": None},
  ]


def test_worker_ends_with_its_server_or_when_it_is_told_to(
  store, queue, monkeypatch
):
  handlers = {}
  monkeypatch.setattr(signal, "signal", handlers.__setitem__)
  monkeypatch.setattr(os, "nice", lambda _: None)
  flags = dict.fromkeys((*worker.OF_MODEL, "submit"))
  flags |= {"jobs": store.folder, "prompts": store.folder, "fingerprint": None}
  job = queue()
  # The server ended before the worker started.
  worker.main(types.SimpleNamespace(**flags, parent=0))
  assert store.job(job.id).status == "queued"
  flags = types.SimpleNamespace(**flags, parent=os.getppid())
  with filelock.FileLock(store.folder / "worker.lock"):
    waiting = threading.Thread(target=worker.main, args=[flags], daemon=True)
    waiting.start()
    waiting.join(1)
    assert waiting.is_alive()
    handlers[signal.SIGTERM]()
    waiting.join(10)
    assert not waiting.is_alive()


def test_worker_that_cannot_begin_is_started_less_and_less_often(
  store, queue, monkeypatch
):
  """Pauses between failed workers double, up to five minutes."""
  queue()
  supervisor, pauses = worker.Supervisor(store, []), []

  def wait(seconds):
    pauses.append(seconds)
    supervisor.wake()  # A new job does not shorten the pause.
    if len(pauses) == 8:
      supervisor.stop()

  monkeypatch.setattr(supervisor._end, "wait", wait)
  monkeypatch.setattr(supervisor, "_run_worker", lambda failures: failures + 1)
  supervisor.run()
  assert pauses == [5, 10, 20, 40, 80, 160, 300, 300]


@pytest.mark.parametrize(
  ("longest", "failures"), [(300, [1, 2, 3]), (0, [1] * 3)]
)
def test_failures_at_a_job_are_counted_too(
  store, monkeypatch, longest, failures
):
  """Failures in a row add up until a worker runs for long or succeeds."""
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


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_problem_is_over_when_no_job_waits(
  store, queue, monkeypatch, is_cancelled
):
  monkeypatch.setattr(worker, "_JOBS_SECONDS", 0.05)
  monkeypatch.setattr(worker, "_FIRST_PAUSE", 0.05)
  job, supervisor = queue(), worker.Supervisor(store, ["false"])
  with contextlib.closing(supervisor):
    supervisor.start()
    started.wait(lambda: supervisor.problem is not None)
    assert "worker(s) in a row failed, the last with code 1 before" in (
      supervisor.problem
    )
    if is_cancelled:
      store.cancel(job.id)
    else:
      supervisor._command = ["sleep", "60"]
      started.wait(lambda: supervisor._process.args == ["sleep", "60"])
      store.claim()
    started.wait(lambda: supervisor.problem is None)
  ended = 1 if is_cancelled else -signal.SIGTERM
  assert supervisor._process.returncode == ended
