"""A server of its own process, under load, and killed."""

import asyncio
from collections.abc import Iterator
import contextlib
import io
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import httpx
import numpy as np

import prompt_tuning as pt
from prompt_tuning import prompt_files
from traffic import mixed

_LENGTHS = [round(x) for x in np.linspace(1, 100, 50)]
_START_SECONDS = 600.0


class Server:
  """`python -m prompt_tuning.serve`, which may be killed and started again."""

  def __init__(self, checkpoint: str, folder: pathlib.Path):
    """Starts nothing yet."""
    self._checkpoint, self.folder = checkpoint, folder
    with socket.socket() as probe:
      probe.bind(("127.0.0.1", 0))
      self._port = probe.getsockname()[1]
    self.url = f"http://127.0.0.1:{self._port}"
    self.process: subprocess.Popen | None = None

  def start(self) -> None:
    """Starts, and waits until it answers."""
    self.process = subprocess.Popen(
      [
        *(sys.executable, "-m", "prompt_tuning.serve"),
        f"--checkpoint={self._checkpoint}",
        f"--prompts={self.folder / 'prompts'}",
        f"--jobs={self.folder / 'jobs'}",
        f"--port={self._port}",
        "--lengths=64,128,192",
        "--max_tokens=16",
        "--labels=16",
        "--queue=64",
      ]
    )
    deadline = time.monotonic() + _START_SECONDS
    while True:
      with contextlib.suppress(httpx.HTTPError):
        if httpx.get(f"{self.url}/readyz").status_code == 200:
          return
      assert self.process.poll() is None
      assert time.monotonic() < deadline
      time.sleep(0.2)

  def stop(self, sig: int = signal.SIGTERM) -> None:
    """Ends it."""
    if self.process is not None:
      self.process.send_signal(sig)
      self.process.wait()

  def metric(self, name: str) -> float:
    """Reads a metric without labels."""
    for line in httpx.get(f"{self.url}/metrics").text.splitlines():
      if line.startswith(f"{name} "):
        return float(line.rpartition(" ")[2])
    raise ValueError(f"There is no metric {name}.")


class Traffic:
  """Requests at a rate, whether or not earlier ones are answered."""

  def __init__(self, url: str, texts: list[str], names: list[str]):
    """Keeps its arguments."""
    self._url, self._texts, self._names = url, texts, names
    # (second of its start, seconds that it took, status; 0: no answer)
    self.done: list[tuple[float, float, int]] = []

  async def run(self, rate: float, seconds: float) -> None:
    """Sends requests, `rate` a second, and waits for all answers."""
    limits = httpx.Limits(max_connections=1000)
    rng, start = np.random.default_rng(0), time.monotonic()
    async with httpx.AsyncClient(timeout=120, limits=limits) as client:
      tasks, at = [], 0.0
      while at < seconds:
        await asyncio.sleep(max(0.0, start + at - time.monotonic()))
        text = self._texts[int(rng.integers(len(self._texts)))]
        name = self._names[int(rng.integers(len(self._names)))]
        tasks.append(asyncio.create_task(self._send(client, text, name, at)))
        at += float(rng.exponential(1 / rate))
      await asyncio.gather(*tasks)

  async def _send(
    self, client: httpx.AsyncClient, text: str, name: str, at: float
  ) -> None:
    body = {"model": name, "prompt": text, "max_tokens": mixed.TOKENS}
    begin, status = time.monotonic(), 0
    with contextlib.suppress(httpx.HTTPError):
      answer = await client.post(f"{self._url}/v1/completions", json=body)
      status = answer.status_code
    self.done.append((at, time.monotonic() - begin, status))

  def summary(self) -> dict[str, Any]:
    """What came of it."""
    statuses = [status for *_, status in self.done]
    taken = [x for _, x, status in self.done if status == 200] or [np.nan]
    return {
      "requests": len(self.done),
      "statuses": {str(x): statuses.count(x) for x in sorted(set(statuses))},
      "p50_seconds": float(np.percentile(taken, 50)),
      "p99_seconds": float(np.percentile(taken, 99)),
    }


def _send(server: Server, texts: list[str], rate: float, seconds: float):
  names = [f"prompt_{i}" for i in range(len(_LENGTHS))]
  traffic = Traffic(server.url, texts, names)
  asyncio.run(traffic.run(rate, seconds))
  return traffic


