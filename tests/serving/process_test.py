"""Servers as processes: how they end, and how they share a folder."""

import argparse
import contextlib
import json
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import requests
import served
import uvicorn

from prompt_tuning.commands import serve as command
from prompt_tuning.serving import server as server_lib

ROOT = pathlib.Path(__file__).parents[2]
CHECKPOINT = ROOT / "checkpoints" / "ladder_xs" / "lm_100"
JOBS = "v1/fine_tuning/jobs"
TEXT = "Kate has a drum ."


def _until(look):
  """Returns the result of a function once it is true."""
  deadline = time.monotonic() + 180
  while time.monotonic() < deadline:
    with contextlib.suppress(requests.ConnectionError):
      if found := look():
        return found
    time.sleep(0.1)
  pytest.fail("It took too long.")


@contextlib.contextmanager
def _server(folder, *options):
  """Runs a server; yields its address and process, which SIGTERM must end."""
  with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
  process = subprocess.Popen(
    [
      *(sys.executable, "-m", "prompt_tuning", "serve", f"--port={port}"),
      *(f"--checkpoint={CHECKPOINT}", f"--prompts={folder}/prompts"),
      *("--name=base", "--rows=1", "--lengths=32", "--labels=16", *options),
    ],
    cwd=ROOT,
  )
  address = f"http://127.0.0.1:{port}"
  try:
    _until(lambda: process.poll() or requests.get(f"{address}/readyz").ok)
    yield address, process
    process.send_signal(signal.SIGTERM)
    # Uvicorn ends, when all is done, by the signal that it got.
    assert process.wait(60) in (0, -signal.SIGTERM)
  finally:
    process.kill()
    process.wait()


def _queue(address):
  """Returns how many inputs wait, as `/metrics` says."""
  name = "prompt_tuning_queue "
  text = requests.get(f"{address}/metrics").text
  [line] = [x for x in text.splitlines() if x.startswith(name)]
  return float(line.removeprefix(name))


def test_sigterm_lets_running_requests_finish(tmp_path):
  """A stream, and requests that wait for it, get their whole answers."""
  # At random, so that an answer is long; one row after another.
  body = {"model": "base", "prompt": TEXT, "max_tokens": 16, "n": 30}
  body |= {"temperature": 2, "seed": 1}
  answers = []
  options = "--jobs=", "--max_tokens=16", "--queue=999"
  with _server(tmp_path, *options) as (server, process):
    url = f"{server}/v1/completions"

    def ask():
      answers.append(requests.post(url, json=body, timeout=60))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    stream = requests.post(url, json={**body, "stream": True}, stream=True)
    events = filter(None, stream.iter_lines())
    lines = [next(events)]
    for thread in threads:
      thread.start()
    _until(lambda: _queue(server) >= 6 * 30)
    assert not answers
    process.send_signal(signal.SIGTERM)
    lines.extend(events)
  for thread in threads:
    thread.join()
  assert lines.pop() == b"data: [DONE]"
  choices = [json.loads(x[6:])["choices"][0] for x in lines]
  ends = [x["index"] for x in choices if x["finish_reason"]]
  assert sorted(ends) == list(range(30))
  assert [x.status_code for x in answers] == [200] * 6
  assert [len(x.json()["choices"]) for x in answers] == [30] * 6
  with pytest.raises(requests.ConnectionError):
    requests.get(f"{server}/healthz")


@pytest.mark.slow
def test_two_servers_of_one_folder(tmp_path):
  """A job of either, and its prompt, is known to both; one worker tunes."""
  options = tmp_path, f"--jobs={tmp_path}/jobs", "--max_tokens=4"

  def choices(server, model):
    body = {"model": model, "prompt": TEXT, "max_tokens": 4}
    answer = requests.post(f"{server}/v1/completions", json=body)
    return answer.json()["choices"]

  with _server(*options) as (first, _), _server(*options) as (second, _):
    rows = [{"prompt": f"Kate is {x} .", "completion": x} for x in ("in", "on")]
    file = requests.post(
      f"{first}/v1/files",
      data={"purpose": "fine-tune"},
      files={"file": ("data.jsonl", "\n".join(map(json.dumps, rows * 4)))},
    ).json()
    job = requests.post(
      f"{second}/{JOBS}",
      json={
        "model": "base",
        "training_file": file["id"],
        "suffix": "mine",
        "hyperparameters": {"length": 2, "steps": 2, "init": "sampled_vocab"},
      },
    ).json()

    def over():
      shown = requests.get(f"{first}/{JOBS}/{job['id']}").json()
      return shown if shown["status"] in ("succeeded", "failed") else None

    ended = _until(over)
    assert ended["status"] == "succeeded", ended["error"]
    name = ended["fine_tuned_model"]
    assert choices(first, name) == choices(second, name)
    events = requests.get(f"{second}/{JOBS}/{job['id']}/events").json()["data"]
    begun = [x for x in events if x["data"].get("status") == "running"]
    assert len(begun) == 1


@pytest.mark.parametrize("trusted", ["", "127.0.0.1"])
def test_only_a_trusted_proxy_names_the_client(trusted):
  """Its name counts for rates; behind a proxy, any host is allowed."""
  parser = argparse.ArgumentParser()
  command.add_arguments(parser)
  options = command.complete(
    parser.parse_args(
      ["--checkpoint=none", f"--forwarded_allow_ips={trusted}", "--port=0"]
    )
  )
  clients = []

  async def app(scope, receive, send):
    clients.append(scope["client"][0])
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body"})

  server = uvicorn.Server(server_lib.make_config(options, app))
  with served.running(server) as address:
    requests.get(address, headers={"X-Forwarded-For": "10.0.0.1"})
  assert clients == ["10.0.0.1" if trusted else "127.0.0.1"]
  hosts = server_lib.make_limits(options).hosts
  assert hosts is None if trusted else "localhost" in hosts
