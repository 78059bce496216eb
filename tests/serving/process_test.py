"""A server as a process: what it says, and how it ends."""

import json
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest

ROOT = pathlib.Path(__file__).parents[2]
CHECKPOINT = ROOT / "checkpoints" / "ladder_xs" / "lm_100"
_QUEUE = "prompt_tuning_queue "
# At random, so that an answer is long.
BODY = {
  "model": "base",
  "prompt": "Kate has a drum .",
  "max_tokens": 64,
  "temperature": 2,
  "seed": 1,
}


class Server:
  """A server, and the lines that it wrote."""

  def __init__(self, folder: pathlib.Path, *options: str):
    with socket.create_server(("127.0.0.1", 0)) as free:
      self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
    self.process = subprocess.Popen(
      [
        *(sys.executable, "-m", "prompt_tuning", "serve", "--jobs="),
        *(f"--checkpoint={CHECKPOINT}", f"--prompts={folder}", "--name=base"),
        *(f"--port={self.url.rpartition(':')[2]}", "--rows=1"),
        *("--lengths=32", "--max_tokens=64", "--labels=16", "--queue=999"),
        *options,
      ],
      cwd=ROOT,
      stderr=subprocess.PIPE,
      text=True,
    )
    self.lines: list[str] = []
    self._reader = threading.Thread(target=self._read)
    self._reader.start()

  def _read(self) -> None:
    with self.process.stderr as lines:
      self.lines.extend(lines)

  def wait_until_ready(self) -> None:
    deadline = time.monotonic() + 180
    while not any("Ready" in line for line in self.lines):
      assert self.process.poll() is None
      assert time.monotonic() < deadline
      time.sleep(0.1)

  def waiting(self) -> float:
    """Returns how many inputs wait, as `/metrics` says."""
    text = httpx.get(f"{self.url}/metrics").text
    [line] = [x for x in text.splitlines() if x.startswith(_QUEUE)]
    return float(line.split()[1])

  def end(self) -> int:
    code = self.process.wait(60)
    self._reader.join()
    return code


@pytest.fixture
def server(tmp_path):
  server = Server(tmp_path)
  yield server
  server.process.kill()
  server.end()


def test_sigterm_lets_what_runs_finish(server):
  """A stream, and requests that wait for it: all get all of their answer."""
  server.wait_until_ready()
  assert any(f"Serving base: {server.url}/" in line for line in server.lines)
  answers = []

  def ask():
    body = {**BODY, "n": 60}
    answers.append(
      httpx.post(f"{server.url}/v1/completions", json=body, timeout=60)
    )

  threads = [threading.Thread(target=ask) for _ in range(6)]
  with httpx.stream(
    "POST",
    f"{server.url}/v1/completions",
    # One after another: there are no batches.
    json={**BODY, "n": 60, "stream": True},
    timeout=60,
  ) as stream:
    events = stream.iter_lines()
    first = next(events)
    for thread in threads:
      thread.start()
    while server.waiting() < 6 * 60:  # Inputs: all arrived.
      time.sleep(0.05)
    assert not answers
    server.process.send_signal(signal.SIGTERM)
    lines = [first, *filter(None, events)]
  for thread in threads:
    thread.join()
  assert lines[-1] == "data: [DONE]"
  chunks = [json.loads(x.removeprefix("data: ")) for x in lines[:-1]]
  ends = [x["choices"][0] for x in chunks if x["choices"][0]["finish_reason"]]
  assert sorted(end["index"] for end in ends) == list(range(60))
  assert [x.status_code for x in answers] == [200] * 6
  assert [len(x.json()["choices"]) for x in answers] == [60] * 6
  # Uvicorn ends, when all is done, by the signal that it got.
  assert server.end() in (0, -signal.SIGTERM)
  with pytest.raises(httpx.ConnectError):
    httpx.get(f"{server.url}/healthz")


@pytest.mark.parametrize(
  ("trusted", "statuses"), [("", [200, 429]), ("127.0.0.1", [200, 200])]
)
def test_only_a_trusted_proxy_says_who_asks(tmp_path, trusted, statuses):
  server = Server(
    tmp_path, "--requests_per_minute=1", f"--forwarded_allow_ips={trusted}"
  )
  try:
    server.wait_until_ready()
    other = httpx.get(f"{server.url}/readyz", headers={"Host": "evil.example"})
    assert other.status_code == (200 if trusted else 403)
    answers = [
      httpx.get(
        f"{server.url}/v1/models", headers={"X-Forwarded-For": f"10.0.0.{i}"}
      )
      for i in range(2)
    ]
  finally:
    server.process.terminate()
    server.end()
  assert [x.status_code for x in answers] == statuses
