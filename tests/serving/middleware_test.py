"""Tests of access, rates, and limits on size and time."""

import asyncio
import contextlib
import threading
import time

import numpy as np
import pytest
import served
import tiny

from prompt_tuning.serving import app, middleware, tenants


def _slow(seconds, most):
  """Returns a function that records how many threads run it at once."""
  inside = []

  def call(*arguments):
    # An upload may be a large archive, or its folder a bucket.
    assert threading.current_thread() is not threading.main_thread()
    inside.append(1)
    time.sleep(seconds)
    most.append(len(inside))
    inside.pop()
    raise ValueError("Not a prompt.")

  return call


@pytest.mark.parametrize("seconds", [30, 0.1])
def test_large_uploads_wait_for_each_other(service, monkeypatch, seconds):
  """Two uploads run at once; uploads that wait for too long are refused."""
  service.limits = tenants.Limits(body_bytes=2)
  monkeypatch.setattr(middleware, "_UPLOADS", 2)
  monkeypatch.setattr(middleware, "_READ_SECONDS", seconds)
  most = []
  monkeypatch.setattr(service.store, "put", _slow(0.4, most))
  puts = [("PUT", f"/v1/prompts/{x}", {"content": b"none"}) for x in "abcd"]
  responses = served.send_all(service, puts, together=True)
  assert max(most) == 2
  refused = [x for x in responses if x.status_code != 400]
  assert len(refused) == (2 if seconds < 1 else 0)
  for response in refused:
    served.check_error(response, 503, "Too many uploads")
    assert response.headers["retry-after"] == "5"


def test_slow_uploads_block_nobody_else(engine, tmp_path, monkeypatch):
  monkeypatch.setattr(middleware, "_ARRIVING", 2)
  monkeypatch.setattr(middleware, "_UPLOADS", 1)
  keys = {tenants.digest(x): x for x in ("ann", "bob")}
  folder = tmp_path / "prompts"
  service = served.make_service(engine, folder, keys=keys, body_bytes=9)
  large = served.npy(np.ones((2, tiny.WIDTH)))

  async def run():
    async with served.client(service) as http:

      def put(key, name, content):
        headers = {"Authorization": f"Bearer {key}"}
        url = f"/v1/prompts/{name}"
        return http.put(url, content=content, headers=headers)

      parts = [_slowly(1, large) for _ in range(3)]
      slow = [asyncio.create_task(put("ann", "slow", x)) for x in parts]
      await asyncio.sleep(0.1)
      # Another key's uploads, whole or in parts, and a small one of this key.
      for key, content in (("bob", large), ("bob", _in_parts(large))):
        assert (await put(key, "quick", content)).status_code == 201
      assert (await put("ann", "small", b"none")).status_code == 400
      assert not any(task.done() for task in slow)
      answers = await asyncio.gather(*slow)
      assert {x.status_code for x in answers} == {201}

  asyncio.run(run())


def test_words_of_one_prompt_at_a_time(service, monkeypatch):
  """Analyses run one by one, because each copies the embeddings in float32."""
  most = []
  monkeypatch.setattr(app, "_words", _slow(0.05, most))
  asked = [("GET", "/v1/prompts/prompt_1/words", {})] * 3
  served.send_all(service, asked, together=True)
  assert most == [1, 1, 1]


async def _slowly(seconds, part=b"{"):
  yield part
  await asyncio.sleep(seconds)


async def _in_parts(content=b" " * (3 * 2**19)):
  size = len(content) // 3 + 1
  for start in range(0, len(content), size):
    yield content[start : start + size]


@pytest.mark.parametrize(
  ("method", "path", "content", "status", "message"),
  [
    # Uploads may be large and slow.
    ("PUT", "/v1/prompts/a", _slowly(0.4, b"none"), 400, "safetensors"),
    ("PUT", "/v1/prompts/a", _in_parts(), 400, "safetensors"),
    ("GET", "/v1/prompts/a", b" " * (2**20 + 1), 413, "at most 1048576 bytes"),
    ("DELETE", "/v1/prompts/a", b" " * (2**20 + 1), 413, "at most"),
    ("POST", served.COMPLETIONS, _in_parts(), 413, "at most 1048576 bytes"),
    ("POST", served.COMPLETIONS, _slowly(5), 408, "did not arrive"),
  ],
)
def test_bodies_have_a_size_and_a_time(
  service, monkeypatch, method, path, content, status, message
):
  monkeypatch.setattr(middleware, "_READ_SECONDS", 0.2)
  response = served.send(service, method, path, content=content)
  served.check_error(response, status, message)


