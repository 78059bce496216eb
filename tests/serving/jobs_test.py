"""Tuning as a service: files, jobs, the worker, and what it survives."""

import asyncio
import itertools
import json
import os
import signal
import sys
import threading
import time

import openai
import pytest
import served

from prompt_tuning import prompt_files
from prompt_tuning.serving import job_routes
from prompt_tuning.tuning_jobs import job_store, jobs, worker
from prompt_tuning.tuning_jobs import supervisor as supervisor_lib
from prompt_tuning.tuning_jobs.job_store import JobStore
from prompt_tuning.tuning_jobs.jobs import Settings
from prompt_tuning.tuning_jobs.supervisor import Supervisor

PAIRS = [("abc", "no"), ("abxc", "yes"), ("x", "yes"), ("h", "no")] * 2
LINES = b"\n".join(
  json.dumps({"prompt": x, "completion": y}).encode() for x, y in PAIRS
)
SETTINGS = Settings(
  length=2, steps=4, init="random_uniform", batch_size=4, seed=3
)
LADDER = "checkpoints/ladder_xs/lm_100"


@pytest.fixture
def store(tmp_path):
  return JobStore(tmp_path / "jobs")


@pytest.fixture
def service(engine, tmp_path):
  return served.make_service(engine, tmp_path / "prompts")


def _queue(store, settings=SETTINGS, validated=True):
  file = store.add_file("data.jsonl", LINES)
  return store.add_job(
    file.id, file.id if validated else None, "mine", settings
  )


def _check_same(first, second):
  """Bit for bit; only safetensors' header has no order."""
  arrays, metadata = zip(
    *map(prompt_files.load_prompt, (first, second)), strict=True
  )
  assert arrays[0].tobytes() == arrays[1].tobytes()
  assert metadata[0] == metadata[1]


def _work(store, model, folder, should_stop=lambda: False):
  folder.mkdir(exist_ok=True)
  worker.work(store, model, folder, should_stop)


def test_openai_s_client_from_upload_to_answer(service, store, model):
  woken = []
  router = job_routes.router(service, store, lambda: woken.append(1))

  async def run():
    async with served.client(service, router) as http:
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
      await asyncio.to_thread(_work, store, model, service.store.folder)
      job = await tuning.retrieve(job.id)
      assert job.status == "succeeded"
      answer = await client.completions.create(
        model=job.fine_tuned_model, prompt="abc", max_tokens=5
      )
      assert (
        answer.choices[0].text
        == (
          model.generate(
            ["abc"], service.store.get(job.fine_tuned_model).array, 5
          )[0]
        )
      )
      events = [x async for x in tuning.list_events(job.id)]
      assert events[0].data == {"status": "succeeded"}
      assert [x.id async for x in tuning.list()] == [job.id]
      with pytest.raises(openai.BadRequestError, match="is over"):
        await tuning.cancel(job.id)
      stream = await http.get(
        f"/v1/fine_tuning/jobs/{job.id}/events?stream=true"
      )
      told = [x for x in stream.text.split("\n\n") if x.startswith("id")]
      assert len(told) == len(events)
      assert stream.text.endswith("data: [DONE]\n\n")
      rest = await http.get(
        f"/v1/fine_tuning/jobs/{job.id}/events?stream=true",
        headers={"Last-Event-ID": told[-2].split("\n")[0].removeprefix("id: ")},
      )
      assert [x for x in rest.text.split("\n\n") if x.startswith("id")] == (
        told[-1:]
      )

  asyncio.run(run())


def test_a_stream_of_events_reads_the_disk_in_a_thread(
  service, store, monkeypatch
):
  """A busy disk, or a locked file, does not hold up other requests."""
  job = _queue(store)
  store.cancel(job.id)
  threads = set()
  opened = store._open

  def noted():
    threads.add(threading.current_thread())
    return opened()

  monkeypatch.setattr(store, "_open", noted)
  router = job_routes.router(service, store, lambda: None)
  path = f"/v1/fine_tuning/jobs/{job.id}/events?stream=true"
  assert "Cancelled" in served.send(service, "GET", path, router).text
  assert threads
  assert threading.main_thread() not in threads


def test_interrupted_job_ends_with_the_same_prompt(store, model, tmp_path):
  whole, stopped = (_queue(store) for _ in range(2))
  asked = []

  def should_stop():
    # Of the second job: asked once before it, and then after every step.
    if store.job(stopped.id).status == jobs.RUNNING:
      asked.append(1)
    return len(asked) >= 2

  _work(store, model, tmp_path / "prompts", should_stop)
  assert store.job(whole.id).status == jobs.SUCCEEDED
  assert store.job(stopped.id).status == jobs.RUNNING
  # Another worker.
  _work(JobStore(store.folder), model, tmp_path / "prompts")
  ended = [store.job(job.id) for job in (whole, stopped)]
  assert [job.attempts for job in ended] == [1, 2]
  assert ended[0].score == ended[1].score
  files = [tmp_path / "prompts" / f"{job.prompt}.safetensors" for job in ended]
  _check_same(*files)
  kinds = [event.kind for event in store.events(stopped.id)]
  assert {"status", "start", "train", "eval"} <= set(kinds)


