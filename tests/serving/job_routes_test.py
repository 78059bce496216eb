"""Files and jobs over HTTP, from an upload to an answer."""

import asyncio
import json
import sqlite3
import threading
import types

import openai
import pytest
import served

from prompt_tuning.tuning_jobs import jobs, worker
from prompt_tuning.tuning_jobs.job_store import JobStore

LINE = json.dumps({"prompt": "a", "completion": "b"}).encode()
PAIRS = [("abc", "no"), ("abxc", "yes"), ("x", "yes"), ("h", "no")] * 2
LINES = b"\n".join(
  json.dumps({"prompt": x, "completion": y}).encode() for x, y in PAIRS
)
JOBS = "/v1/fine_tuning/jobs"


@pytest.fixture
def store(service, tmp_path):
  service.jobs = JobStore(tmp_path / "jobs", "another", "fingerprint")
  return service.jobs


@pytest.fixture
def ask(service, store):
  """Returns a function that sends a request: GET, or POST with a body."""

  def send(path, body=None, **options):
    method = "GET" if body is None else "POST"
    return served.send(service, method, path, json=body, **options)

  return send


@pytest.fixture
def job(store):
  file = store.add_file("data.jsonl", LINE)
  return store.add_job(file.id, None, "mine", jobs.Settings())


def _events(text):
  """Returns (id, content) of server-sent events."""
  found = []
  for lines in text.split("\n\n"):
    if lines.startswith("id: "):
      id, data = lines.split("\n")
      found.append(
        (id.removeprefix("id: "), json.loads(data.removeprefix("data: ")))
      )
  assert text.endswith("data: [DONE]\n\n")
  return found


def test_openai_s_client_from_upload_to_answer(
  service, store, model, monkeypatch
):
  woken = []
  supervisor = types.SimpleNamespace(wake=lambda: woken.append(1), close=None)
  monkeypatch.setattr(service, "supervisor", supervisor)

  async def run():
    async with served.client(service) as http:
      client = openai.AsyncOpenAI(
        api_key="any", base_url="http://served/v1", http_client=http
      )
      file = await client.files.create(
        file=("data.jsonl", LINES), purpose="fine-tune"
      )
      assert (await client.files.content(file.id)).content == LINES
      assert [x.id async for x in client.files.list()] == [file.id]
      tuning = client.fine_tuning.jobs
      job = await tuning.create(
        model=served.BASE,
        training_file=file.id,
        validation_file=file.id,
        suffix="mine",
        seed=3,
        hyperparameters={
          "length": 2,
          "steps": 4,
          "init": "random_uniform",
          "batch_size": 4,
        },
      )
      assert (job.status, woken) == ("queued", [1])
      with pytest.raises(openai.ConflictError, match="needs"):
        await client.files.delete(file.id)
      await asyncio.to_thread(
        worker.work, store, model, service.store.folder, lambda: False
      )
      job = await tuning.retrieve(job.id)
      assert job.status == "succeeded"
      name = job.fine_tuned_model
      answer = await client.completions.create(
        model=name, prompt="abc", max_tokens=5
      )
      expected = model.generate(["abc"], service.store.get(name).array, 5)
      assert answer.choices[0].text == expected[0]
      events = [x async for x in tuning.list_events(job.id)]
      assert events[0].data == {"status": "succeeded"}
      assert [x.id async for x in tuning.list()] == [job.id]
      with pytest.raises(openai.BadRequestError, match="is over"):
        await tuning.cancel(job.id)
      assert (await client.files.delete(file.id)).deleted

  asyncio.run(run())


def test_job_of_another_model_names_it(job, ask):
  assert ask(f"{JOBS}/{job.id}").json()["model"] == "another"


def test_wrong_jobs_are_refused(service, store, ask):
  file = store.add_file("data.jsonl", LINES).id
  good = {"model": served.BASE, "training_file": file}
  rate = r"a learning rate in \(0, 100\]"
  cases = [
    ({"model": "other"}, 404, "model", "tuned for 'tiny'"),
    ({"training_file": "../x"}, 404, None, "no file"),
    ({"validation_file": "x"}, 404, None, "no file"),
    ({"suffix": "../x"}, 400, "suffix", "suffix"),
    ({"seed": -1}, 400, "seed", "seed"),
    ({"integrations": []}, 400, "integrations", "integrations"),
    *(
      (
        {"training_file": training, "hyperparameters": {name: value}},
        400,
        f"hyperparameters.{name}",
        message,
      )
      for training, name, value, message in (
        (file, "length", -1, "length"),
        (file, "length", 7, "at most 6"),
        (file, "batch_size", 9, "from 1 to 8"),
        (file, "batch_size", 1025, "than or equal to 1024"),
        (file, "learning_rate", 0, "learning_rate"),
        (file, "init", "best", "init"),
        (file, "n_epochs", 0, "n_epochs"),
        (file, "n_epochs", 10**400, "at most"),
        *((file, "learning_rate_multiplier", x, rate) for x in (-1, 0, 1e6)),
      )
    ),
  ]
  posts = [("POST", JOBS, {"json": good | changes}) for changes, *_ in cases]
  responses = served.send_all(service, posts)
  for response, (_, status, param, message) in zip(
    responses, cases, strict=True
  ):
    served.check_error(response, status, message)
    assert response.json()["error"]["param"] == param
  assert not store.jobs()
  for path in ("/v1/files/x", f"{JOBS}/x"):
    assert ask(path).status_code == 404
  epochs = {"n_epochs": 3, "batch_size": 3}
  shown = ask(JOBS, {**good, "hyperparameters": epochs}).json()
  shown = shown["hyperparameters"]
  assert (shown["steps"], shown["n_epochs"]) == (8, 3)


