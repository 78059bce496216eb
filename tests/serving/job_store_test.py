"""What a store of jobs counts and keeps, also one that is older."""

import asyncio
import concurrent.futures
import dataclasses
import json
import sqlite3
import types

import fastapi
import httpx
import pytest

from prompt_tuning.inference.tuned_prompt import TunedPrompt
from prompt_tuning.serving import job_routes
from prompt_tuning.tuning_jobs import job_store, jobs, worker
from prompt_tuning.tuning_jobs.job_store import JobStore
from t5x.runs import events

LINE = json.dumps({"prompt": "a", "completion": "b"}).encode()


@pytest.fixture
def store(tmp_path):
  return JobStore(tmp_path / "jobs")


def _queue(store):
  file = store.add_file("data.jsonl", LINE)
  return store.add_job(file.id, None, "mine", jobs.Settings())


class Stopped:
  """Tells of checkpoints, then is interrupted, or its process dies."""

  def __init__(self, *steps, dies=False):
    self._steps, self._dies = steps, dies

  def tune(self, *pairs, on_event, **settings):
    for step in self._steps:
      on_event(events.Event("checkpoint", step, 0, 9))
    if self._dies:
      raise KeyboardInterrupt
    return TunedPrompt(None, None, "interrupted")


def _die(store, tmp_path, *steps):
  with pytest.raises(KeyboardInterrupt):
    worker.work(store, Stopped(*steps, dies=True), tmp_path, lambda: False)


def test_run_of_a_job_that_is_cancelled_while_no_worker_is_there_goes(store):
  job = _queue(store)
  store.claim()
  store.run_folder(job).mkdir()
  store.cancel(job.id)
  assert store.claim() is None
  assert store.job(job.id).status == jobs.CANCELLED
  assert not store.run_folder(job).exists()


def test_server_may_be_stopped_as_often_as_one_likes(store, tmp_path):
  job = _queue(store)
  for attempt in range(2 * job_store.MAX_TRIES):
    worker.work(store, Stopped(), tmp_path, lambda: False)
    job = store.job(job.id)
    assert (job.status, job.tries) == (jobs.RUNNING, 0)
    # The supervisor counts these.
    assert store.claims() == job.attempts == attempt + 1


def test_job_that_comes_further_may_end_its_workers(store, tmp_path):
  job = _queue(store)
  for step in range(2 * job_store.MAX_TRIES):
    _die(store, tmp_path, step)
    assert store.job(job.id).tries == 1
  # No further: it dies before a checkpoint, or at one that it came to before.
  for tries, steps in enumerate([(), (step,), (step - 1, step), ()], 2):
    _die(store, tmp_path, *steps)
    assert store.job(job.id).tries == tries == store.job(job.id).attempts - step
  assert store.claim() is None
  job = store.job(job.id)
  assert job.error == "It ended its worker 5 times and came no further."
  assert job.attempts == 2 * job_store.MAX_TRIES + 4


def test_job_that_has_ended_keeps_its_score(store):
  job = _queue(store)
  store.finish(job, jobs.SUCCEEDED, score=87.5, step=300)
  ended = store.job(job.id)
  assert (ended.status, ended.score, ended.step) == (jobs.SUCCEEDED, 87.5, 300)
  store.finish(job, jobs.FAILED, error="Too late.", score=1.0, step=1)
  store.cancel(job.id)
  assert store.job(job.id) == dataclasses.replace(ended, is_cancelled=True)


class Diverging:
  """Tells of a loss that is not a number, which ends it."""

  def tune(self, *pairs, on_event, **settings):
    metrics = {"train": {"loss": float("nan"), "accuracy": 50.0}}
    on_event(events.Event("train", 1, 0, 9, metrics))
    on_event(events.Event("eval", 1, 0, 9, score=-float("inf")))
    raise FloatingPointError("The loss is nan.")


def _strictly(text):
  """Reads JSON as browsers do: it has no NaN."""
  return json.loads(text, parse_constant=pytest.fail)


