"""HTTP's share of a server's time: the same requests with and without HTTP."""

from collections.abc import Callable
import concurrent.futures
import itertools
import json
import pathlib
import shutil
import subprocess
import time
from typing import Any

import numpy as np

import harness
import prompt_tuning as pt
from prompt_tuning.commands import console, serve
from prompt_tuning.inference.requests import Generation
from prompt_tuning.serving import server as server_lib
from traffic import mixed, servers

_CLIENTS = 32
# A script for wrk, in Lua, that sends the lines of a file in turn.
_SCRIPT = """
local bodies, at = {}, 0
for line in io.lines("%s") do bodies[#bodies + 1] = line end
local headers = {["Content-Type"] = "application/json"}
function request()
  at = at %% #bodies + 1
  return wrk.format("POST", "/v1/completions", headers, bodies[at])
end
function done(summary, latency, requests)
  local errors = summary.errors
  local failed = errors.status + errors.connect + errors.read + errors.write
  io.write(string.format("\\n%%d %%d", summary.requests, failed))
end
"""


def over_http(
  model: pt.Model,
  task: str,
  rounds: int,
  seconds: float,
  folder: pathlib.Path,
  processes: int = 1,
) -> dict[str, Any]:
  """Compares a server, its engine in this process, and PEFT, in turns.

  Each turn answers as many requests as possible, each with an input and one of
  fifty prompts: 32 wrk clients call the server, 32 threads call the engine, and
  PEFT sets the adapter for each request.

  Args:
    model: The frozen model.
    task: The task of the inputs.
    rounds: Turns of each side.
    seconds: Seconds of a turn.
    folder: A folder for prompts and PEFT's files.
    processes: Number of the server's processes.

  Returns:
    Answers per second of each turn, and the number of wrk's failed requests.

  Raises:
    ValueError: if wrk is not installed.
  """
  if shutil.which("wrk") is None:
    raise ValueError("wrk is not installed: `apt install wrk`.")
  found = mixed.make_prompts(model, servers.LENGTHS)
  texts = mixed.texts(model, task, 500)
  order = np.random.default_rng(1).integers(0, len(found), len(texts)).tolist()
  pairs = list(zip(texts, order, strict=True))
  of_peft = mixed.peft_of(model, found, folder)
  prompts = f"--prompts={folder / 'engine'}"
  flags = (*servers.SHORT, f"--dtype={model.config.dtype}")
  places = (f"--checkpoint={model.checkpoint}", prompts, "--jobs=")
  options = serve.complete(console.parse(["serve", *places, *flags]))
  failed = 0

  def with_wrk() -> float:
    nonlocal failed
    requests, errors = _wrk(server, pairs, seconds, folder)
    failed += errors
    return (requests - errors) / seconds

  def of_engine(text: str, number: int) -> None:
    request = Generation(model.encode(text), found[number], mixed.TOKENS)
    (ticket,) = engine.submit([request])
    ticket.result()

  flags = (*flags, f"--processes={processes}")
  server = servers.Server(model.checkpoint, folder, *flags)
  try:
    server.start()
    server.put_prompts()
    with server_lib.make_service(options).engine as engine:
      sides = {
        "http": with_wrk,
        "engine": lambda: _rate(of_engine, pairs, seconds, _CLIENTS),
        "peft": lambda: _rate(of_peft, pairs, seconds, 1),
      }
      for ask in sides.values():
        ask()  # Warms up.
      failed = 0
      rates: dict[str, list[float]] = {name: [] for name in sides}
      for _ in range(rounds):
        for name, ask in sides.items():
          rates[name].append(ask())
  finally:
    server.stop()
  return {"clients": _CLIENTS, "rates": rates, "failed": failed}


def _wrk(
  server: servers.Server,
  pairs: list[tuple[str, int]],
  seconds: float,
  folder: pathlib.Path,
) -> tuple[int, int]:
  """Returns the number of wrk's requests, and of its failed ones."""
  bodies, script = folder / "bodies.jsonl", folder / "requests.lua"
  lines = (
    json.dumps(
      {"model": f"prompt_{i}", "prompt": text, "max_tokens": mixed.TOKENS}
    )
    for text, i in pairs
  )
  bodies.write_text("\n".join(lines) + "\n")
  script.write_text(_SCRIPT % bodies)
  sizes = ("-t1", f"-c{_CLIENTS}", f"-d{seconds:.0f}", "--timeout=60")
  words = ["wrk", *sizes, f"-s{script}", str(server.http.base_url)]
  said = subprocess.run(words, capture_output=True, text=True, check=True)
  requests, failed = map(int, said.stdout.split()[-2:])
  return requests, failed


def _rate(
  ask: Callable[[str, int], Any],
  pairs: list[tuple[str, int]],
  seconds: float,
  clients: int,
) -> float:
  """Returns answers per second of threads that call without a pause."""
  turns = itertools.cycle(pairs)
  start = time.monotonic()

  def client() -> int:
    done = 0
    while time.monotonic() < start + seconds:
      ask(*next(turns))
      done += 1
    return done

  with concurrent.futures.ThreadPoolExecutor(clients) as pool:
    counts = [pool.submit(client) for _ in range(clients)]
  return sum(x.result() for x in counts) / (time.monotonic() - start)


def values(record: dict[str, Any]) -> dict[str, Any]:
  """See `serving.rows`."""
  rates = {name: np.array(x) for name, x in record["rates"].items()}
  return {
    "rate": np.median(rates["http"]),
    "over_engine": harness.spread(rates["http"] / rates["engine"]),
    "over_peft": harness.spread(rates["http"] / rates["peft"]),
  }