def test_file_that_is_deleted_meanwhile_is_not_found(store, ask, monkeypatch):
  file = store.add_file("data.jsonl", LINE)
  store.delete_file(file.id)
  training = store.add_file("data.jsonl", LINE)
  known = {file.id: file, training.id: training}
  monkeypatch.setattr(store, "file", known.__getitem__)
  body = {"model": served.BASE, "training_file": file.id}
  responses = [ask(JOBS, body), ask(f"/v1/files/{file.id}/content")]
  monkeypatch.setattr(store, "content", lambda id: LINE)
  body = {**body, "training_file": training.id, "validation_file": file.id}
  for response in (*responses, ask(JOBS, body)):
    served.check_error(response, 404, f"There is no file '{file.id}'")


def test_validation_that_has_no_room_in_memory_is_refused(store, ask):
  long = json.dumps({"prompt": "a " * 600, "completion": "b"}).encode()
  files = [
    store.add_file(f"{i}.jsonl", x).id for i, x in enumerate((LINE, long))
  ]
  body = {"model": served.BASE, "training_file": files[1]}
  assert ask(JOBS, {**body, "validation_file": files[0]}).status_code == 200
  response = ask(JOBS, {**body, "validation_file": files[1]})
  served.check_error(response, 400, "one of example 1 has more")


def test_all_of_many_events_are_sent(job, store, ask, monkeypatch):
  with sqlite3.connect(store.folder / "jobs.sqlite") as connection:
    connection.executemany(
      "insert into events (job, created_at, kind, message, data) "
      "values (?, 0, 'train', ?, '{}')",
      [(job.id, str(i)) for i in range(2500)],
    )
  connection.close()
  store.cancel(job.id)
  path = f"{JOBS}/{job.id}/events"
  page = ask(path, params={"limit": 2}).json()
  texts = [event["message"] for event in page["data"]]
  assert (texts, page["has_more"]) == (["Cancelled.", "2499"], True)
  last = ask(path, params={"limit": 1, "after": page["last_id"]}).json()
  assert last["data"][0]["message"] == "2498"

  def stream(number, **query):
    headers = {"Last-Event-ID": number.encode("latin-1")}
    return ask(path, params={"stream": True, **query}, headers=headers)

  # A busy disk, or a locked file, does not hold up other requests.
  threads, opened = set(), store._open

  def noted():
    threads.add(threading.current_thread())
    return opened()

  monkeypatch.setattr(store, "_open", noted)
  for number in ("", "9" * 30, "\xb2"):
    assert len(events := _events(stream(number).text)) == 2502
  assert threading.main_thread() not in threads
  assert _events(stream(events[-2][0]).text) == events[-1:]
  for name, value in (("after", page["last_id"]), ("limit", 1)):
    refused = stream("", **{name: value})
    served.check_error(refused, 400, f"A stream has no {name}: .*Last-Event-ID")


def test_files_have_an_order_and_a_purpose(store, ask):
  added = [store.add_file(f"{i}.jsonl", LINE).id for i in range(3)]

  def listed(**query):
    answer = ask("/v1/files", params=query)
    return [file["id"] for file in answer.json()["data"]]

  assert listed() == added[::-1]
  assert listed(order="asc") == added
  assert listed(order="asc", after=added[1]) == added[2:]
  assert listed(order="desc", purpose="fine-tune") == added[::-1]
  assert listed(purpose="batch") == []


def test_health_reports_jobs_that_nobody_works_on(service, ask):
  """A restart of the server would not help, so the status is 200."""
  for problem in ("No job is running.", None):
    service.supervisor = types.SimpleNamespace(problem=problem)
    health = ask("/healthz")
    assert health.status_code == 200
    assert health.json().get("jobs") == problem
