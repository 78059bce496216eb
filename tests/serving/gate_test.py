"""Who is let in, how often, and what may be in memory at once."""

import asyncio
import time

import pytest
import served

from prompt_tuning.serving import gate


def test_uploads_wait_for_each_other(service, monkeypatch):
  monkeypatch.setattr(gate, "_UPLOADS", 2)
  inside, most = [], []

  def put(name, content):
    inside.append(name)
    time.sleep(0.1)
    most.append(len(inside))
    inside.remove(name)
    raise ValueError("It is none.")

  monkeypatch.setattr(service.store, "put", put)

  async def run():
    async with served.client(service) as http:
      answers = await asyncio.gather(
        *(http.put(f"/v1/prompts/{x}", content=b"none") for x in "abcdef")
      )
    assert {x.status_code for x in answers} == {400}

  asyncio.run(run())
  assert max(most) == 2


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_what_is_no_upload_has_a_small_body(service, method):
  response = served.send(
    service, method, "/v1/prompts/prompt_1", content=b" " * (2**20 + 1)
  )
  served.check_error(response, 413, "at most 1048576 bytes")


def test_upload_that_waits_long_for_others_is_refused(
  engine, tmp_path, monkeypatch
):
  monkeypatch.setattr(gate, "_UPLOADS", 1)
  service = served.make_service(engine, tmp_path / "prompts", read_seconds=0.1)
  monkeypatch.setattr(service.store, "put", lambda *_: time.sleep(0.5))

  async def run():
    async with served.client(service) as http:
      answers = await asyncio.gather(
        *(http.put(f"/v1/prompts/{x}", content=b"") for x in "ab"),
        return_exceptions=True,
      )
    served.check_error(answers[1], 503, "Too many uploads")
    assert answers[1].headers["retry-after"] == "5"

  asyncio.run(run())


def test_keys_and_rates(engine, tmp_path):
  path = tmp_path / "keys"
  path.write_text("# ours\nsecret  # Ann's\n")
  service = served.make_service(
    engine,
    tmp_path / "prompts",
    keys=gate.read_keys(path),
    requests_per_minute=2,
  )
  for headers in ({}, {"Authorization": "Bearer no"}, {"Authorization": "x"}):
    response = served.send(service, "GET", "/v1/models", headers=headers)
    served.check_error(response, 401, "Expected a key")
  assert served.send(service, "GET", "/readyz").status_code == 200
  assert served.send(service, "GET", "/metrics").status_code == 401

  async def run():
    headers = {"Authorization": "Bearer secret"}
    async with served.client(service, headers=headers) as http:
      answers = [await http.get("/v1/models") for _ in range(3)]
      assert [x.status_code for x in answers] == [200, 200, 429]
      served.check_error(answers[2], 429, "2 requests a minute")
      assert 1 <= int(answers[2].headers["retry-after"]) <= 30

    async with served.client(service) as http:
      answers = [await http.get("/v1/models") for _ in range(3)]
      assert [x.status_code for x in answers] == [401, 401, 429]
      assert (await http.get("/v1/models", headers=headers)).status_code == 200

  asyncio.run(run())
  path.write_text("# none\n")
  with pytest.raises(ValueError, match="Expected keys"):
    gate.read_keys(path)


@pytest.mark.parametrize(
  ("headers", "status"),
  [
    ({}, 200),
    ({"Host": "LocalHost:8000"}, 200),
    ({"Host": "[::1]:8000"}, 200),
    ({"Host": "evil.example"}, 403),
    ({"Sec-Fetch-Site": "same-origin"}, 200),
    ({"Sec-Fetch-Site": "cross-site"}, 403),
  ],
)
def test_pages_of_others_are_refused(engine, tmp_path, headers, status):
  hosts = frozenset({"localhost", "[::1]"})
  service = served.make_service(engine, tmp_path / "prompts", hosts=hosts)
  response = served.send(
    service,
    "POST",
    served.COMPLETIONS,
    json={"model": served.BASE, "prompt": "abc", "max_tokens": 5},
    headers={"Host": "localhost", **headers},
  )
  assert response.status_code == status, response.text


def test_reader_that_takes_nothing_is_let_go(monkeypatch):
  monkeypatch.setattr(gate, "_PART_BYTES", 4)
  sent = []

  async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"0123456789"})

  async def send(message):
    if len(sent) == 3:
      await asyncio.sleep(5)
    sent.append(message)

  async def receive():
    return {"type": "http.request", "body": b""}

  limits = gate.Limits(write_seconds=0.05)
  scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
  with pytest.raises(TimeoutError):
    asyncio.run(gate.Gate(app, limits, (), ())(scope, receive, send))
  assert [x["body"] for x in sent[1:]] == [b"0123", b"4567"]
  assert all(x["more_body"] for x in sent[1:])
  sent.clear()

  async def send_all(message):
    sent.append(message)

  whole = gate.Gate(app, gate.Limits(), (), ())
  asyncio.run(whole(scope, receive, send_all))
  assert sent[-1] == {"type": "http.response.body", "body": b"89"}


def test_upload_may_take_longer(engine, tmp_path):
  service = served.make_service(engine, tmp_path / "prompts", read_seconds=0.2)

  async def slowly():
    yield b"no prompt"
    await asyncio.sleep(0.4)

  response = served.send(service, "PUT", "/v1/prompts/a", content=slowly())
  assert response.status_code == 400


def test_slow_sender_is_let_go(engine, tmp_path):
  service = served.make_service(engine, tmp_path / "prompts", read_seconds=0.05)

  async def slowly():
    yield b"{"
    await asyncio.sleep(5)

  response = served.send(service, "POST", served.COMPLETIONS, content=slowly())
  served.check_error(response, 408, "did not arrive")