def test_events_of_a_job_that_diverges_are_json(store, tmp_path):
  job = _queue(store)
  worker.work(store, Diverging(), tmp_path, lambda: False)
  assert store.job(job.id).error == "The loss is nan."
  with sqlite3.connect(store.folder / "jobs.sqlite") as connection:
    told = [row[0] for row in connection.execute("select data from events")]
    # As earlier releases wrote it.
    connection.execute(
      "insert into events (job, created, kind, message, data) "
      "values (?, 0, 'train', '', '{\"loss\": NaN}')",
      [job.id],
    )
  connection.close()
  found = [data for text in told if "steps" in (data := _strictly(text))]
  place = {"step": 1, "steps": 9}
  assert found == [
    {**place, "metrics": {"train": {"loss": None, "accuracy": 50.0}}},
    {**place, "score": None},
  ]

  server = fastapi.FastAPI()
  service = types.SimpleNamespace(is_stopping=False)
  server.include_router(job_routes.router(service, store, lambda: None))
  path = f"/v1/fine_tuning/jobs/{job.id}/events"

  async def ask(**query):
    transport = httpx.ASGITransport(server)
    async with httpx.AsyncClient(
      transport=transport, base_url="http://served"
    ) as client:
      return await client.get(path, params=query)

  answer = asyncio.run(ask())
  assert answer.status_code == 200
  listed = [event["data"] for event in _strictly(answer.text)["data"]]
  lines = asyncio.run(ask(stream=True)).text.split("\n")
  streamed = [
    _strictly(line.removeprefix("data: "))["data"]
    for line in lines
    if line.startswith("data: {")
  ]
  assert listed == streamed[::-1]
  assert listed[0] == {"loss": None}
  assert [data for data in streamed if "steps" in data] == found


def test_store_of_an_earlier_release_is_opened(store):
  job = _queue(store)
  store.claim()
  with sqlite3.connect(store.folder / "jobs.sqlite") as connection:
    for name in ("tries", "saved", "model", "fingerprint"):
      connection.execute(f"alter table jobs drop column {name}")
  connection.close()
  for _ in range(2):
    store = JobStore(store.folder, "tiny", "f")
    assert store.job(job.id).tries == 0
  assert store.claim().attempts == 2
  store.advance(job, 0)
  assert store.job(job.id).tries == 1


def test_each_model_has_its_own_jobs(tmp_path):
  stores = [JobStore(tmp_path, f"model_{x}", x) for x in "ab"]
  queued = [_queue(store) for store in stores]
  assert [job.model for job in queued] == ["model_a", "model_b"]
  for _ in range(2):  # The older one is the first's.
    assert stores[1].claim().id == queued[1].id
  assert (stores[0].claims(), stores[1].claims()) == (0, 2)
  stores[1].finish(queued[1], jobs.SUCCEEDED)
  assert stores[1].claim() is None
  assert [store.has_work() for store in stores] == [True, False]


@pytest.mark.parametrize("is_submitted", [False, True])
def test_cancelled_job_of_another_model_is_ended_not_tuned(
  tmp_path, is_submitted
):
  """Its own worker never comes again if its model was replaced."""
  old, new = (JobStore(tmp_path, f"model_{x}", x) for x in "ab")
  job = _queue(old)
  old.claim()
  folder = old.run_folder(job)
  place = folder.with_name(f"{folder.name}.cluster")
  place.mkdir()
  if is_submitted:
    (place / "job").write_text("17")
  assert new.claim() is None
  assert not new.has_work()
  new.cancel(job.id)
  assert new.has_work()
  assert new.claim() is None
  assert not new.has_work()
  ended = new.job(job.id)
  assert (ended.status, ended.error) == (jobs.CANCELLED, None)
  assert ended.attempts == 1
  # The cluster's job is to read it.
  assert (place / "stop").exists() == is_submitted


def test_file_is_not_removed_while_a_job_of_it_is_added(store, monkeypatch):
  file = store.add_file("data.jsonl", LINE).id
  look, removing = job_store._file, []
  with concurrent.futures.ThreadPoolExecutor() as threads:

    def look_and_remove(*arguments):
      monkeypatch.setattr(job_store, "_file", look)
      found = look(*arguments)
      removing.append(threads.submit(store.delete_file, file))
      concurrent.futures.wait(removing, timeout=0.5)
      return found

    monkeypatch.setattr(job_store, "_file", look_and_remove)
    store.add_job(file, None, "mine", jobs.Settings())
  with pytest.raises(job_store.InUseError):
    removing[0].result()
  assert store.content(file) == LINE


def test_long_line_is_refused_before_it_is_read(store):
  line = json.dumps({"prompt": "a", "completion": "b"}).encode()
  content = line + b"\n" + line.replace(b"a", b"a" * 2**20)
  with pytest.raises(ValueError, match="Line 2: expected at most 1048576 byt"):
    store.add_file("data.jsonl", content)
  assert not store.files()


def test_newest_file_is_first(store):
  ids = [store.add_file(f"{i}.jsonl", LINE).id for i in range(3)]
  assert [file.id for file in store.files()] == ids[::-1]


def test_jobs_in_a_bucket_are_refused():
  with pytest.raises(ValueError, match="Expected a folder on a disk"):
    JobStore("gs://bucket/jobs")
