"""Tests of tenants over HTTP: their files, jobs, prompts, quotas and log."""

from concurrent import futures
import json
import logging
import threading

import numpy as np
import pytest
import served
import tiny

from prompt_tuning.inference.requests import TunedPrompt
from prompt_tuning.serving import access_log, tenants
from prompt_tuning.serving.errors import ApiError
from prompt_tuning.tuning_jobs import worker
from prompt_tuning.tuning_jobs.job_store import JobStore

NAMES = ("ann", "bob")
KEYS = {tenants.digest(f"{x}'s-key"): x for x in NAMES}
LINE = b'{"prompt": "told only to Ann", "completion": "b"}'
JOBS = "/v1/fine_tuning/jobs"
ONES = served.npy(np.ones((2, tiny.WIDTH)))


class Asking:
  """A server, and the requests of tenants to it."""

  def __init__(self, engine, folder, **limits):
    prompts, limits = folder / "prompts", {"keys": KEYS, **limits}
    self.service = served.make_service(engine, prompts, **limits)
    self.service.jobs = JobStore(folder / "jobs", served.BASE)
    self.service.store.put("common", ONES)

  def __call__(self, tenant, method, path, **options):
    headers = {"Authorization": f"Bearer {tenant}'s-key"}
    headers |= options.pop("headers", {})
    return served.send(self.service, method, path, headers=headers, **options)

  def put(self, tenant, name, content=ONES, **options):
    path = f"/v1/prompts/{name}"
    return self(tenant, "PUT", path, content=content, **options)

  def upload(self, tenant, content=LINE):
    form = {"data": {"purpose": "fine-tune"}, "files": {"file": content}}
    return self(tenant, "POST", "/v1/files", **form)

  def tune(self, tenant, file, **fields):
    settings = {"length": 2, "steps": 4}
    body = {"model": served.BASE, "training_file": file, **fields}
    body["hyperparameters"] = settings
    return self(tenant, "POST", JOBS, json=body)

  def models(self, tenant):
    data = self(tenant, "GET", "/v1/models").json()["data"]
    return {x["id"]: x.get("owned_by") for x in data[1:]}


@pytest.fixture
def ask(engine, tmp_path):
  return Asking(engine, tmp_path)


def test_what_belongs_to_a_key_does_not_exist_for_another(ask):
  file = ask.upload("ann").json()["id"]
  job = ask.tune("ann", file).json()["id"]
  assert ask.put("ann", "mine").json()["owned_by"] == "ann"
  paths = [
    *(("GET", f"/v1/files/{file}{x}") for x in ("", "/content")),
    *(("GET", f"{JOBS}/{job}{x}") for x in ("", "/events")),
    ("GET", f"{JOBS}/{job}/events?stream=true"),
    ("POST", f"{JOBS}/{job}/cancel"),
    ("DELETE", f"/v1/files/{file}"),
    *(
      (method, f"/v1/{kind}/{name}")
      for name in ("mine", "mine@ann", "mine@ann.shared")
      for method, kind in (
        ("GET", "models"),
        ("GET", "prompts"),
        ("DELETE", "models"),
        ("DELETE", "prompts"),
      )
    ),
    ("GET", "/v1/prompts/mine/words"),
  ]
  for method, path in paths:
    response = ask("bob", method, path)
    assert response.status_code == 404, path
    assert "ann'" not in response.text.replace("@ann'", "")
  for fields in ({}, {"validation_file": file}):
    own = ask.upload("bob").json()["id"] if fields else file
    assert ask.tune("bob", own, **fields).status_code == 404
  for path in (JOBS, "/v1/models"):
    text = ask("bob", "GET", path).text
    assert "mine" not in text
    assert job not in text
  assert file not in ask("bob", "GET", "/v1/files").text
  for path in ("completions", "rank"):
    body = {"model": "mine", "prompt": "a"}
    body |= {"labels": ["a"]} if path == "rank" else {"max_tokens": 5}
    assert ask("bob", "POST", f"/v1/{path}", json=body).status_code == 404
    assert ask("ann", "POST", f"/v1/{path}", json=body).status_code == 200
  assert "mine" not in ask("bob", "GET", "/metrics").text
  assert ask("ann", "GET", f"/v1/files/{file}/content").content == LINE
  assert ask("ann", "GET", f"{JOBS}/{job}").json()["status"] == "queued"


def test_prompts_are_shared_by_a_flag(ask):
  shared = {"params": {"shared": True}}
  assert ask.put("ann", "mine", **shared).json()["shared"]
  assert ask.models("bob") == {"common": "prompt_tuning", "mine@ann": "ann"}
  assert ask.models("ann") == {"common": "prompt_tuning", "mine": "ann"}
  body = {"model": "mine@ann", "prompt": "a", "max_tokens": 5}
  assert ask("bob", "POST", "/v1/completions", json=body).status_code == 200
  for name in ("mine@ann", "common"):
    response = ask("bob", "DELETE", f"/v1/prompts/{name}")
    served.check_error(response, 403, "belongs to another key")
  # A tenant's prompt hides the server's prompt until it is deleted.
  two = served.npy(2 * np.ones((3, tiny.WIDTH)))
  assert ask.put("bob", "common", two).json()["prompt"]["length"] == 3
  assert ask.models("bob")["common"] == "bob"
  path = "/v1/models/common"
  lengths = [ask(x, "GET", path).json()["prompt"]["length"] for x in NAMES]
  assert lengths == [2, 3]
  assert ask("bob", "DELETE", "/v1/prompts/common").status_code == 200
  assert ask.models("bob")["common"] == "prompt_tuning"
  assert not ask.put("ann", "mine").json()["shared"]
  assert ask.models("bob") == {"common": "prompt_tuning"}
  names = sorted(path.name for path in ask.service.store.folder.iterdir())
  assert names == ["common.safetensors", "mine@ann.safetensors"]


