"""Tests of the files and jobs in a store, and of jobs that it gives up."""

import concurrent.futures
import contextvars
import dataclasses
import json
import time

from damages import DAMAGES
import pytest

from prompt_tuning.tuning_jobs import database, jobs
from prompt_tuning.tuning_jobs.job_store import MAX_TRIES, JobStore

LINE = json.dumps({"prompt": "a", "completion": "b"}).encode()
LONG = LINE.replace(b"a", b"a" * 2**20)


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"", "got an empty file"),
    (b"\n \n", "got an empty file"),
    (b"\xff", "Line 1: .*in UTF-8"),
    (LINE + b"\n\n[]", "Line 3"),
    (b'{"prompt": "a"}', "Line 1"),
    (b'{"prompt": "a", "completion": ""}', "Line 1"),
    (b'{"prompt": 1, "completion": "b"}', "Line 1"),
    (b'{"prompt": "\\ud800", "completion": "b"}', "Line 1"),
    (b"[" * 100_000, "Line 1"),
    (LINE + b"\n" + LONG, "Line 2: expected at most 1048576 byt"),
  ],
)
def test_wrong_files_are_refused(store, content, message):
  with pytest.raises(ValueError, match=message):
    store.add_file("data.jsonl", content)
  assert not store.files()


def test_files_are_kept_as_they_came(store):
  contents = [b"\xef\xbb\xbf" + LINE, LINE + b"\n\n" + LINE + b"\n"]
  files = [store.add_file(f"{len(x)}.jsonl", x) for x in contents]
  assert store.files() == files[::-1]
  assert [file.pairs for file in files] == [1, 2]
  for file, content in zip(files, contents, strict=True):
    assert JobStore(store.folder).content(file.id) == content
    assert [*jobs.parse_examples(content)] == [("a", "b")] * file.pairs
  # One file is deleted before its job is added, the other before it is read.
  store.delete_file(files[0].id)
  with pytest.raises(jobs.UnknownError, match=files[0].id):
    store.add_job(files[1].id, files[0].id, "mine", jobs.Settings())
  store._path(files[1].id).unlink()
  with pytest.raises(jobs.UnknownError, match=files[1].id):
    store.content(files[1].id)


@pytest.mark.parametrize("damage", sorted({*DAMAGES} - {"deleted"}))
def test_damaged_file_is_refused(store, damage):
  id = store.add_file("a.jsonl", LINE).id
  DAMAGES[damage](store.folder / "files" / f"{id}.jsonl")
  with pytest.raises(ValueError, match=f"{id} is damaged .* upload it again"):
    store.content(id)


def test_file_is_not_removed_while_a_job_of_it_is_added(store, monkeypatch):
  file = store.add_file("data.jsonl", LINE).id
  look, removing = database.Database.one, []
  with concurrent.futures.ThreadPoolExecutor() as threads:

    def look_and_remove(*arguments):
      monkeypatch.setattr(database.Database, "one", look)
      found = look(*arguments)
      removing.append(threads.submit(store.delete_file, file))
      concurrent.futures.wait(removing, timeout=0.5)
      return found

    monkeypatch.setattr(database.Database, "one", look_and_remove)
    store.add_job(file, None, "mine", jobs.Settings())
  with pytest.raises(jobs.InUseError):
    removing[0].result()
  assert store.content(file) == LINE


def test_store_of_an_older_version_gets_the_new_columns(store, queue):
  old = queue()
  with store._open() as opened:
    for column in ("jobs drop column metadata", "files drop column owner"):
      opened.execute(f"alter table {column}")
  store = JobStore(store.folder, "base")
  assert store.job(old.id) == old
  assert [file.owner for file in store.files()] == [None]
  new = store.add_job(old.training_file, None, "x", old.settings, {"a": "b"})
  assert store.job(new.id).metadata == {"a": "b"}


def test_nothing_changes_after_a_request_is_refused(store, queue):
  """Requests past their deadline add no job or file, and cancel nothing."""
  job = queue()

  def late(call, *arguments):
    database.deadline.set(time.monotonic() - 1)
    with pytest.raises(TimeoutError, match="time for the request is over"):
      call(*arguments)

  for call in (
    (store.add_job, job.training_file, None, "x", job.settings),
    (store.add_file, "data.jsonl", LINE),
    (store.cancel, job.id),
  ):
    contextvars.copy_context().run(late, *call)
  assert store.jobs() == [job]
  (file,) = (store.folder / "files").iterdir()
  assert file.stem == job.training_file


