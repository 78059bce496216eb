"""Time and memory of a server until it answers."""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

from traffic.servers import Server

_METRICS = ("model_bytes", "array_bytes", "prompt_table_bytes")


def starts(checkpoint: str, folder: pathlib.Path) -> dict[str, Any]:
  """Starts the demo twice, and a server of a model.

  The memory of its steps is measured in another process that repeats them.
  """
  demo = Server("", folder / "demo", "--demo", is_first=True)
  seconds = []
  for _ in range(2):
    try:
      seconds.append(demo.start())
    finally:
      demo.stop()
  place = folder / "model"
  memory = _memory(checkpoint, place)
  flags = (f"--checkpoint={checkpoint}", f"--prompts={folder}", "--jobs=")
  # It finds the programs that the other compiled.
  server = Server(checkpoint, place, *flags, is_first=True)
  try:
    started = server.start()
    found = {
      name: server.metric(f"prompt_tuning_{name}") for name in _METRICS
    } | {"resident_bytes": server.resident_bytes, "start_seconds": started}
  finally:
    server.stop()
  return {"demo_seconds": seconds, "server": found, "memory": memory}


def _memory(checkpoint: str, folder: pathlib.Path) -> dict[str, Any]:
  """Runs `memory.steps` in a process with an empty cache."""
  ended = subprocess.run(
    [
      *(sys.executable, pathlib.Path(__file__).with_name("memory.py")),
      *(checkpoint, folder / "prompts"),
    ],
    env={**os.environ, "XDG_CACHE_HOME": str(folder / "cache")},
    stdout=subprocess.PIPE,
    check=True,
  )
  return json.loads(ended.stdout.splitlines()[-1])


def rows(record: dict[str, Any]) -> list[tuple[str, str, str]]:
  """See `report.rows`."""
  first, again = record["demo_seconds"]
  server, memory = record["server"], record["memory"]
  steps, size = memory["steps"], memory["model_bytes"]
  arrays = server["array_bytes"] - server["prompt_table_bytes"]

  def growth(begin: str, end: str) -> int:
    return steps[end]["anonymous"] - steps[begin]["anonymous"]

  read = growth("libraries", "loaded") - memory["table_bytes"]
  peak = memory["peak_bytes"] - memory["compiled_resident_bytes"]
  return [
    ("seconds until the demo answers, the first time", "< 60", f"{first:.0f}"),
    ("again", "", f"{again:.0f}"),
    ("parameters, MB", "", _mb(size)),
    (
      "arrays of the server, without the table of prompts, as copies of them",
      "1",
      f"{arrays / server['model_bytes']:.2f}",
    ),
    ("memory that reading them takes, as copies", "1", f"{read / size:.2f}"),
    (
      f"that compiling {memory['programs']} programs takes, MB",
      "",
      _mb(growth("loaded", "compiled")),
    ),
    ("that answers take at their most, MB", "", _mb(peak)),
    (
      "that libraries take before, MB",
      "",
      _mb(steps["libraries"]["anonymous"]),
    ),
    (
      "of the server in all, files that are mapped included, MB",
      "",
      _mb(server["resident_bytes"]),
    ),
  ]


def _mb(size: float) -> str:
  return f"{size / 1e6:.0f}"
