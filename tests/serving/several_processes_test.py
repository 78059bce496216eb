"""Tests of server processes: one, and several at one address."""

from concurrent import futures
import contextlib
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys

import documented
import numpy as np
import openai
import pytest
import requests
import started

from prompt_tuning import cores
from prompt_tuning.commands import console

CHECKPOINT = documented.ROOT / "checkpoints" / "ladder_xs" / "lm_100"
TEXT = "Kate has a drum ."


def _words(folder, port, *words):
  sizes = "--rows=1 --lengths=32 --labels=16 --max_tokens=16"
  places = f"--checkpoint={CHECKPOINT} --prompts={folder} --jobs="
  command = f"serve --name=base --port={port} {sizes} {places}"
  return [*command.split(), *words]


def test_sigterm_lets_running_requests_finish(tmp_path):
  """After SIGTERM, a stream and waiting requests get their whole answers."""
  port = started.free_address().partition(":")[2]
  program = [sys.executable, "-m", "prompt_tuning"]
  program += _words(tmp_path, port, "--queue=999")
  server = f"http://127.0.0.1:{port}"
  # Sampling makes the answers long; the server has one row for all of them.
  body = {"model": "base", "prompt": TEXT, "max_tokens": 16, "n": 30}
  body |= {"temperature": 2, "seed": 1}

  def is_ready():
    with contextlib.suppress(requests.ConnectionError):
      return process.poll() or requests.get(f"{server}/readyz").ok

  def waiting():
    text = requests.get(f"{server}/metrics").text
    return re.search("^prompt_tuning_queue (.*)$", text, re.MULTILINE)[1]

  with contextlib.ExitStack() as stack:
    threads = stack.enter_context(futures.ThreadPoolExecutor(6))
    process = stack.enter_context(subprocess.Popen(program))
    stack.callback(process.kill)
    client = openai.OpenAI(api_key="any", base_url=f"{server}/v1")
    complete = stack.enter_context(client).completions.create
    started.wait(is_ready, 400)
    stream = complete(**body, stream=True)
    chunks = [next(stream)]
    asked = [threads.submit(complete, **body | {"n": 5}) for _ in range(6)]
    started.wait(lambda: float(waiting()) >= 6 * 5)
    assert not any(answer.done() for answer in asked)
    process.send_signal(signal.SIGTERM)
    chunks.extend(stream)
    # Uvicorn finishes its requests, then ends by the signal that it got.
    assert process.wait(60) in (0, -signal.SIGTERM)
  choices = [chunk.choices[0] for chunk in chunks]
  ends = [choice.index for choice in choices if choice.finish_reason]
  assert sorted(ends) == list(range(30))
  assert [len(answer.result().choices) for answer in asked] == [5] * 6


def _children(pid):
  """Returns the ids of a process's children, the servers last."""
  (found,) = pathlib.Path(f"/proc/{pid}/task").glob(f"{pid}/children")
  return [int(x) for x in found.read_text().split()]


def _is_over(pid):
  with contextlib.suppress(FileNotFoundError):
    return b"\nState:\tZ" in pathlib.Path(f"/proc/{pid}/status").read_bytes()
  return True


@pytest.mark.slow
@pytest.mark.skipif(os.cpu_count() == 1, reason="one core")
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_servers_share_an_address(tmp_path, capfd, end):
  """Servers share prompts, replace a killed server, and end together."""
  port = int(started.free_address(3).partition(":")[2])
  urls = [f"http://127.0.0.1:{port + i}" for i in range(3)]
  body = {"model": "mine", "prompt": TEXT, "max_tokens": 2}

  def answer(url):
    """Posts over a new connection; returns None without one."""
    with contextlib.suppress(requests.ConnectionError):
      return requests.post(f"{url}/v1/completions", json=body).ok

  def answered(url):
    text = requests.get(f"{url}/metrics").text
    count = re.search(r'answers_total\{.*"mine"} (.*)', text)
    return float(count[1]) if count else 0

  with contextlib.ExitStack() as stack:
    program = [sys.executable, "-m", "prompt_tuning"]
    program += _words(tmp_path, port, "--processes=2")
    process = stack.enter_context(subprocess.Popen(program))
    stack.callback(process.kill)
    for url in urls:
      started.wait(lambda url=url: answer(url) is not None, 400)
    np.save(prompt := tmp_path / "one.npy", np.ones((3, 64), np.float32))
    content = prompt.read_bytes()
    put = requests.put(f"{urls[1]}/v1/prompts/mine", data=content)
    assert put.status_code == 201, put.text
    started.wait(lambda: answer(urls[2]))
    before = [answered(url) for url in urls[1:]]
    assert all(answer(urls[0]) for _ in range(40))
    counts = [answered(url) for url in urls[1:]]
    assert sum(counts) == sum(before) + 40
    assert all(x > y for x, y in zip(counts, before, strict=True))
    *_, first, second = _children(process.pid)
    assert [os.sched_getaffinity(x) for x in (first, second)] == [
      {*share} for share in cores.shares(2)
    ]
    os.kill(first, signal.SIGKILL)
    started.wait(lambda: not answer(urls[1]))
    # The first replacement finds its port taken; the second is tried.
    with socket.create_server(("127.0.0.1", port + 1)):
      failed = "Server 1 ended with code 1. Starting another."
      started.wait(lambda: failed in capfd.readouterr().err, 400)
    assert all(answer(urls[0]) for _ in range(10))
    started.wait(lambda: answer(urls[1]), 400)
    *_, second, third = _children(process.pid)
    process.send_signal(end)
    assert process.wait(60) == (0 if end == signal.SIGTERM else -end)
    started.wait(lambda: _is_over(second) and _is_over(third))


@pytest.mark.slow
@pytest.mark.skipif(os.cpu_count() == 1, reason="one core")
def test_a_mistake_ends_all_of_them(tmp_path, capfd):
  assert console.main(_words(tmp_path, 0, "--processes=2", "--lengths=2"))
  message = capfd.readouterr().err
  assert "Error: --longest_prompt=0 leaves no room" in message
  assert re.search(r"Error: Server [12] ended with code 1, so", message)


def test_needs_a_core_for_each(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(cores, "shares", lambda count: [()] * count)
  assert console.main(_words(tmp_path, 0, "--processes=2"))
  assert "--processes=2 needs as many cores" in capsys.readouterr().err
