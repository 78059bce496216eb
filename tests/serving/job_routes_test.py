"""Tests of files and jobs over HTTP, from an upload to an answer."""

import json
import pathlib
import re
import threading
import tomllib
import types
from unittest import mock

import openai
import pytest
import served

from prompt_tuning.tuning_jobs import jobs, worker

LINE = json.dumps({"prompt": "a", "completion": "b"}).encode()
LINES = b"\n".join([LINE] * 8)
JOBS = "/v1/fine_tuning/jobs"
WRONG = tomllib.loads(
  pathlib.Path(__file__).with_name("refused_jobs.toml").read_text()
)


@pytest.fixture
def ask(service, store):
  """Returns a function that sends a request: GET, or POST with a body."""

  def send(path, body=None, **options):
    method = "GET" if body is None else "POST"
    return served.send(service, method, path, json=body, **options)

  return send


def _events(text):
  """Returns (id, content) of server-sent events."""
  assert text.endswith("data: [DONE]\n\n")
  return re.findall("^id: (.*)\ndata: (.*)$", text, re.MULTILINE)


def test_openai_s_client_from_upload_to_answer(service, store, client, model):
  service.supervisor = mock.Mock()
  file = client.files.create(file=("data.jsonl", LINES), purpose="fine-tune")
  assert client.files.content(file.id).content == LINES
  assert [x.id for x in client.files.list()] == [file.id]
  tuning = client.fine_tuning.jobs
  settings = {"length": 2, "steps": 4, "init": "random_uniform"}
  settings |= {"batch_size": 4, "labels": []}
  job = tuning.create(
    model=served.BASE,
    training_file=file.id,
    validation_file=file.id,
    suffix="m" * 64,
    seed=3,
    method={"type": "supervised", "supervised": {"hyperparameters": settings}},
    metadata={"team": "ours"},
    integrations=[],
  )
  assert (job.status, job.metadata) == ("queued", {"team": "ours"})
  assert job.method.supervised.hyperparameters.labels == []
  assert not tuning.checkpoints.list(job.id).data
  service.supervisor.wake.assert_called_once()
  with pytest.raises(openai.ConflictError, match="needs"):
    client.files.delete(file.id)
  worker.work(store, model.tune, service.store.folder, lambda: False)
  job = tuning.retrieve(job.id)
  assert job.status == "succeeded"
  name = job.fine_tuned_model
  answer = client.completions.create(model=name, prompt="abc", max_tokens=5)
  expected = model.generate(["abc"], service.store.get(name).array, 5)
  assert answer.choices[0].text == expected[0]
  (checkpoint,) = tuning.checkpoints.list(job.id)
  assert checkpoint.fine_tuned_model_checkpoint == name
  assert checkpoint.step_number == job.step
  events = list(tuning.list_events(job.id))
  assert events[0].data == {"status": "succeeded"}
  assert [x.id for x in tuning.list()] == [job.id]
  with pytest.raises(openai.BadRequestError, match="is over"):
    tuning.cancel(job.id)
  assert client.files.delete(file.id).deleted


@pytest.mark.parametrize(
  ("given", "rate"),
  [
    ({}, 0.25),
    ({"learning_rate_multiplier": 2.0}, 0.5),
    ({"learning_rate": 0.5}, 0.5),
    ({"n_epochs": 2}, 0.25),
  ],
)
def test_rate_is_the_model_s_unless_it_is_given(
  service, store, ask, given, rate
):
  service.prompt_rate = 0.25
  file = store.add_file("data.jsonl", LINES).id
  body = {"model": served.BASE, "training_file": file, "hyperparameters": given}
  job = ask(JOBS, body).json()
  found = job["hyperparameters"]
  assert found["learning_rate"] == rate
  assert found["learning_rate_multiplier"] == rate / 0.25
  assert store.job(job["id"]).settings.learning_rate == rate
  # The shown hyperparameters, sent again, make an equal job.
  again = ask(JOBS, {**body, "hyperparameters": found}).json()
  assert again["hyperparameters"] == found


def test_damaged_file_is_not_used(store, ask):
  file = store.add_file("data.jsonl", LINES).id
  (store.folder / "files" / f"{file}.jsonl").write_bytes(LINE)
  right = store.add_file("data.jsonl", LINES).id
  body = {"model": served.BASE, "training_file": right, "validation_file": file}
  message = f"{file} is damaged on the server"
  served.check_error(ask(JOBS, body), 400, message, "validation_file")
  served.check_error(ask(f"/v1/files/{file}/content"), 400, message)


def test_wrong_jobs_are_refused(service, store, ask):
  file = store.add_file("data.jsonl", LINES).id
  good = {"model": served.BASE, "training_file": file}
  cases = [
    *WRONG["rows"],
    *(
      [{"hyperparameters": {x: y}}, 400, f"hyperparameters.{x}", message]
      for x, y, message in WRONG["hyperparameters"]
    ),
  ]
  posts = [("POST", JOBS, {"json": good | changes}) for changes, *_ in cases]
  responses = served.send_all(service, posts)
  for response, (_, status, param, message) in zip(
    responses, cases, strict=True
  ):
    served.check_error(response, status, message, param)
  # As if the vocabulary lacked "a".
  vocabulary = service.engine.model.vocabulary
  (unknown,) = vocabulary.encode("a")
  with mock.patch.object(type(vocabulary), "unk_id", unknown):
    lacking = ask(JOBS, good)
  served.check_error(lacking, 400, "does not know 100%", "training_file")
  assert not store.jobs()
  for path in ("/v1/files/x", f"{JOBS}/x"):
    assert ask(path).status_code == 404
  epochs = {"n_epochs": 3, "batch_size": 3}  # `method` has none.
  good |= {"method": {"type": "supervised"}, "hyperparameters": epochs}
  shown = ask(JOBS, good).json()["hyperparameters"]
  assert (shown["steps"], shown["n_epochs"]) == (8, 3)