def test_jobs_are_cancelled_and_fail_by_themselves(store, model, tmp_path):
  running, wrong, never, last = (
    _queue(store),
    _queue(store, Settings(length=1, steps=1, batch_size=4)),
    _queue(store),
    _queue(store, Settings(2, 1, "random_uniform", batch_size=4), False),
  )
  assert store.cancel(never.id).status == jobs.CANCELLED
  note = store.note

  def cancel_as_it_runs(job, *event):
    note(job, *event)
    if job.id == running.id:
      store.cancel(job.id)

  store.note = cancel_as_it_runs
  _work(store, model, tmp_path / "prompts")
  statuses = [store.job(x.id).status for x in (running, wrong, never, last)]
  assert statuses == ["cancelled", "failed", "cancelled", "succeeded"]
  assert "a position for each label, got length=1" in store.job(wrong.id).error
  (made,) = (tmp_path / "prompts").iterdir()
  assert made.stem == store.job(last.id).prompt
  assert not store.has_work()


def test_job_that_is_cancelled_as_it_is_claimed_stays_so(store):
  """Between the look at what there is, and the claim."""
  cancelled, other = _queue(store), _queue(store)
  look = store._jobs

  def look_and_cancel(where, *values):
    found = look(where, *values)
    if where.startswith("status in"):
      store._jobs = look
      store.cancel(cancelled.id)
    return found

  store._jobs = look_and_cancel
  assert store.claim().id == other.id
  job = store.job(cancelled.id)
  assert (job.status, job.attempts) == ("cancelled", 0)
  assert store.events(job.id)[-1].message == "Cancelled."


def test_job_that_kills_its_workers_is_given_up(store):
  job = _queue(store)
  for attempt in range(job_store.MAX_TRIES):
    assert store.claim().attempts == attempt + 1
  assert store.claim() is None
  assert "ended its worker 5 times" in store.job(job.id).error


def test_job_that_is_given_up_is_stopped_on_its_cluster(store):
  job = _queue(store)
  folder = store.run_folder(job)
  place = folder.with_name(f"{folder.name}.cluster")
  place.mkdir(parents=True)
  (place / "job").write_text("17")
  for _ in range(job_store.MAX_TRIES):
    store.claim()
    assert not (place / "stop").exists()
  assert store.claim() is None
  assert (place / "stop").exists()


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"", "got none"),
    (b"\xff", "UTF-8"),
    (LINES + b"\n[]", "Line 9"),
    (b'{"prompt": "a"}', "Line 1"),
    (b'{"prompt": "a", "completion": ""}', "Line 1"),
    (b'{"prompt": 1, "completion": "b"}', "Line 1"),
    (b"[" * 100_000, "Line 1"),
  ],
)
def test_wrong_files_are_refused(store, content, message):
  with pytest.raises(ValueError, match=message):
    store.add_file("data.jsonl", content)
  assert not store.files()


def test_wrong_jobs_are_refused(service, store):
  router = job_routes.router(service, store, lambda: None)
  file = store.add_file("data.jsonl", LINES).id
  good = {"model": served.BASE, "training_file": file}
  many = store.add_file("data.jsonl", (LINES + b"\n") * 150).id
  long = {"model": served.BASE, "training_file": many}
  for body, status, message in (
    ({**good, "model": "other"}, 404, "tuned for 'tiny'"),
    ({**good, "training_file": "../x"}, 404, "no file"),
    ({**good, "validation_file": "x"}, 404, "no file"),
    ({**good, "suffix": "../x"}, 400, "suffix"),
    ({**good, "seed": -1}, 400, "seed"),
    ({**good, "hyperparameters": {"length": -1}}, 400, "length"),
    ({**good, "hyperparameters": {"length": 7}}, 400, "at most 6"),
    ({**good, "hyperparameters": {"batch_size": 9}}, 400, "from 1 to 8"),
    ({**long, "hyperparameters": {"batch_size": 1025}}, 400, "from 1 to 1024"),
    ({**good, "hyperparameters": {"learning_rate": 0}}, 400, "learning_rate"),
    ({**good, "hyperparameters": {"init": "best"}}, 400, "init"),
    ({**good, "hyperparameters": {"n_epochs": 0}}, 400, "n_epochs"),
    ({**good, "hyperparameters": {"n_epochs": 10**400}}, 400, "at most"),
    *(
      (
        {**good, "hyperparameters": {"learning_rate_multiplier": x}},
        400,
        "a learning rate in (0, 100]",
      )
      for x in (-1, 0, 1e6)
    ),
    ({**good, "integrations": []}, 400, "integrations"),
  ):
    answer = served.send(
      service, "POST", "/v1/fine_tuning/jobs", router, json=body
    )
    assert answer.status_code == status, answer.text
    assert message in answer.json()["error"]["message"]
  assert not store.jobs()
  for path in ("/v1/files/x", "/v1/fine_tuning/jobs/x"):
    assert served.send(service, "GET", path, router).status_code == 404
  epochs = {**good, "hyperparameters": {"n_epochs": 3, "batch_size": 3}}
  answer = served.send(
    service, "POST", "/v1/fine_tuning/jobs", router, json=epochs
  )
  shown = answer.json()["hyperparameters"]
  assert (shown["steps"], shown["n_epochs"]) == (8, 3)