def _put_prompts(server: Server, checkpoint: str) -> list[bytes]:
  contents = []
  for prompt in mixed.make_prompts(pt.load(checkpoint), _LENGTHS):
    buffer = io.BytesIO()
    np.save(buffer, prompt.array)
    contents.append(buffer.getvalue())
    url = f"{server.url}/v1/prompts/{prompt.name}"
    httpx.put(url, content=contents[-1]).raise_for_status()
  return contents


def _highest_rate(server: Server, texts: list[str], seconds: float) -> float:
  """Finds a rate at which nothing is refused and nothing waits for long."""
  rate, held = 8.0, 4.0
  while rate <= 2048:
    found = _send(server, texts, rate, seconds).summary()
    if set(found["statuses"]) != {"200"} or found["p99_seconds"] > 2:
      break
    rate, held = rate * 1.5, rate
  return held


def _start_job(server: Server, steps: int, lines: bytes) -> str:
  with httpx.Client(base_url=server.url, timeout=60) as client:
    file = client.post(
      "/v1/files",
      files={"file": ("data.jsonl", lines)},
      data={"purpose": "fine-tune"},
    ).raise_for_status()
    base = client.get("/v1/models").json()["data"][0]["id"]
    job = client.post(
      "/v1/fine_tuning/jobs",
      json={
        "model": base,
        "training_file": file.json()["id"],
        "validation_file": file.json()["id"],
        "hyperparameters": {"steps": steps, "length": 10, "batch_size": 8},
      },
    ).raise_for_status()
  return job.json()["id"]


def _job(server: Server, id: str) -> dict[str, Any]:
  return httpx.get(f"{server.url}/v1/fine_tuning/jobs/{id}").json()


def _lines(texts: list[str]) -> bytes:
  return b"\n".join(
    json.dumps(
      {"prompt": x, "completion": "True" if i % 2 else "False"}
    ).encode()
    for i, x in enumerate(texts[:64])
  )


@contextlib.contextmanager
def _disturbed(server: Server, content: bytes) -> Iterator[list[int]]:
  """Adds and removes a prompt meanwhile, beside a client that hangs.

  Yields:
    The statuses of what was done with the prompt.
  """
  stop, statuses = threading.Event(), []
  host, _, port = server.url.removeprefix("http://").partition(":")
  hanging = socket.create_connection((host, int(port)))
  hanging.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n")

  def change() -> None:
    url = f"{server.url}/v1/prompts/passing"
    while not stop.wait(0.5):
      statuses.append(httpx.put(url, content=content).status_code)
      statuses.append(httpx.delete(url).status_code)

  thread = threading.Thread(target=change)
  thread.start()
  try:
    yield statuses
  finally:
    stop.set()
    thread.join()
    hanging.close()


def under_load(
  checkpoint: str, task: str, seconds: float, folder: pathlib.Path
) -> dict[str, Any]:
  """Loads a server at the highest rate that holds, then at twice that."""
  texts = mixed.texts(pt.load(checkpoint), task, 500)
  server = Server(checkpoint, folder)
  server.start()
  try:
    contents = _put_prompts(server, checkpoint)
    rate = 0.7 * _highest_rate(server, texts, min(10.0, seconds / 4))
    # Once the job has its memory and the server has seen all shapes.
    job = _start_job(server, 100_000, _lines(texts))
    _send(server, texts, rate / 2, min(30.0, seconds))
    before = server.metric("process_resident_memory_bytes")
    with _disturbed(server, contents[0]) as changes:
      held = _send(server, texts, rate, seconds).summary()
    after = server.metric("process_resident_memory_bytes")
    status = _job(server, job)["status"]
    over = _send(server, texts, 2 * rate, min(30.0, seconds)).summary()
    time.sleep(2)
    again = _send(server, texts, rate / 2, min(10.0, seconds)).summary()
    httpx.post(f"{server.url}/v1/fine_tuning/jobs/{job}/cancel")
    return {
      "rate": rate,
      "seconds": seconds,
      "held": held,
      "over": over,
      "again": again,
      "changes": len(changes),
      "failed_changes": sum(not 200 <= x < 300 for x in changes),
      "job": status,
      "bytes_before": before,
      "bytes_after": after,
      "prompt_table_bytes": server.metric("prompt_tuning_prompt_table_bytes"),
      "model_bytes": server.metric("prompt_tuning_model_bytes"),
    }
  finally:
    server.stop()