def test_jobs_in_a_bucket_are_refused():
  with pytest.raises(ValueError, match="Expected a folder on a disk"):
    JobStore("gs://bucket/jobs")


def test_job_that_is_cancelled_as_it_is_claimed_stays_so(store, queue):
  """A job that is cancelled between the query and the claim is not claimed."""
  cancelled, other = queue(), queue()
  look = store._select

  def look_and_cancel(*query):
    found = look(*query)
    store._select = look
    store.cancel(cancelled.id)
    return found

  store._select = look_and_cancel
  assert store.claim().id == other.id
  job = store.job(cancelled.id)
  assert (job.status, job.attempts) == ("cancelled", 0)
  assert store.events(job.id)[-1].message == "Cancelled."


def test_server_may_be_stopped_any_number_of_times(store, queue):
  job = queue()
  for attempt in range(2 * MAX_TRIES):
    store.release(store.claim())
    job = store.job(job.id)
    assert (job.status, job.tries) == (jobs.RUNNING, 0)
    # The supervisor counts these.
    assert store.claims() == job.attempts == attempt + 1


@pytest.mark.parametrize("is_submitted", [False, True])
def test_job_is_given_up_after_tries_without_progress(
  store, queue, is_submitted
):
  job = queue()
  cluster = jobs.cluster_folder(store.run_folder(job))
  cluster.mkdir()
  if is_submitted:
    (cluster / "job").write_text("17")
  for step in range(2 * MAX_TRIES):
    store.claim()
    store.advance(job, step)
    assert store.job(job.id).tries == 1
  # Workers die before a checkpoint, or after one that was reached earlier.
  for tries, steps in enumerate([(), (step,), (step - 1, step), ()], 2):
    store.claim()
    for reached in steps:
      store.advance(job, reached)
    assert store.job(job.id).tries == tries == store.job(job.id).attempts - step
    assert not (cluster / "stop").exists()
  assert store.claim() is None
  job = store.job(job.id)
  assert job.status == jobs.FAILED
  assert job.error == "It ended its worker 5 times without progress."
  assert job.attempts == 2 * MAX_TRIES + 4
  # The cluster's job reads this file.
  assert (cluster / "stop").exists() == is_submitted


def test_job_that_has_ended_keeps_its_score(store, queue):
  job = queue()
  store.finish(job, jobs.SUCCEEDED, score=87.5, step=300)
  ended = store.job(job.id)
  assert (ended.status, ended.score, ended.step) == (jobs.SUCCEEDED, 87.5, 300)
  store.finish(job, jobs.FAILED, error="Too late.", score=1.0, step=1)
  store.cancel(job.id)
  assert store.job(job.id) == dataclasses.replace(ended, is_cancelled=True)


def test_each_model_has_its_own_jobs(tmp_path, queue):
  stores = [JobStore(tmp_path, f"model_{x}", x) for x in "ab"]
  queued = [queue(store) for store in stores]
  assert [job.model for job in queued] == ["model_a", "model_b"]
  for _ in range(2):  # The older job belongs to the first store.
    assert stores[1].claim().id == queued[1].id
  assert (stores[0].claims(), stores[1].claims()) == (0, 2)
  stores[1].finish(queued[1], jobs.SUCCEEDED)
  assert stores[1].claim() is None
  assert [store.has_work() for store in stores] == [True, False]


@pytest.mark.parametrize("is_submitted", [False, True])
def test_cancelled_job_of_another_model_is_ended_not_tuned(
  tmp_path, queue, is_submitted
):
  """Another model's worker ends the job, as its own may never start again."""
  old, new = (JobStore(tmp_path, f"model_{x}", x) for x in "ab")
  job = queue(old)
  old.claim()
  cluster = jobs.cluster_folder(old.run_folder(job))
  cluster.mkdir()
  if is_submitted:
    (cluster / "job").write_text("17")
  for is_work in (False, True, False):
    assert new.has_work() == is_work
    assert new.claim() is None
    if not is_work:
      new.cancel(job.id)
  ended = new.job(job.id)
  assert (ended.status, ended.error) == (jobs.CANCELLED, None)
  assert ended.attempts == 1
  # The run is deleted, except for the file that stops the cluster's job.
  assert cluster.exists() == (cluster / "stop").exists() == is_submitted