def test_examples_that_cannot_be_tuned_on_are_refused(store, ask):
  """The server refuses unsuitable examples at once, before a worker runs."""

  def file(*targets):
    lines = [json.dumps({"prompt": "a", "completion": x}) for x in targets]
    return store.add_file("data.jsonl", "\n".join(lines).encode()).id

  few, other, free = file(*"bc" * 8), file("d"), file(*"bcdefghi")
  refused = [
    ({}, other, "validation_file", "Example 1: .* b, c, got 'd'.* labels=\\[]"),
    ({"labels": ["b"]}, None, "hyperparameters.labels", "labels b, got 'c'"),
    ({"labels": [], "rank": True}, None, "hyperparameters", "least two labels"),
    ({"labels": [], "init": "class_labels"}, None, "hyperparameters", "needs"),
    ({"length": 1}, None, "hyperparameters", "at least length=2"),
  ]
  body = {"model": served.BASE, "training_file": few}
  for given, validation, param, message in refused:
    more = {"hyperparameters": given, "validation_file": validation}
    served.check_error(ask(JOBS, body | more), 400, message, param)
  assert not store.jobs()
  for given, validation in (({"labels": []}, other), ({}, few)):
    more = {"hyperparameters": given, "validation_file": validation}
    assert ask(JOBS, body | more).status_code == 200
  assert ask(JOBS, body | {"training_file": free}).status_code == 200


def test_validation_that_has_no_room_in_memory_is_refused(store, ask):
  texts = "a " * 600, "\u5b57" * 10  # Thirty bytes; a token here is a byte.
  lines = [json.dumps({"prompt": x, "completion": "b"}) for x in texts]
  files = [
    store.add_file(f"{i}.jsonl", x).id
    for i, x in enumerate([LINE, *map(str.encode, lines)])
  ]
  body = {"model": served.BASE, "training_file": files[1]}
  assert ask(JOBS, {**body, "validation_file": files[0]}).status_code == 200
  for long in files[1:]:
    response = ask(JOBS, {**body, "validation_file": long})
    served.check_error(response, 400, "a text of example 1 has more")


def test_all_of_many_events_are_sent(store, ask, monkeypatch):
  file = store.add_file("data.jsonl", LINE)
  job = store.add_job(file.id, None, "mine", jobs.Settings())
  with store._open() as database:
    for i in range(2500):
      database.insert(jobs.JobEvent(None, job.id, 0, "train", str(i), {}))
  store.cancel(job.id)
  path = f"{JOBS}/{job.id}/events"
  assert ask(f"{JOBS}/{job.id}").json()["model"] == "another"
  page = ask(path, params={"limit": 2}).json()
  texts = [event["message"] for event in page["data"]]
  assert (texts, page["has_more"]) == (["Cancelled.", "2499"], True)
  last = ask(path, params={"limit": 1, "after": page["last_id"]}).json()
  assert last["data"][0]["message"] == "2498"

  def stream(number, **query):
    headers = {"Last-Event-ID": number.encode("latin-1")}
    return ask(path, params={"stream": True, **query}, headers=headers)

  # Other threads read the store, so a slow disk delays no other request.
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


def test_jobs_are_found_by_their_notes(store, client):
  file = store.add_file("data.jsonl", LINE).id
  notes = None, {"team": "ours"}, {"team": "ours", "try": "2"}
  added = [
    store.add_job(file, None, "mine", jobs.Settings(), x).id for x in notes
  ]
  for number, wanted in enumerate(notes):
    found = client.fine_tuning.jobs.list(metadata=wanted or {})
    assert {job.id for job in found} == {*added[number:]}


def test_files_have_an_order_and_a_purpose(store, client):
  added = [store.add_file(f"{i}.jsonl", LINE).id for i in range(3)]

  def listed(**query):
    return [file.id for file in client.files.list(**query)]

  assert listed() == listed(limit=1) == added[::-1]  # One page, or three.
  assert listed(order="asc") == added
  assert listed(order="asc", after=added[1]) == added[2:]
  assert listed(order="desc", purpose="fine-tune") == added[::-1]
  assert listed(purpose="batch") == []
  end = {"anchor": "created_at", "seconds": 3600}
  with pytest.raises(openai.BadRequestError, match="expires_after"):
    client.files.create(file=LINE, purpose="fine-tune", expires_after=end)


def test_health_reports_jobs_that_nobody_works_on(service, ask):
  """/healthz reports a problem but returns 200: a restart would not help."""
  for problem in ("No job is running.", None):
    service.supervisor = types.SimpleNamespace(problem=problem)
    health = ask("/healthz")
    assert health.status_code == 200
    assert health.json().get("jobs") == problem
