"""A server of its own process, and what is sent to it."""

import asyncio
from collections.abc import Callable, Sequence
import contextlib
import io
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import httpx
import numpy as np

import prompt_tuning as pt
from traffic import mixed

LENGTHS = [round(x) for x in np.linspace(1, 100, 50)]
_START_SECONDS = 600.0
_ANSWER_SECONDS = 120.0


class Server:
  """`python -m prompt_tuning.serve`, which may be killed and started again."""

  def __init__(
    self,
    checkpoint: str,
    folder: pathlib.Path,
    *flags: str,
    is_first: bool = False,
  ):
    """Starts nothing yet.

    Args:
      checkpoint: The frozen model.
      folder: For prompts and jobs.
      *flags: Instead of those of traffic: short inputs, and a short queue.
      is_first: Whether nothing was compiled before, and there is no demo yet.
    """
    self._environment = dict(os.environ)
    if is_first:
      self._environment["XDG_CACHE_HOME"] = str(folder / "cache")
    self.checkpoint, self.folder = checkpoint, folder
    self._flags = flags or (
      f"--checkpoint={checkpoint}",
      f"--prompts={folder / 'prompts'}",
      f"--jobs={folder / 'jobs'}",
      "--lengths=64,96,128,192",
      "--max_tokens=16",
      "--labels=16",
      "--queue=64",
    )
    with socket.socket() as probe:
      probe.bind(("127.0.0.1", 0))
      self.address: tuple[str, int] = probe.getsockname()
    self.url = f"http://127.0.0.1:{self.address[1]}"
    self._process: subprocess.Popen | None = None

  def start(self) -> float:
    """Starts, and waits until it answers; returns the seconds of it."""
    begin = time.monotonic()
    process = self._process = subprocess.Popen(
      [
        *(sys.executable, "-m", "prompt_tuning.serve"),
        *(f"--port={self.address[1]}", *self._flags),
      ],
      env=self._environment,
    )

    def is_ready() -> bool:
      assert process.poll() is None
      with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{self.url}/readyz").status_code == 200
      return False

    wait_until(is_ready, _START_SECONDS)
    return time.monotonic() - begin

  def stop(self, sig: int = signal.SIGTERM) -> None:
    """Ends it."""
    if self._process is not None:
      self._process.send_signal(sig)
      self._process.wait()

  @property
  def resident_bytes(self) -> int:
    """Its memory, without that of its worker."""
    assert self._process is not None
    statm = pathlib.Path(f"/proc/{self._process.pid}/statm").read_text()
    return int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE")

  @property
  def worker(self) -> int:
    """The process of its worker: there must be one."""
    assert self._process is not None
    threads = pathlib.Path(f"/proc/{self._process.pid}/task")
    (worker,) = {
      child
      for path in threads.glob("*/children")
      for child in path.read_text().split()
    }
    return int(worker)

  def metric(self, name: str) -> float:
    """Reads a metric without labels."""
    for line in httpx.get(f"{self.url}/metrics").text.splitlines():
      if line.startswith(f"{name} "):
        return float(line.rpartition(" ")[2])
    raise ValueError(f"There is no metric {name}.")

  def put_prompts(self) -> list[bytes]:
    """Puts fifty prompts; returns their files."""
    contents = []
    for prompt in mixed.make_prompts(pt.load(self.checkpoint), LENGTHS):
      buffer = io.BytesIO()
      np.save(buffer, prompt.array)
      contents.append(buffer.getvalue())
      url = f"{self.url}/v1/prompts/{prompt.name}"
      httpx.put(url, content=contents[-1]).raise_for_status()
    return contents

  def upload(self, texts: Sequence[str]) -> str:
    """Uploads a data set of some texts; returns its id."""
    lines = "\n".join(
      json.dumps({"prompt": x, "completion": "True" if i % 2 else "False"})
      for i, x in enumerate(texts[:64])
    )
    answer = httpx.post(
      f"{self.url}/v1/files",
      files={"file": ("data.jsonl", lines)},
      data={"purpose": "fine-tune"},
      timeout=60,
    )
    return answer.raise_for_status().json()["id"]

  def start_job(self, file: str, steps: int) -> str:
    """Starts to tune a prompt; returns the job's id."""
    base = httpx.get(f"{self.url}/v1/models").json()["data"][0]["id"]
    answer = httpx.post(
      f"{self.url}/v1/fine_tuning/jobs",
      json={
        "model": base,
        "training_file": file,
        "validation_file": file,
        "hyperparameters": {"steps": steps, "length": 10, "batch_size": 8},
      },
      timeout=60,
    )
    return answer.raise_for_status().json()["id"]

  def job(self, id: str) -> dict[str, Any]:
    """Returns a job."""
    return httpx.get(f"{self.url}/v1/fine_tuning/jobs/{id}", timeout=60).json()

  def events(self, id: str, kind: str) -> list[dict[str, Any]]:
    """Returns what a job told of one kind, the newest first."""
    url = f"{self.url}/v1/fine_tuning/jobs/{id}/events"
    events = httpx.get(url, timeout=60).json()["data"]
    return [event["data"] for event in events if event["kind"] == kind]

  def attempts(self, id: str) -> int:
    """Returns how often a job was begun, or begun again."""
    told = self.events(id, "status")
    return sum(data["status"] == "running" for data in told)


