"""A server in a separate process, and its traffic."""

import asyncio
from collections.abc import Callable, Sequence
import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import aiohttp
import httpx
import numpy as np
import openai

import harness
import prompt_tuning as pt
from prompt_tuning import prompt_files
from traffic import mixed

LENGTHS = [round(x) for x in np.linspace(1, 100, 50)]
# Flags for short inputs and a short queue.
SHORT = (
  *("--lengths=64,96,128,192", "--max_tokens=16"),
  *("--labels=16", "--queue=64"),
)
_START_SECONDS = 600.0
_ANSWER_SECONDS = 120.0


class Server:
  """`prompt-tuning serve`, which may be killed and started again.

  Attributes:
    address: Host and port.
    http: A client of the server.
    openai: OpenAI's client of the server.
    jobs: The part of OpenAI's client for tuning jobs.
  """

  def __init__(
    self,
    checkpoint: str,
    folder: pathlib.Path,
    *flags: str,
    is_first: bool = False,
  ):
    """Starts nothing yet.

    Args:
      checkpoint: The frozen model; "" if the flags choose one.
      folder: A folder for prompts and jobs.
      *flags: Flags in place of `SHORT`; the last one of a name counts.
      is_first: Whether to start with an empty cache of compiled programs.
    """
    self._environment = dict(os.environ)
    if is_first:
      self._environment["XDG_CACHE_HOME"] = str(folder / "cache")
    self._checkpoint = checkpoint
    if checkpoint:
      flags = (
        f"--checkpoint={checkpoint}",
        f"--prompts={folder / 'prompts'}",
        f"--jobs={folder / 'jobs'}",
        *(flags or SHORT),
      )
    self._flags = flags
    with socket.socket() as probe:
      probe.bind(("127.0.0.1", 0))
      self.address: tuple[str, int] = probe.getsockname()
    url = f"http://127.0.0.1:{self.address[1]}"
    self.http = httpx.Client(base_url=url, timeout=60)
    self.openai = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    self.jobs = self.openai.fine_tuning.jobs
    self._process: Any = None

  def start(self) -> float:
    """Starts the server and waits until it answers; returns the seconds."""
    begin = time.monotonic()
    self._process = subprocess.Popen(
      [
        *(sys.executable, "-m", "prompt_tuning", "serve"),
        *(f"--port={self.address[1]}", "--access_log=", *self._flags),
      ],
      env=self._environment,
    )

    def is_ready() -> bool:
      assert self._process.poll() is None
      with contextlib.suppress(httpx.HTTPError):
        return self.http.get("/readyz").status_code == 200
      return False

    wait_until(is_ready, _START_SECONDS)
    return time.monotonic() - begin

  def stop(self, sig: int = signal.SIGTERM) -> None:
    """Ends the server."""
    if self._process is not None:
      self._process.send_signal(sig)
      self._process.wait()

  @property
  def resident_bytes(self) -> int:
    """Returns the server's bytes in memory, without its worker's."""
    return harness.process_bytes("VmRSS", pid=self._process.pid)

  @property
  def own_bytes(self) -> int:
    """Returns the bytes in memory of all its processes.

    A page that several processes map counts partly for each.
    """
    return sum(
      harness.process_bytes("Pss", "smaps_rollup", pid)
      for pid in (self._process.pid, *self._children)
    )

  @property
  def worker(self) -> int:
    """Returns the process id of its only worker."""
    (worker,) = self._children
    return worker

  @property
  def _children(self) -> set[int]:
    threads = pathlib.Path(f"/proc/{self._process.pid}/task")
    return {
      int(child)
      for path in threads.glob("*/children")
      for child in path.read_text().split()
    }

  def metric(self, name: str) -> float:
    """Reads a metric without labels."""
    for line in self.http.get("/metrics").text.splitlines():
      if line.startswith(f"prompt_tuning_{name} "):
        return float(line.rpartition(" ")[2])
    raise ValueError(f"There is no metric {name}.")

  def put_prompts(self) -> list[bytes]:
    """Puts fifty prompts; returns their files."""
    contents = []
    for prompt in mixed.make_prompts(pt.load(self._checkpoint), LENGTHS):
      contents.append(prompt_files.content(prompt.array, None, ".npy"))
      url = f"/v1/prompts/{prompt.name}"
      self.http.put(url, content=contents[-1]).raise_for_status()
    return contents

  def upload(self, texts: Sequence[str]) -> str:
    """Uploads a data set of some texts; returns its id."""
    lines = "\n".join(
      json.dumps({"prompt": x, "completion": "True" if i % 2 else "False"})
      for i, x in enumerate(texts[:64])
    )
    file = ("data.jsonl", lines.encode())
    return self.openai.files.create(file=file, purpose="fine-tune").id

  def start_job(self, file: str, steps: int) -> str:
    """Starts to tune a prompt; returns the job's id."""
    sizes: Any = {"steps": steps, "length": 10, "batch_size": 8}
    job = self.jobs.create(
      model=self.openai.models.list().data[0].id,
      training_file=file,
      validation_file=file,
      hyperparameters=sizes,
    )
    return job.id

  def events(self, id: str, kind: str) -> list[dict[str, Any]]:
    """Returns a job's events of one kind, the newest first."""
    events = self.http.get(f"/v1/fine_tuning/jobs/{id}/events").json()["data"]
    return [event["data"] for event in events if event["kind"] == kind]


