"""A server's traffic for thousands of prompts, against traffic for one."""

import dataclasses
import pathlib
import time
from typing import Any

import numpy as np

import harness
import prompt_tuning as pt
from prompt_tuning import prompt_files
from prompt_tuning.inference.requests import TunedPrompt
from traffic import mixed, servers
from traffic.servers import Server

_CLIENTS = 32
# Latencies are compared at this fraction of the highest rate with one prompt.
_SHARE_OF_RATE = 0.7
_PUTS = 20


def many(
  checkpoint: str,
  task: str,
  number: int,
  rounds: int,
  seconds: float,
  folder: pathlib.Path,
  dtype: str,
) -> dict[str, Any]:
  """Compares traffic for many prompts with traffic for one, in turns.

  Args:
    checkpoint: The frozen model.
    task: The task of the inputs.
    number: Number of prompts, each of 20 positions.
    rounds: Turns of each kind of traffic.
    seconds: Seconds of a turn.
    folder: A folder for the prompts.
    dtype: The dtype of the server's activations and weights.

  Returns:
    Answers per second and latencies of each turn, the seconds of starts and
    from a `PUT` to the new prompt's first answer, and the server's memory.
  """
  model = pt.load(checkpoint)
  texts = mixed.texts(model, task, 500)
  found = _alike(model, number)
  # The share of requests for each prompt.
  shares = {
    **{"one": [1.0], "even": [1.0] * number},
    "zipf": [1 / i for i in range(1, number + 1)],
  }
  server = Server(checkpoint, folder, *servers.SHORT, f"--dtype={dtype}")

  def rate(kind: str) -> float:
    traffic = servers.Traffic(server, texts, shares[kind])
    return traffic.as_fast_as_answered(_CLIENTS, seconds)

  try:
    server.start()  # This may compile.
    server.stop()
    start_seconds = [server.start()]
    mixed.save_prompts(found[:1], folder)
    rate("one")  # This also warms up the server.
    resident = [server.resident_bytes]
    mixed.save_prompts(found[1:], folder)
    # An unknown name makes the server look for new files.
    last = f"/v1/models/{found[-1].name}"
    servers.wait_until(lambda: server.http.get(last).status_code == 200)
    rate("even")
    resident.append(server.resident_bytes)
    server.stop()
    start_seconds.append(server.start())
    rates: dict[str, list[float]] = {kind: [] for kind in shares}
    for _ in range(rounds):
      for kind in shares:
        rates[kind].append(rate(kind))
    at = _SHARE_OF_RATE * float(np.median(rates["one"]))
    held: dict[str, list[dict[str, Any]]] = {kind: [] for kind in shares}
    for _ in range(rounds):
      for kind, part in shares.items():
        traffic = servers.Traffic(server, texts, part)
        held[kind].append(traffic.at_rate(at, seconds))
    return {
      "number": number,
      "start_seconds": start_seconds,
      "resident_bytes": resident,
      "prompt_bytes": sum(prompt.array.nbytes for prompt in found),
      "rates": rates,
      "rate": at,
      "held": held,
      "put_seconds": [
        _first_answer(server, f"new_{i}", found[i].array, texts[0])
        for i in range(min(_PUTS, number))
      ],
    }
  finally:
    server.stop()


def _alike(model: pt.Model, number: int) -> list[TunedPrompt]:
  """Makes copies of a prompt.

  Answers of different prompts may be shorter, and then faster, whatever the
  number of prompts.
  """
  (prompt,) = mixed.make_prompts(model, [mixed.POSITIONS])
  return [
    dataclasses.replace(prompt, name=f"prompt_{i}") for i in range(number)
  ]


def _first_answer(
  server: Server, name: str, array: np.ndarray, text: str
) -> float:
  """Returns the seconds from a prompt's `PUT` to its first answer."""
  content = prompt_files.content(array, None, ".npy")
  body = {"model": name, "prompt": text, "max_tokens": mixed.TOKENS}
  start = time.monotonic()
  put = server.http.put(f"/v1/prompts/{name}", content=content)
  put.raise_for_status()
  server.http.post("/v1/completions", json=body).raise_for_status()
  return time.monotonic() - start


def values(record: dict[str, Any]) -> dict[str, Any]:
  """See `serving.rows`."""
  rates = {kind: np.array(x) for kind, x in record["rates"].items()}
  p99 = {
    kind: np.array([turn["p99_seconds"] for turn in turns])
    for kind, turns in record["held"].items()
  }
  turns = [turn for turns in record["held"].values() for turn in turns]
  answered = sum(turn["statuses"].get("200", 0) for turn in turns)
  before, after = record["resident_bytes"]
  return {
    **{kind: harness.spread(rates[kind] / rates["one"]) for kind in rates},
    "rate_of_one": np.median(rates["one"]),
    **{f"p99_{kind}": harness.spread(p99[kind] / p99["one"]) for kind in p99},
    "p99_ms": 1000 * np.median(p99["one"]),
    "failed": sum(turn["requests"] for turn in turns) - answered,
    "beyond": (after - before - record["prompt_bytes"]) / 1e6,
    "arrays": record["prompt_bytes"] / 1e6,
    "put": np.median(record["put_seconds"]),
    "slowest_put": max(record["put_seconds"]),
  }