def test_keys_and_rates(engine, tmp_path):
  path = tmp_path / "keys"
  path.write_text("# none\n")
  with pytest.raises(ValueError, match="Expected keys"):
    tenants.read_keys(path)
  # Clients encode letters outside ASCII in two ways, or refuse them.
  for line in ("my secret key", "secret a/b", "secret " + "a" * 33, "\xe4 ann"):
    path.write_text(f"\n{line}\n", encoding="utf-8")
    with pytest.raises(ValueError, match="Expected a key in line 2") as error:
      tenants.read_keys(path)
    assert "secret" not in str(error.value)
  # Editors on Windows write files like this.
  path.write_bytes(b"\xef\xbb\xbfsecret ann # Ann's\r\nnew ann\r\nother\r\n")
  keys = tenants.read_keys(path)
  assert [*keys.values()] == ["ann", "ann", tenants.digest("other")[:12]]
  folder = tmp_path / "prompts"
  service = served.make_service(engine, folder, keys=keys)
  for headers in ({}, {"Authorization": "Bearer no"}, {"Authorization": "x"}):
    response = served.send(service, "GET", "/v1/models", headers=headers)
    served.check_error(response, 401, "Expected a key")
  for open_path, status in (("/readyz", 200), ("/metrics", 401)):
    assert served.send(service, "GET", open_path).status_code == status

  wrong = ("GET", "/v1/models", {})
  good = (*wrong[:2], {"headers": {"Authorization": "Bearer secret"}})
  limits = {"keys": keys, "requests_per_minute": 2}
  service = served.make_service(engine, folder, **limits)
  answers = served.send_all(service, [good] * 3)
  assert [x.status_code for x in answers] == [200, 200, 429]
  served.check_error(answers[2], 429, "2 requests per minute")
  assert 1 <= int(answers[2].headers["retry-after"]) <= 30
  service = served.make_service(engine, folder, **limits)
  answers = served.send_all(service, [wrong, wrong, wrong, good])
  assert [x.status_code for x in answers] == [401, 401, 429, 200]


@pytest.mark.parametrize(
  ("headers", "status"),
  [
    ({}, 200),
    ({"Host": "LocalHost:8000"}, 200),
    ({"Host": "[::1]:8000"}, 200),
    ({"Host": "evil.example"}, 403),
    ({"Host": "127.0.0.1:8000"}, 200),  # DNS rebinding needs a name.
    ({"Host": "[::1"}, 403),
    ({"X-Large": "a" * 2**16}, 431),
    ({"Sec-Fetch-Site": "same-origin"}, 200),
    ({"Sec-Fetch-Site": "cross-site"}, 403),
    ({"Sec-Fetch-Site": "same-site"}, 403),
    ({"Origin": "http://localhost"}, 200),
    ({"Origin": "http://localhost:3000"}, 403),
    ({"Origin": "null"}, 403),
    # A proxy may have changed the Host.
    ({"Origin": "http://a.org", "Sec-Fetch-Site": "same-origin"}, 200),
  ],
)
def test_other_websites_are_refused(engine, tmp_path, headers, status):
  hosts = frozenset({"localhost", "[::1]"})
  service = served.make_service(engine, tmp_path / "prompts", hosts=hosts)
  body = {"model": served.BASE, "prompt": "abc", "max_tokens": 5}
  headers = {"Host": "localhost", **headers}
  response = served.send(
    service, "POST", served.COMPLETIONS, json=body, headers=headers
  )
  assert response.status_code == status, response.text


@pytest.mark.parametrize(("size", "is_taken"), [(4, False), (2**22, True)])
def test_reader_that_takes_nothing_is_let_go(monkeypatch, size, is_taken):
  """A slow reader times out, but a larger body may take longer."""
  sent = []

  async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b" " * size})

  async def send(message):
    await asyncio.sleep(0.2 * len(sent))
    sent.append(message["type"])

  monkeypatch.setattr(middleware, "_WRITE_SECONDS", 0.1)
  quotas = tenants.Quotas(tenants.Limits())
  limited = middleware.LimitsMiddleware(app, quotas)
  scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
  with contextlib.nullcontext() if is_taken else pytest.raises(TimeoutError):
    asyncio.run(limited(scope, None, send))
  assert len(sent) == 1 + is_taken