def test_tuned_prompt_is_its_owner_s(ask):
  file = ask.upload("ann").json()["id"]
  job = ask.tune("ann", file, suffix="new").json()["id"]
  prompt = TunedPrompt(np.ones((2, tiny.WIDTH), np.float32), None)
  store, folder = ask.service.jobs, ask.service.store.folder
  worker.work(store, lambda *_, **__: prompt, folder, lambda: False)
  name = ask("ann", "GET", f"{JOBS}/{job}").json()["fine_tuned_model"]
  ask.service.store.refresh()
  assert ask.models("ann")[name] == "ann"
  assert name not in ask.models("bob")


@pytest.mark.parametrize(
  ("stored", "status", "message"),
  [
    ({"bytes": 2 * len(LINE)}, 507, "at most .* bytes"),
    ({"files": 2}, 507, "at most 2 files"),
    ({"files": 0, "bytes": 0}, 200, ""),
  ],
)
def test_storage_has_a_quota(engine, tmp_path, stored, status, message):
  ask = Asking(engine, tmp_path, stored=stored)
  kept = [ask.upload("ann").json()["id"] for _ in range(2)]
  others = [ask.upload("ann")]
  if status != 200:
    others += [ask.put("ann", "mine"), ask.tune("ann", kept[0])]
  for response in others:
    assert response.status_code == status, response.text
    if message:
      served.check_error(response, status, message)
  assert ask.upload("bob").status_code == 200
  assert ask("ann", "DELETE", f"/v1/files/{kept[0]}").status_code == 200
  assert ask.upload("ann").status_code == 200


def test_prompt_takes_the_room_of_its_older_version(engine, tmp_path):
  ask = Asking(engine, tmp_path, stored={"files": 1})
  for shared in (False, False, True):
    put = ask.put("ann", "mine", params={"shared": shared})
    assert put.status_code == 201, put.text
  assert ask.put("ann", "other").status_code == 507


def test_open_jobs_have_a_quota(engine, tmp_path):
  ask = Asking(engine, tmp_path, stored={"jobs": 1, "files": 3})
  file = ask.upload("ann").json()["id"]
  assert ask.put("ann", "mine").status_code == 201
  job = ask.tune("ann", file).json()["id"]
  refused = ask.tune("ann", file)
  served.check_error(refused, 429, "at most 1 jobs")
  assert refused.headers["retry-after"]
  # The job's prompt counts as a file.
  assert ask.put("ann", "other").status_code == 507
  ask("ann", "POST", f"{JOBS}/{job}/cancel")
  assert ask.tune("ann", file).status_code == 200


def test_room_is_reserved_while_it_is_filled():
  """Concurrent additions stay within the quota; the others get 507."""
  quotas = tenants.Quotas(tenants.Limits(stored={"files": 2}))
  stored, refused, all_in = {"files": 0}, [], threading.Barrier(8)

  def add():
    all_in.wait()
    try:
      with quotas.room(stored.copy, files=1):
        stored["files"] += 1
    except ApiError as error:
      refused.append(error.status_code)

  with futures.ThreadPoolExecutor(8) as threads:
    for _ in range(8):
      threads.submit(add)
  assert 1 <= stored["files"] <= 2
  assert refused == [507] * (8 - stored["files"])
  stored["files"] = 1
  with quotas.room(stored.copy, files=1):  # All reservations were released.
    pass


def test_log_has_a_line_for_each_request_and_change(ask, caplog, monkeypatch):
  monkeypatch.setattr(access_log._LOG, "handlers", [caplog.handler])
  caplog.set_level(logging.INFO, access_log._LOG.name)
  file = ask.upload("ann").json()["id"]
  ask.put("ann", "mine")
  body = {"model": "mine", "prompt": "told only to Ann", "max_tokens": 5}
  response = ask("ann", "POST", "/v1/completions", json=body)
  ask("bob", "GET", f"/v1/files/{file}?key=told")
  ask("bob", "GET", "/v1/models/told only to Ann")
  head = ask("eve", "HEAD", "/v1/files")
  assert (head.status_code, head.content) == (401, b"")
  ask("ann", "DELETE", f"/v1/files/{file}")
  found = [json.loads(line) for line in caplog.messages]
  assert [(x["event"], x["tenant"], x.get("status")) for x in found] == [
    ("file.created", "ann", None),
    ("request", "ann", 200),
    ("prompt.stored", "ann", None),
    ("request", "ann", 201),
    ("request", "ann", 200),
    ("request", "bob", 404),
    ("request", "bob", 404),
    ("request", "?", 401),
    ("file.deleted", "ann", None),
    ("request", "ann", 200),
  ]
  assert found[0]["id"] == found[1]["id"] != found[2]["id"]
  assert found[4]["id"] == response.headers["x-request-id"]
  assert found[3]["names"] == {"name": "mine"}
  assert found[7]["method"] == "HEAD"
  for secret in ("told", "key", *KEYS):
    assert secret not in caplog.text
