"""Tests of servers with dying workers, and with misbehaving clients."""

import asyncio
from concurrent import futures
import contextlib
import gc
import re
import socket
import types

import documented
from fastapi import testclient
import numpy as np
import pytest
import served
import started
import uvicorn

from prompt_tuning.commands import console
from prompt_tuning.commands import serve as command
from prompt_tuning.serving import app
from prompt_tuning.serving import server as server_lib
from prompt_tuning.serving.errors import ApiError
from prompt_tuning.tuning_jobs import jobs, worker

CHECKPOINT = documented.ROOT / "checkpoints" / "ladder_xs" / "lm_100"


def _options(*words):
  return command.complete(console.parse(["serve", *words]))


@pytest.mark.slow
def test_killed_workers_of_two_servers_are_followed_by_others(
  tmp_path, monkeypatch
):
  """Both servers get the job's prompt, equal to that of an undisturbed job."""
  monkeypatch.setattr(worker, "_FIRST_PAUSE", 0.1)
  folders = f"--prompts={tmp_path}/prompts", f"--jobs={tmp_path}/jobs"
  options = _options(f"--checkpoint={CHECKPOINT}", *folders)
  first, second = (server_lib.make_service(options) for _ in range(2))
  lines = b'{"prompt": "Sarah is in the garden .", "completion": "True"}\n' * 8
  file = first.jobs.add_file("data.jsonl", lines).id
  settings = jobs.Settings(2, 6, "random_uniform", batch_size=4)
  killed, alone = (
    first.jobs.add_job(file, file, "mine", settings).id for _ in range(2)
  )
  with contextlib.ExitStack() as stack:
    supervisors = [service.supervisor for service in (first, second)]
    for supervisor in supervisors:
      supervisor.start()
      stack.callback(supervisor.close)
    started.wait(
      lambda: any(x.kind == "checkpoint" for x in second.jobs.events(killed)),
      400,
    )
    for supervisor in supervisors:  # One worker waits for the other to end.
      supervisor._process.kill()
    started.wait(lambda: not second.jobs.has_work(), 400)
  ended = [second.jobs.job(id) for id in (killed, alone)]
  assert [job.status for job in ended] == ["succeeded"] * 2
  assert [job.attempts for job in ended] == [2, 1]
  for service in (first, second):
    service.store.refresh()
    one, other = (service.store.get(job.prompt) for job in ended)
    np.testing.assert_array_equal(one.array, other.array)
    assert one.metadata == other.metadata


HEAD = b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n"
POST = HEAD.replace(b"GET /v1/models", b"POST /v1/completions")
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"


@contextlib.contextmanager
def _connected(application):
  config = server_lib.make_config(_options("--checkpoint=none"), application)
  config.port, config.lifespan = 0, "off"
  with served.running(uvicorn.Server(config)) as address:
    place = address.removeprefix("http://").split(":")
    with socket.create_connection(place, timeout=20) as connection:
      yield connection


@pytest.mark.parametrize(
  ("sent", "statuses"),
  [
    (HEAD + b"\r\n", [200, 200]),
    (HEAD.replace(b"GET", b"HEAD") + b"\r\n", [200, 200]),
    # After an error, the connection stays open or is closed.
    (HEAD.replace(b"models", b"fail") + b"\r\n", [500, 200]),
    (POST + b"Content-Length: 2\r\n\r\n{}", [400, 200]),
    (POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", [400]),
    (POST + b"Content-Length: 4\r\n" + CHUNKED, [400]),
    # A head has a limit. A long body is read to its end.
    (HEAD + b"X-Long: %s\r\n\r\n" % (b"a" * 2**17), [431]),
    (POST + b"Content-Length: 1000000\r\n\r\n" + b" " * 10**6, [400, 200]),
  ],
)
def test_connection_goes_on_or_is_closed(service, sent, statuses):
  """The server never takes bytes of one request for another request."""
  application = app.make(service)

  @application.get("/v1/fail")
  def fail():
    raise RuntimeError

  with _connected(application) as connection:
    connection.sendall(sent + HEAD + b"Connection: close\r\n\r\n")
    answers = b"".join(iter(lambda: connection.recv(2**16), b""))
  found = re.findall(rb"HTTP/1.1 (\d+) ", answers)
  assert [int(status) for status in found] == statuses


def test_endless_head_ends_its_connection(service):
  with (
    _connected(app.make(service)) as connection,
    pytest.raises((BrokenPipeError, ConnectionResetError)),
  ):
    connection.sendall(HEAD + b"X-Endless: " + b"a" * 2**26)


def test_client_that_leaves_as_the_engine_fails_is_not_reported(
  service, monkeypatch
):
  reported, left = [], asyncio.Event()
  tickets = [futures.Future() for _ in range(2)]
  monkeypatch.setattr(service.engine, "submit", lambda _: tickets)

  async def run():
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(context))
    answers = asyncio.create_task(
      service.answers([], types.SimpleNamespace(receive=left.wait))
    )
    await asyncio.sleep(0.01)
    left.set()
    for ticket in tickets:
      ticket.set_exception(RuntimeError("It failed."))
    with pytest.raises((ApiError, RuntimeError)):
      await answers
    gc.collect()

  asyncio.run(run())
  assert not reported


@pytest.mark.parametrize("trusted", ["", "127.0.0.1"])
def test_only_a_trusted_proxy_names_the_client(trusted):
  """A trusted proxy sets the client's address, and allows any host name."""
  options = _options(
    "--checkpoint=none", f"--forwarded_allow_ips={trusted}", "--port=0"
  )
  clients = []

  async def app(scope, receive, send):
    clients.append(scope["client"][0])
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body"})

  config = server_lib.make_config(options, app)
  config.load()
  http = testclient.TestClient(config.loaded_app, client=("127.0.0.1", 1))
  http.get("/", headers={"X-Forwarded-For": "10.0.0.1"})
  assert clients == ["10.0.0.1" if trusted else "127.0.0.1"]
  hosts = server_lib.make_limits(options).hosts
  assert hosts is None if trusted else "localhost" in hosts