class _Connections:
  """Connections that are used again: a client that costs next to nothing."""

  # A server closes those that it hears nothing of for five seconds.
  _IDLE_SECONDS = 3.0

  def __init__(self, address: tuple[str, int]):
    """Opens none yet."""
    self._address = address
    # (when it was used, reader, writer), the last used last.
    self._free: list[
      tuple[float, asyncio.StreamReader, asyncio.StreamWriter]
    ] = []

  async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
    """Returns the status and the headers of an answer.

    Raises:
      OSError, EOFError: if there is none.
    """
    reader, writer = await self._open()
    try:
      head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n"
      kind = "Content-Type: application/json\r\n"
      length = f"Content-Length: {len(body)}\r\n"
      writer.write(f"{head}{kind}{length}\r\n".encode() + body)
      headers = (await reader.readuntil(b"\r\n\r\n")).lower()
      length = headers.partition(b"content-length:")[2].split()[0]
      await reader.readexactly(int(length))
    except BaseException:
      writer.close()
      raise
    self._free.append((time.monotonic(), reader, writer))
    return int(headers.split()[1]), headers

  async def _open(
    self,
  ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    late = time.monotonic() - self._IDLE_SECONDS
    while self._free and self._free[0][0] < late:
      self._free.pop(0)[2].close()
    if self._free:
      return self._free.pop()[1:]
    return await asyncio.open_connection(*self._address)

  def close(self) -> None:
    """Closes all."""
    for *_, writer in self._free:
      writer.close()


class Traffic:
  """Requests at a rate, whether or not earlier ones are answered."""

  def __init__(self, server: Server, texts: Sequence[str]):
    """Keeps its arguments."""
    self._texts = texts
    self._rng = np.random.default_rng(0)
    self._connections = _Connections(server.address)
    # (seconds that it took, status; 0: no answer)
    self._done: list[tuple[float, int]] = []
    self._impolite = 0
    self._seconds = float("nan")

  async def at_rate(self, rate: float, seconds: float) -> None:
    """Sends requests, `rate` a second, and waits for all answers."""
    start, at, tasks = time.monotonic(), 0.0, set()
    while at < seconds and time.monotonic() < start + seconds:
      await asyncio.sleep(max(0.0, start + at - time.monotonic()))
      task = asyncio.create_task(self._send())
      tasks.add(task)
      task.add_done_callback(tasks.discard)
      at += float(self._rng.exponential(1 / rate))
    self._seconds = time.monotonic() - start
    await asyncio.gather(*tasks)
    self._connections.close()

  async def as_fast_as_answered(self, clients: int, seconds: float) -> float:
    """Lets clients each send as they are answered; returns answers a second."""
    end = time.monotonic() + seconds

    async def one() -> None:
      while time.monotonic() < end:
        await self._send()

    await asyncio.gather(*(one() for _ in range(clients)))
    self._connections.close()
    return len(self._done) / seconds

  async def _send(self) -> None:
    text = self._texts[int(self._rng.integers(len(self._texts)))]
    name = f"prompt_{int(self._rng.integers(len(LENGTHS)))}"
    body = {"model": name, "prompt": text, "max_tokens": mixed.TOKENS}
    begin, status = time.monotonic(), 0
    with contextlib.suppress(OSError, EOFError, TimeoutError):
      async with asyncio.timeout(_ANSWER_SECONDS):
        status, headers = await self._connections.post(
          "/v1/completions", json.dumps(body).encode()
        )
      self._impolite += status == 429 and b"retry-after:" not in headers
    self._done.append((time.monotonic() - begin, status))

  def summary(self) -> dict[str, Any]:
    """What came of it; `sent_per_second` is less if this cannot follow."""
    statuses = [status for _, status in self._done]
    taken = [x for x, status in self._done if status == 200] or [np.nan]
    return {
      "requests": len(self._done),
      "sent_per_second": len(self._done) / self._seconds,
      "statuses": {str(x): statuses.count(x) for x in sorted(set(statuses))},
      "refused_without_retry_after": self._impolite,
      "p50_seconds": float(np.percentile(taken, 50)),
      "p99_seconds": float(np.percentile(taken, 99)),
    }


def send(
  server: Server, texts: Sequence[str], rate: float, seconds: float
) -> dict[str, Any]:
  """Sends requests at a rate; returns what came of it."""
  traffic = Traffic(server, texts)
  asyncio.run(traffic.at_rate(rate, seconds))
  return traffic.summary()


def wait_until(condition: Callable[[], bool], seconds: float = 400.0) -> None:
  """Waits for a condition, which must come."""
  deadline = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.1)
