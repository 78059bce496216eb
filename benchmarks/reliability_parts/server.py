"""A server and its worker, killed under load."""

from collections.abc import Iterator
from concurrent import futures
import contextlib
import functools
import os
import pathlib
import signal
import tempfile
import threading

import httpx
import numpy as np

import prompt_tuning as pt
from prompt_tuning import prompt_files
from reliability_parts import cases
from traffic import mixed, servers
from traffic.servers import Server

_CHECKPOINT, _TASK = "checkpoints/ladder_m/lm_100", "ladder_boolq"
# Steps of a job, enough for it to be running at the time of the kill.
_STEPS = 200
_CLIENTS = 4
# Only one length of inputs, so that a start takes seconds.
_FLAGS = ("--lengths=192", "--rows=4", "--max_tokens=8", "--labels=16")
_PUT_SECONDS = 0.2


def run(scratch: pathlib.Path, *, full: bool) -> dict[str, int | float]:
  """Kills servers and workers in turns.

  Args:
    scratch: A folder for the finished rounds.
    full: Whether to kill 60 times, or twice.

  Returns:
    The counts of kills; of prompts, files and jobs that were `accepted`, and
    that were `lost`; of requests with `answers` equal to a lone request's, and
    with `wrong` ones. A job's prompt is wrong unless an undisturbed job's is
    the same.
  """
  rounds, kills = (15, 4) if full else (1, 2)
  call = functools.partial(_round, kills)
  return cases.count(scratch, {f"round {i}": call for i in range(rounds)})


def _round(kills: int) -> dict[str, int]:
  """Kills a server and its worker while requests, prompts and jobs come in."""
  texts = mixed.texts(pt.load(_CHECKPOINT), _TASK, 64)
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    server = Server(_CHECKPOINT, folder, *_FLAGS)
    try:
      server.start()
      content, *others = server.put_prompts()
      names = [f"prompt_{i}" for i in range(len(others) + 1)]
      load = _Load(server, content, names, texts[:3])
      undisturbed = server.start_job(server.upload(texts), _STEPS)
      expected = _prompt(server, undisturbed, folder)
      files, jobs = [], []
      for i in range(kills):
        files.append(server.upload(texts))
        jobs.append(server.start_job(files[-1], _STEPS))
        with load.running():
          before = _checkpoints(server, jobs)
          servers.wait_until(lambda x=before: _checkpoints(server, jobs) > x)
          if i % 2:
            os.kill(server.worker, signal.SIGKILL)
          else:
            server.stop(signal.SIGKILL)
        if not i % 2:
          server.start()
      prompts = [_prompt(server, job, folder) for job in jobs]
      known = {file.id for file in server.openai.files.list()}
      puts = [server.http.get(f"{url}?format=npy") for url in load.accepted]
      lost = [x.content for x in puts if x.content != content]
      wrong = [x for x in prompts if x not in (None, expected)]
      return {
        "kills": kills,
        "accepted": len(jobs) + len(files) + len(puts),
        "lost": len(lost) + prompts.count(None) + len(set(files) - known),
        **load.counts,
        "wrong": load.counts["wrong"] + len(wrong),
      }
    finally:
      server.stop()


def _prompt(server: Server, job: str, folder: pathlib.Path) -> bytes | None:
  """Waits for a job's end; returns its prompt, or None if it is missing."""
  servers.wait_until(lambda: server.jobs.retrieve(job).finished_at is not None)
  name = server.jobs.retrieve(job).fine_tuned_model
  if name is None:
    return None
  path = folder / "prompts" / f"{name}.safetensors"
  return prompt_files.load_prompt(path)[0].tobytes()


def _checkpoints(server: Server, jobs: list[str]) -> int:
  return sum(len(server.events(job, "checkpoint")) for job in jobs)


class _Load:
  """Clients that send requests to a server and put prompts.

  Attributes:
    accepted: The paths of prompts that were put.
    counts: Requests with right `answers` or `wrong` ones, and requests that
      were `refused` temporarily or `failed` in another way.
  """

  def __init__(
    self, server: Server, content: bytes, names: list[str], texts: list[str]
  ):
    """Sends every request once, one after another."""
    self.accepted: list[str] = []
    self.counts = dict.fromkeys(("answers", "wrong", "refused", "failed"), 0)
    self._server, self._content = server, content
    self._lock, self._stop = threading.Lock(), threading.Event()
    self._keys = [(name, text) for name in names for text in texts]
    self._expected = [self._ask(*x).json()["choices"] for x in self._keys]

  def _ask(self, name: str, text: str) -> httpx.Response:
    body = {"model": name, "prompt": text, "max_tokens": mixed.TOKENS}
    return self._server.http.post("/v1/completions", json=body)

  @contextlib.contextmanager
  def running(self) -> Iterator[None]:
    """Sends requests and prompts until the `with` ends."""
    self._stop.clear()
    with futures.ThreadPoolExecutor(_CLIENTS + 1) as threads:
      threads.submit(self._put)
      for seed in range(_CLIENTS):
        threads.submit(self._work, seed)
      try:
        yield
      finally:
        self._stop.set()

  def _work(self, seed: int) -> None:
    rng = np.random.default_rng(seed)
    while not self._stop.is_set():
      index = int(rng.integers(len(self._keys)))
      with contextlib.suppress(httpx.HTTPError):  # The server is gone.
        answer = self._ask(*self._keys[index])
        kind = "refused" if answer.status_code in (429, 503) else "failed"
        if answer.status_code == 200:
          is_right = answer.json()["choices"] == self._expected[index]
          kind = "answers" if is_right else "wrong"
        with self._lock:
          self.counts[kind] += 1

  def _put(self) -> None:
    while not self._stop.wait(_PUT_SECONDS):
      url = f"/v1/prompts/put_{len(self.accepted)}"
      with contextlib.suppress(httpx.HTTPError):
        put = self._server.http.put(url, content=self._content)
        if put.status_code == 201:
          self.accepted.append(url)