class Traffic:
  """Requests for some prompts, at a fixed rate or each after an answer."""

  def __init__(
    self, server: Server, texts: Sequence[str], shares: Sequence[float]
  ):
    """Sends nothing yet.

    Args:
      server: The server.
      texts: The inputs; each request has one of them.
      shares: The proportions of requests for `prompt_0` and so on.
    """
    self._url, self._texts = str(server.http.base_url), texts
    self._shares = np.cumsum(shares)
    self._rng = np.random.default_rng(0)
    # (seconds until the answer, status or 0 for no answer)
    self._done: list[tuple[float, int]] = []
    self._impolite = 0

  def _client(self) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
      self._url,
      # The server closes connections that were idle for five seconds.
      connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=3),
      timeout=aiohttp.ClientTimeout(total=_ANSWER_SECONDS),
    )

  def at_rate(self, rate: float, seconds: float) -> dict[str, Any]:
    """Sends `rate` requests per second, and waits for all answers.

    Earlier requests may still wait for answers when the next one is sent.

    Returns:
      Counts and latencies; a slow client lowers `sent_per_second`.
    """

    async def work() -> float:
      start, at = time.monotonic(), 0.0
      async with self._client() as client, asyncio.TaskGroup() as tasks:
        while at < seconds and time.monotonic() < start + seconds:
          await asyncio.sleep(max(0.0, start + at - time.monotonic()))
          tasks.create_task(self._send(client))
          at += float(self._rng.exponential(1 / rate))
        return time.monotonic() - start

    took = asyncio.run(work())
    statuses = [status for _, status in self._done]
    taken = [x for x, status in self._done if status == 200] or [np.nan]
    return {
      "requests": len(self._done),
      "sent_per_second": len(self._done) / took,
      "statuses": {str(x): statuses.count(x) for x in sorted(set(statuses))},
      "refused_without_retry_after": self._impolite,
      "p50_seconds": float(np.percentile(taken, 50)),
      "p99_seconds": float(np.percentile(taken, 99)),
    }

  def as_fast_as_answered(self, clients: int, seconds: float) -> float:
    """Lets each client send after each answer; returns answers per second."""
    start = time.monotonic()

    async def one(client: aiohttp.ClientSession) -> None:
      while time.monotonic() < start + seconds:
        await self._send(client)

    async def work() -> None:
      async with self._client() as client:
        await asyncio.gather(*(one(client) for _ in range(clients)))

    asyncio.run(work())
    took = time.monotonic() - start  # The last answers arrive after the end.
    return sum(status == 200 for _, status in self._done) / took

  async def _send(self, client: aiohttp.ClientSession) -> None:
    text = self._texts[int(self._rng.integers(len(self._texts)))]
    at = self._rng.random() * self._shares[-1]
    name = f"prompt_{np.searchsorted(self._shares, at, side='right')}"
    body = {"model": name, "prompt": text, "max_tokens": mixed.TOKENS}
    begin, status = time.monotonic(), 0
    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
      async with client.post("/v1/completions", json=body) as answer:
        await answer.read()
        status = answer.status
        self._impolite += status == 429 and "Retry-After" not in answer.headers
    self._done.append((time.monotonic() - begin, status))


def wait_until(condition: Callable[[], bool], seconds: float = 400.0) -> None:
  """Waits for a condition, which must become true."""
  deadline = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.1)
