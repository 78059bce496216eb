"""A server under load."""

from collections.abc import Callable, Iterator
import contextlib
import functools
import json
import pathlib
import socket
import threading
import time
from typing import Any

import httpx

import prompt_tuning as pt
from prompt_tuning import prompt_files
from traffic import mixed, servers
from traffic.servers import Server

# At a sustainable rate, 99% of requests are answered within this many seconds.
_SLOWEST = 2.0
_SAMPLE_SECONDS = 5.0
# The factor between successive rates.
_STEP = 1.15


def _highest_rate(
  make: Callable[[], servers.Traffic], seconds: float
) -> tuple[float, list[dict[str, Any]]]:
  """Finds the highest rate at which nothing is refused or slow.

  The search starts near the rate of 32 clients that wait for their answers.

  Returns:
    The rate, and all rates that were tried.
  """
  rate = 0.9 * make().as_fast_as_answered(32, seconds)
  tried: list[dict[str, Any]] = []

  def holds(rate: float) -> bool:
    found = make().at_rate(rate, seconds)
    tried.append({"rate": rate, **found})
    return (
      set(found["statuses"]) == {"200"}
      and found["p99_seconds"] <= _SLOWEST
      and found["sent_per_second"] > 0.9 * rate  # Arrivals are random.
    )

  if holds(rate):
    while holds(_STEP * rate):
      rate *= _STEP
    return rate, tried
  while not holds(rate := rate / _STEP):
    pass
  return rate, tried


@contextlib.contextmanager
def _repeated(action: Callable[[], None], seconds: float) -> Iterator[None]:
  """Calls an action repeatedly, in a thread."""
  stop = threading.Event()

  def work() -> None:
    while not stop.wait(seconds):
      action()

  thread = threading.Thread(target=work)
  thread.start()
  try:
    yield
  finally:
    stop.set()
    thread.join()


@contextlib.contextmanager
def _hanging_clients(server: Server) -> Iterator[None]:
  """Adds a client that never ends its request, and another that never reads."""
  body = json.dumps(
    {"model": "prompt_0", "prompt": "a", "n": 8, "stream": True}
  )
  head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
  kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}"
  with (
    socket.create_connection(server.address) as half,
    socket.create_connection(server.address) as deaf,
  ):
    half.sendall(head.encode())
    deaf.sendall(f"{head}{kind}\r\n\r\n{body}".encode())
    yield


def under_load(
  checkpoint: str,
  task: str,
  number: int,
  seconds: float,
  folder: pathlib.Path,
) -> dict[str, Any]:
  """Loads a server at the highest sustainable rate, then at twice that rate.

  Requests are spread evenly over `number` prompts. A tuning job runs all the
  time.
  """
  model = pt.load(checkpoint)
  texts = mixed.texts(model, task, 500)
  found = mixed.make_prompts(model, [mixed.POSITIONS] * number)
  mixed.save_prompts(found, folder)
  content = prompt_files.content(found[0].array, None, ".npy")
  server = Server(checkpoint, folder)
  traffic = functools.partial(servers.Traffic, server, texts, [1] * number)
  try:
    started = server.start()
    job = server.start_job(server.upload(texts), 50_000)
    servers.wait_until(lambda: bool(server.events(job, "train")))
    rate, tried = _highest_rate(traffic, min(10.0, seconds / 4))
    url, changes, samples = "/v1/prompts/passing", [], []

    def change() -> None:
      for method, body in (("PUT", content), ("DELETE", None)):
        status = 0  # No answer.
        with contextlib.suppress(httpx.HTTPError):
          status = server.http.request(method, url, content=body).status_code
        changes.append(status)

    with (
      _hanging_clients(server),
      _repeated(change, 0.5),
      _repeated(lambda: samples.append(server.resident_bytes), _SAMPLE_SECONDS),
    ):
      held = traffic().at_rate(rate, seconds)
    steps = server.events(job, "train")[0]["step"]
    status = server.jobs.retrieve(job).status
    over = traffic().at_rate(2 * rate, min(30.0, seconds))
    time.sleep(1)  # The value of Retry-After.
    again = traffic().at_rate(rate / 2, min(15.0, seconds))
    server.jobs.cancel(job)
    return {
      "number": number,
      "start_seconds": started,
      "tried": tried,
      "rate": rate,
      "seconds": seconds,
      "held": held,
      "over": over,
      "again": again,
      "changes": len(changes),
      "failed_changes": sum(not 200 <= x < 300 for x in changes),
      "job": status,
      "job_steps": steps,
      "resident_bytes": samples,
    } | {
      name: server.metric(name)
      for name in ("prompt_table_bytes", "prompt_host_bytes", "model_bytes")
    }
  finally:
    server.stop()


def values(record: dict[str, Any]) -> dict[str, Any]:
  """See `serving.rows`."""
  held, over, again = record["held"], record["over"], record["again"]

  def failed(part: dict[str, Any], *refused: str) -> int:
    known = sum(part["statuses"].get(x, 0) for x in ("200", *refused))
    return part["requests"] - known

  # `early` is the second twelfth of the time, `late` the last.
  samples = record["resident_bytes"]
  twelfth = max(1, len(samples) // 12)
  table = record["prompt_table_bytes"] + record["prompt_host_bytes"]
  return {
    "held_failed": failed(held, "429"),
    "held_refused": held["statuses"].get("429", 0),
    "p50": 1000 * held["p50_seconds"],
    "p99": 1000 * held["p99_seconds"],
    "early": max(samples[twelfth : 2 * twelfth] or [0]) / 1e6,
    "late": max(samples[-twelfth:]) / 1e6,
    "over_refused": over["statuses"].get("429", 0),
    "over_failed": failed(over, "429"),
    "again_failed": failed(again),
    "table": table / 1e6,
    "model": record["model_bytes"] / 1e6,
  }