def _await(condition, seconds=400):
  deadline = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.05)


@pytest.mark.slow
def test_killed_worker_is_started_again(store, tmp_path):
  """SIGKILL in the middle of a run; the prompt is that of one left alone."""
  settings = Settings(2, 12, "random_uniform", batch_size=4)
  killed, alone = (_queue(store, settings) for _ in range(2))
  (tmp_path / "prompts").mkdir()
  supervisor = Supervisor(
    store,
    [
      *(sys.executable, "-m", "prompt_tuning.tuning_jobs.worker"),
      f"--checkpoint={LADDER}",
      f"--jobs={store.folder}",
      f"--prompts={tmp_path / 'prompts'}",
    ],
  )
  supervisor.start()
  try:
    _await(lambda: any(x.kind == "checkpoint" for x in store.events(killed.id)))
    os.kill(supervisor.pid, signal.SIGKILL)
    _await(lambda: not store.has_work())
  finally:
    supervisor.close()
  ended = [store.job(job.id) for job in (killed, alone)]
  assert [job.status for job in ended] == ["succeeded"] * 2
  assert ended[0].attempts == 2
  files = [tmp_path / "prompts" / f"{job.prompt}.safetensors" for job in ended]
  _check_same(*files)
  assert supervisor.pid is None


def test_worker_that_cannot_begin_is_started_less_and_less_often(
  service, store, tmp_path, monkeypatch
):
  """Such as one without memory for the model; then it begins after all."""
  monkeypatch.setattr(supervisor_lib, "_LOOK_SECONDS", 0.05)
  monkeypatch.setattr(supervisor_lib, "_LONGEST_PAUSE", 0.8)
  job = _queue(store)
  (tmp_path / "started").touch()
  begin = tmp_path / "begin"
  program = (
    "import os, pathlib, sys, time\n"
    f"with open({str(tmp_path / 'started')!r}, 'a') as file:\n"
    "  print(time.monotonic(), file=file)\n"
    f"if not os.path.exists({str(begin)!r}): sys.exit(3)\n"
    "from prompt_tuning.tuning_jobs.job_store import JobStore\n"
    f"JobStore({str(store.folder)!r}).claim()\n"
    "time.sleep(60)"
  )
  service.supervisor = supervisor = Supervisor(
    store, [sys.executable, "-c", program]
  )
  assert supervisor.problem is None
  supervisor.start()
  try:
    _await(lambda: supervisor._failures >= 6)
    supervisor.wake()  # A new job does not shorten the pause.
    started = map(float, (tmp_path / "started").read_text().split())
    pauses = [b - a for a, b in itertools.pairwise(started)]
    for pause, least in zip(pauses, (0.05, 0.1, 0.2, 0.4, 0.8), strict=False):
      assert pause >= least
    health = served.send(service, "GET", "/healthz")
    assert health.status_code == 200
    assert (
      "ended before they came to one, the last with 3"
      in (health.json()["jobs"])
    )
    begin.touch()
    _await(lambda: supervisor.problem is None)
    assert store.job(job.id).attempts == 1
    assert served.send(service, "GET", "/healthz").json() == {"status": "ok"}
  finally:
    supervisor.close()


def test_pause_doubles_after_workers_that_fail_at_a_job(store):
  """A disk that is full has no room a second later."""
  supervisor = Supervisor(store, [])

  def pause(code=1):
    supervisor._note_end(code, came_to_a_job=True)
    return supervisor._pause

  assert [pause() for _ in range(4)] == [1, 2, 4, 8]
  assert pause(code=0) == 0
  assert [pause() for _ in range(10)][-1] == 300
  supervisor._next_start -= 1000
  assert pause() == 1


def test_problem_is_over_when_no_job_waits(store, monkeypatch):
  monkeypatch.setattr(supervisor_lib, "_LOOK_SECONDS", 0.05)
  job = _queue(store)
  supervisor = Supervisor(
    store, [sys.executable, "-c", "import sys; sys.exit(3)"]
  )
  supervisor.start()
  try:
    _await(lambda: supervisor.problem is not None)
    store.cancel(job.id)
    _await(lambda: supervisor.problem is None, 30)
  finally:
    supervisor.close()


def test_supervisor_ends_its_worker(store):
  _queue(store)
  supervisor = Supervisor(
    store, [sys.executable, "-c", "import time; time.sleep(60)"]
  )
  supervisor.start()
  _await(lambda: supervisor.pid is not None)
  process = supervisor._process
  supervisor.close()
  assert process.returncode == -signal.SIGTERM