def rows_of_load(record: dict[str, Any]) -> list[tuple[str, str, str]]:
  """See `serving.rows`."""

  def failed(part: dict[str, Any]) -> int:
    known = part["statuses"].get("200", 0) + part["statuses"].get("429", 0)
    return part["requests"] - known

  held, over, again = record["held"], record["over"], record["again"]
  table = record["prompt_table_bytes"]
  growth = record["bytes_after"] - record["bytes_before"]
  return [
    ("requests a second", "", f"{record['rate']:.1f}"),
    ("seconds of load", "600", f"{record['seconds']:.0f}"),
    ("requests", "", str(held["requests"])),
    ("that failed and were not refused", "0", str(failed(held))),
    ("refused", "", str(held["statuses"].get("429", 0))),
    ("p50, ms", "", f"{1000 * held['p50_seconds']:.0f}"),
    ("p99, ms", "", f"{1000 * held['p99_seconds']:.0f}"),
    ("prompts put and deleted", "", str(record["changes"])),
    ("of which failed", "0", str(record["failed_changes"])),
    ("a job beside it", "running", record["job"]),
    ("growth of the server, MB", "flat", f"{growth / 1e6:.1f}"),
    (
      "at twice the rate: refused",
      "",
      str(over["statuses"].get("429", 0)),
    ),
    ("failed", "0", str(failed(over))),
    ("after it: failed or refused", "0", _not_answered(again)),
    (
      "table of prompts, MB",
      "< 50",
      f"{table / 1e6:.1f}",
    ),
    ("the model's parameters, MB", "", f"{record['model_bytes'] / 1e6:.1f}"),
  ]


def _not_answered(part: dict[str, Any]) -> str:
  return str(part["requests"] - part["statuses"].get("200", 0))


def kills(checkpoint: str, task: str, folder: pathlib.Path) -> dict[str, Any]:
  """Kills the worker, then the server under load, while a job runs."""
  texts = mixed.texts(pt.load(checkpoint), task, 100)
  server = Server(checkpoint, folder)
  server.start()
  _put_prompts(server, checkpoint)
  ids = [_start_job(server, 60, _lines(texts)) for _ in range(2)]
  try:
    _await(lambda: _has_checkpoint(server, ids[0]))
    os.kill(_worker(server), signal.SIGKILL)
    _await(lambda: _attempts(server, ids[0]) >= 2)
    sending = threading.Thread(target=_send, args=(server, texts, 5.0, 5.0))
    sending.start()
    time.sleep(2)
    server.stop(signal.SIGKILL)
    sending.join()
    server.start()
    _await(lambda: all(_job(server, x)["finished_at"] for x in ids))
    jobs = [_job(server, x) for x in ids]
    names = [job["fine_tuned_model"] for job in jobs]
    arrays = [
      prompt_files.load_prompt(folder / "prompts" / f"{name}.safetensors")[0]
      for name in names
    ]
    served = httpx.get(f"{server.url}/v1/models").json()["data"]
    return {
      "jobs": [job["status"] for job in jobs],
      "attempts": [_attempts(server, x) for x in ids],
      "same_prompt": arrays[0].tobytes() == arrays[1].tobytes(),
      "prompts": len(served) - 1,
      "expected_prompts": len(_LENGTHS) + len(ids),
    }
  finally:
    server.stop()


def rows_of_kills(record: dict[str, Any]) -> list[tuple[str, str, str]]:
  """See `serving.rows`."""
  same = "identical" if record["same_prompt"] else "another"
  return [
    ("jobs", "succeeded", ", ".join(record["jobs"])),
    ("times that they were begun", "", ", ".join(map(str, record["attempts"]))),
    ("prompt of the killed, to that of the other", "identical", same),
    ("prompts", str(record["expected_prompts"]), str(record["prompts"])),
  ]


def _await(condition, seconds: float = 900.0) -> None:
  deadline = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.1)


def _events(server: Server, id: str) -> list[dict[str, Any]]:
  url = f"{server.url}/v1/fine_tuning/jobs/{id}/events"
  return httpx.get(url).json()["data"]


def _has_checkpoint(server: Server, id: str) -> bool:
  return any(event["kind"] == "checkpoint" for event in _events(server, id))


def _attempts(server: Server, id: str) -> int:
  return sum(
    event["data"].get("status") == "running" for event in _events(server, id)
  )


def _worker(server: Server) -> int:
  """Finds the server's worker among its children."""
  assert server.process is not None
  pid = server.process.pid
  children = pathlib.Path(f"/proc/{pid}/task").glob("*/children")
  (worker,) = {x for path in children for x in path.read_text().split()}
  return int(worker)
