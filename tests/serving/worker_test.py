"""When a worker tells, what it leaves behind, and what is tried again."""

import json
import sqlite3
import threading
import types

import filelock
import numpy as np
import pytest

from prompt_tuning.inference.tuned_prompt import TunedPrompt
from prompt_tuning.tuning_jobs import job_store, jobs, worker
from prompt_tuning.tuning_jobs.job_store import JobStore
from t5x.runs import compilation_cache, training

LINE = json.dumps({"prompt": "a", "completion": "b"}).encode()


@pytest.fixture
def store(tmp_path):
  return JobStore(tmp_path / "jobs")


def _queue(store, **settings):
  file = store.add_file("data.jsonl", LINE)
  return store.add_job(file.id, None, "mine", jobs.Settings(**settings))


class Model:
  """Makes files as a cluster's run does, then a prompt, or an error."""

  def __init__(self, end=lambda: None):
    self.told, self._end = [], end

  def tune(self, *pairs, folder, stats_period, eval_period, **settings):
    self.told.append((settings["steps"], stats_period, eval_period))
    folder.mkdir(exist_ok=True)
    folder.with_name(f"{folder.name}.cluster").mkdir(exist_ok=True)
    self._end()
    return TunedPrompt(np.ones((2, 4), np.float32), None)


def _work(store, model):
  worker.work(store, model, store.folder, lambda: False)


def test_the_curve_of_a_job_has_about_a_hundred_losses(store):
  """However many steps there are between evaluations."""
  model = Model()
  for steps in (4, 250, 300, 20_000):
    _queue(store, steps=steps)
  _work(store, model)
  assert model.told == [
    (4, 1, 1),
    (250, 2, 24),
    (300, 3, 30),
    (20_000, 200, 2000),
  ]


def test_runs_take_the_periods_of_any_number_of_steps():
  for steps in [*range(1, 3000), 10_090, 999_983, 1_000_000]:
    stats, evals = worker._periods(steps)
    training._check_periods(stats_period=stats, eval_period=evals)
    assert steps // stats < 200
    assert min(steps, 10) <= steps // evals < 20


def test_jobs_of_a_model_are_not_done_by_another(monkeypatch):
  model = types.SimpleNamespace(fingerprint="new")
  monkeypatch.setattr(worker.pt, "load", lambda *_, **__: model)
  for fingerprint in (None, "new"):
    assert worker._load("base", None, "float32", fingerprint) is model
  with pytest.raises(ValueError, match="base has the fingerprint new"):
    worker._load("base", None, "float32", "old")


def test_only_the_run_of_a_failed_job_is_kept(store):
  def fail():
    raise ValueError("It is not right.")

  made, cancelled, failed = (_queue(store) for _ in range(3))
  ends = iter([lambda: None, lambda: store.cancel(cancelled.id), fail])
  _work(store, Model(lambda: next(ends)()))
  statuses = [store.job(job.id).status for job in (made, cancelled, failed)]
  assert statuses == ["succeeded", "cancelled", "failed"]
  kept = {path.name for path in (store.folder / "runs").iterdir()}
  assert kept == {failed.id, f"{failed.id}.cluster"}


def _caused(error, cause):
  error.__cause__ = cause
  return error


@pytest.mark.parametrize(
  "error",
  [
    OSError(28, "No space left"),
    sqlite3.OperationalError("It is locked."),
    _caused(ValueError("It cannot be written."), OSError(28, "No space left")),
  ],
)
def test_job_is_tried_again_after_an_error_that_may_pass(store, error):
  def fail():
    raise error

  job = _queue(store)
  for attempt in range(job_store.MAX_TRIES):
    with pytest.raises(type(error)):
      _work(store, Model(fail))
    job = store.job(job.id)
    assert (job.status, job.tries) == ("running", attempt + 1)
    # The job's own error is that it came no further.
    assert store.events(job.id)[-1].message == str(error)
  _work(store, Model(fail))
  assert store.job(job.id).status == "failed"


def test_finished_prompt_waits_for_a_bucket_that_fails(store, monkeypatch):
  """Whose errors are none of Python's: all of them may pass."""

  def fail(self, path):
    raise RuntimeError("503")

  job = _queue(store)
  with monkeypatch.context() as patch:
    patch.setattr(TunedPrompt, "save", fail)
    with pytest.raises(OSError, match=r"could not be written.*503"):
      _work(store, Model())
  assert store.job(job.id).status == "running"
  _work(store, Model())
  assert store.job(job.id).status == "succeeded"


def test_worker_whose_server_ended_before_it_began_does_nothing(
  store, monkeypatch
):
  job = _queue(store)
  monkeypatch.setattr(worker.signal, "signal", lambda *_: None)
  monkeypatch.setattr(worker.os, "nice", lambda _: None)
  monkeypatch.setattr(compilation_cache, "enable", lambda: None)
  places = (f"--jobs={store.folder}", f"--prompts={store.folder}")
  monkeypatch.setattr(
    "sys.argv", ["worker", "--checkpoint=none", *places, "--parent=1"]
  )
  monkeypatch.setattr(worker.os, "getppid", lambda: 2)
  worker.main()
  assert store.job(job.id).status == "queued"


def test_worker_that_waits_for_another_ends_when_it_is_told_to(
  store, monkeypatch
):
  handlers = {}
  monkeypatch.setattr(worker.signal, "signal", handlers.__setitem__)
  monkeypatch.setattr(worker.os, "nice", lambda _: None)
  monkeypatch.setattr(compilation_cache, "enable", lambda: None)
  places = (f"--jobs={store.folder}", f"--prompts={store.folder}")
  monkeypatch.setattr("sys.argv", ["worker", "--checkpoint=none", *places])
  with filelock.FileLock(store.folder / "worker.lock"):
    waiting = threading.Thread(target=worker.main, daemon=True)
    waiting.start()
    waiting.join(1)
    assert waiting.is_alive()
    handlers[worker.signal.SIGTERM]()
    waiting.join(10)
    assert not waiting.is_alive()
