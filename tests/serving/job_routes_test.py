"""What is shown of jobs."""

import json
import sqlite3

import pytest
import served

from prompt_tuning.serving import job_routes
from prompt_tuning.tuning_jobs import jobs
from prompt_tuning.tuning_jobs.job_store import JobStore

LINE = json.dumps({"prompt": "a", "completion": "b"}).encode()
JOBS = "/v1/fine_tuning/jobs"


@pytest.fixture
def store(tmp_path):
  return JobStore(tmp_path / "jobs", "another", "fingerprint")


@pytest.fixture
def ask(service, store):
  """Returns what a path answers."""
  router = job_routes.router(service, store, lambda: None)
  return lambda path, **options: served.send(
    service, "GET", f"{JOBS}{path}", router, **options
  )


@pytest.fixture
def job(store):
  file = store.add_file("data.jsonl", LINE)
  return store.add_job(file.id, None, "mine", jobs.Settings())


def test_job_of_another_model_says_so(job, ask):
  assert ask(f"/{job.id}").json()["model"] == "another"


def test_file_that_is_deleted_meanwhile_is_not_found(
  service, store, monkeypatch
):
  file = store.add_file("data.jsonl", LINE)
  router = job_routes.router(service, store, lambda: None)
  monkeypatch.setattr(store, "file", lambda id: file)
  store.delete_file(file.id)
  for method, path, body in (
    ("POST", JOBS, {"model": served.BASE, "training_file": file.id}),
    ("GET", f"/v1/files/{file.id}/content", None),
  ):
    response = served.send(service, method, path, router, json=body)
    served.check_error(response, 404, "There is no file")
  training = store.add_file("data.jsonl", LINE)
  monkeypatch.undo()
  monkeypatch.setattr(store, "pairs", lambda id: [])
  body = {
    "model": served.BASE,
    "training_file": training.id,
    "validation_file": file.id,
  }
  response = served.send(service, "POST", JOBS, router, json=body)
  served.check_error(response, 404, f"There is no file '{file.id}'")


def test_validation_that_has_no_room_in_memory_is_refused(service, store):
  long = json.dumps({"prompt": "a " * 600, "completion": "b"}).encode()
  files = [store.add_file(f"{i}.jsonl", x) for i, x in enumerate((LINE, long))]
  router = job_routes.router(service, store, lambda: None)
  for short, status in ((True, 200), (False, 400)):
    body = {
      "model": served.BASE,
      "training_file": files[1].id,
      "validation_file": files[not short].id,
    }
    response = served.send(service, "POST", JOBS, router, json=body)
    assert response.status_code == status, response.text
  served.check_error(response, 400, "one of example 1 has more")


def test_all_of_many_events_are_told(job, store, ask):
  with sqlite3.connect(store.folder / "jobs.sqlite") as connection:
    connection.executemany(
      "insert into events (job, created, kind, message, data) "
      "values (?, 0, 'train', ?, '{}')",
      [(job.id, str(i)) for i in range(2500)],
    )
  connection.close()
  store.cancel(job.id)
  path = f"/{job.id}/events"
  page = ask(path, params={"limit": 2}).json()
  texts = [event["message"] for event in page["data"]]
  assert (texts, page["has_more"]) == (["Cancelled.", "2499"], True)
  last = ask(path, params={"limit": 1, "after": page["last_id"]}).json()
  assert last["data"][0]["message"] == "2498"
  for number in ("", "9" * 30, "\xb2"):
    headers = {"Last-Event-ID": number.encode("latin-1")}
    told = ask(path, params={"stream": True}, headers=headers).text
    assert told.count("id: ") == 2502
    assert told.endswith("data: [DONE]\n\n")
  for name, value in (("after", page["last_id"]), ("limit", 1)):
    refused = ask(path, params={"stream": True, name: value})
    served.check_error(refused, 400, f"no {name} of a stream: .*Last-Event-ID")


def test_files_have_an_order_and_a_purpose(service, store):
  added = [store.add_file(f"{i}.jsonl", LINE).id for i in range(3)]
  router = job_routes.router(service, store, lambda: None)

  def listed(**query):
    answer = served.send(service, "GET", "/v1/files", router, params=query)
    return [file["id"] for file in answer.json()["data"]]

  newest_first = listed()
  assert sorted(newest_first) == sorted(added)
  assert listed(order="asc") == newest_first[::-1]
  assert listed(order="asc", after=newest_first[1]) == newest_first[:1]
  assert listed(order="desc", purpose="fine-tune") == newest_first
  assert listed(purpose="batch") == []
