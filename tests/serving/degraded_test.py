"""Tests that a server whose folders fail answers, reports it, and recovers."""

import contextlib
import errno
import functools
import re
import sqlite3
import threading
import time
from unittest import mock

import pytest
import served

from prompt_tuning.serving import prompt_store
from prompt_tuning.serving import service as service_lib
from prompt_tuning.tuning_jobs import database, job_store
from t5x.files import safe_files

LINE = b'{"prompt": "a", "completion": "b"}'
UPLOAD = {"files": {"file": LINE}, "data": {"purpose": "fine-tune"}}
JOBS = "/v1/fine_tuning/jobs"
HEALTH = ("GET", "/healthz", {})


@contextlib.contextmanager
def _locked(store):
  database = sqlite3.connect(store.folder / "jobs.sqlite")
  with contextlib.closing(database) as other:
    other.execute("begin immediate")
    yield


@contextlib.contextmanager
def _changed(store, change):
  """Damages the database, then restores it from a copy."""
  path = store.folder / "jobs.sqlite"
  copy = path.read_bytes()
  path.write_bytes(change(copy))
  yield
  path.write_bytes(copy)


@contextlib.contextmanager
def _away(store):
  """Replaces the folder by an empty one, as if its disk were unmounted."""
  away = store.folder.with_name("away")
  store.folder.rename(away)
  store.folder.mkdir()
  yield
  store.folder.rmdir()
  away.rename(store.folder)


@contextlib.contextmanager
def _full(store):
  def insert(self, row):
    self.execute("pragma max_page_count = 1")
    self.execute("create table big as select randomblob(99999)")

  error = OSError(errno.ENOSPC, "No space left on device", "/tmp/x")
  usage = mock.Mock(free=0)
  with (
    mock.patch.object(database.Database, "insert", insert),
    mock.patch.object(safe_files, "write", side_effect=error),
    mock.patch.object(job_store.shutil, "disk_usage", return_value=usage),
  ):
    yield


@pytest.mark.parametrize(
  ("failure", "status", "reason", "failing"),
  [
    (_locked, 503, "database is locked", "create upload"),
    (_full, 507, "is full|No space left on device", "create upload"),
    (_away, 503, "No such file or directory", "create upload list"),
    *(
      (functools.partial(_changed, change=x), 503, reason, "create upload list")
      for x, reason in (
        (lambda x: x.replace(b"seed", b"sead"), "a row is damaged: .*sead"),
        (lambda _: b"no database" * 999, "file is not a database"),
        (lambda _: b"", "jobs.sqlite: it is missing or empty"),
        (lambda x: x.replace(b"tries", b"tr\xffes"), "no such column: tries"),
        (lambda x: x.replace(b"TABLE", b"TA\xffLE"), "schema is damaged"),
      )
    ),
  ],
)
def test_store_of_jobs_fails(
  service, store, monkeypatch, failure, status, reason, failing
):
  monkeypatch.setattr(database, "_REQUEST_PATIENCE", 0.1)
  file = store.add_file("data.jsonl", LINE).id
  body = {"model": served.BASE, "training_file": file}
  requests = {
    "create": ("POST", JOBS, {"json": body}),
    "upload": ("POST", "/v1/files", UPLOAD),
    "list": ("GET", JOBS, {}),
    "metrics": ("GET", "/metrics", {}),
    "page": ("GET", "/", {}),
  }

  def send():
    answers = served.send_all(service, requests.values())
    return dict(zip(requests, answers, strict=True))

  def health():
    return served.send(service, *HEALTH[:2]).json()

  before = send()
  assert {x.status_code for x in before.values()} == {200}
  assert health() == {"status": "ok"}
  with failure(store):
    for name, answer in send().items():
      if name in failing.split():
        served.check_error(answer, status, reason)
      else:
        assert answer.status_code == 200
    found = health()
    assert found["status"] == "degraded"
    assert re.search(reason, found["jobs"])
    assert served.complete(service).status_code == 200
  assert health() == {"status": "ok"}
  assert {x.status_code for x in send().values()} == {200}
  assert len(store.jobs()) == 2
  if "upload" in failing:
    kept = {path.stem for path in (store.folder / "files").iterdir()}
    assert kept == {file.id for file in store.files()}


def test_many_creates_hold_up_nobody_and_queue_nothing(
  service, store, monkeypatch
):
  monkeypatch.setattr(database, "_REQUEST_PATIENCE", 0.3)
  monkeypatch.setattr(service_lib, "_WAIT_SECONDS", 0.5)
  file = store.add_file("data.jsonl", LINE).id
  body = {"model": served.BASE, "training_file": file}
  create, page = ("POST", JOBS, {"json": body}), ("GET", "/", {})
  start = time.monotonic()
  with _locked(store):
    sent = [create] * 45 + [page]
    *answers, page = served.send_all(service, sent, together=True)
  assert page.status_code == 200
  assert time.monotonic() - start < 45 * 0.3  # One by one takes this long.
  reasons = set()
  for answer in answers:
    served.check_error(answer, 503, "database is locked|did not answer in time")
    reasons.add(answer.json()["error"]["message"])
    assert int(answer.headers["retry-after"]) > 0
  assert len(reasons) == 2
  service.job_threads._pool.shutdown()  # Waits for requests that had begun.
  assert not store.jobs()


def test_folder_of_jobs_hangs(service, store, monkeypatch):
  may_end = threading.Event()
  monkeypatch.setattr(service_lib, "_SECONDS", 0.3)
  with monkeypatch.context() as patch:
    patch.setattr(store, "jobs", lambda: may_end.wait(60) and [])
    sent = [("GET", JOBS, {})] * 6 + [HEALTH, ("GET", "/", {})]
    *lists, health, page = served.send_all(service, sent, together=True)
  for answer in lists:
    served.check_error(answer, 503, "jobs did not answer in time")
  assert "did not answer in time" in health.json()["jobs"]
  assert page.status_code == served.complete(service).status_code == 200
  may_end.set()
  assert served.send(service, "GET", JOBS).json()["data"] == []
  assert served.send(service, *HEALTH[:2]).json() == {"status": "ok"}


def test_folder_of_prompts_hangs_or_fails(service, prompts, monkeypatch):
  may_end, files = threading.Event(), service.store._files
  for name, value in (("_PATIENCE", 0.05), ("_LONGEST", 0.2)):
    monkeypatch.setattr(prompt_store, name, value)
  service.store._period = 0.0
  put = ("PUT", "/v1/prompts/new", {"content": served.npy(prompts[3].array)})
  unknown = ("GET", "/v1/models/none", {})
  stale = mock.Mock(side_effect=OSError(errno.ESTALE, "Stale file handle"))
  for look, problem, refused in (
    (stale, "cannot be listed: Stale file handle", "Stale|found or read"),
    (lambda: may_end.wait(60) and files(), "not answered for", "answer"),
  ):
    monkeypatch.setattr(service.store, "_files", look)
    *answers, health = served.send_all(service, [put, unknown, HEALTH])
    for answer in answers:
      served.check_error(answer, 503, refused)
    assert health.json()["status"] == "degraded"
    assert problem in health.json()["prompts"]
    assert served.complete(service).status_code == 200
    assert len(served.send(service, "GET", "/v1/models").json()["data"]) == 3
  may_end.set()
  monkeypatch.setattr(service.store, "_files", files)
  assert served.complete(service, model="new").status_code == 200
  assert served.send(service, *HEALTH[:2]).json() == {"status": "ok"}
