"""Time and memory of a server until it answers.

Compiled programs and leftovers of compiling are not copies of the model, so
they are counted separately from the memory for reading it.
"""

from concurrent import futures
import multiprocessing
import os
import pathlib
from typing import Any

from absl import logging
import jax

import harness
import prompt_tuning as pt
from prompt_tuning.commands import console, serve
from prompt_tuning.inference.requests import Generation, Ranking
from prompt_tuning.serving import server as server_lib
from t5x.files import compilation_cache
from traffic.servers import Server

# A model that is read first, to leave out one-time costs of reading.
_SMALLEST = "checkpoints/ladder_xs/lm_100"
# Any token that is not a special one.
_TOKEN = 5


def starts(checkpoint: str, folder: pathlib.Path) -> dict[str, Any]:
  """Starts the demo twice, and a server of a model.

  The memory of the server's steps is measured in a process that repeats them.
  """
  demo = Server("", folder / "demo", "--demo", is_first=True)
  seconds = []
  for _ in range(2):
    try:
      seconds.append(demo.start())
    finally:
      demo.stop()
  place = folder / "model"
  context = multiprocessing.get_context("spawn")
  with futures.ProcessPoolExecutor(1, context) as process:
    memory = process.submit(_steps, checkpoint, place).result()
  # This one finds the programs that the other compiled.
  server = Server(checkpoint, place, "--jobs=", is_first=True)
  try:
    found = {
      "start_seconds": server.start(),
      "resident_bytes": server.resident_bytes,
    } | {
      name: server.metric(name)
      for name in ("model_bytes", "array_bytes", "prompt_table_bytes")
    }
  finally:
    server.stop()
  return {"demo_seconds": seconds, "server": found, "memory": memory}


def _steps(checkpoint: str, folder: pathlib.Path) -> dict[str, Any]:
  """Runs a server's steps from its start to its answers.

  Args:
    checkpoint: The frozen model.
    folder: A folder for compiled programs and the server's prompts.

  Returns:
    For each step, the process's own ("anonymous") bytes, and its arrays' bytes.
  """
  found = {}
  os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
  logging.set_verbosity(logging.WARNING)
  compilation_cache.enable()

  def note(step: str) -> None:
    found[step] = {
      "anonymous": harness.process_bytes("Anonymous", "smaps_rollup"),
      "resident": harness.process_bytes("Rss", "smaps_rollup"),
      "arrays": sum(x.nbytes for x in jax.live_arrays()),
    }

  smallest = pt.load(_SMALLEST).params
  jax.block_until_ready(smallest)
  note("libraries")
  prompts = f"--prompts={folder / 'prompts'}"
  words = (f"--checkpoint={checkpoint}", prompts, "--jobs=")
  options = serve.complete(console.parse(["serve", *words]))
  engine = server_lib.make_service(options).engine
  jax.block_until_ready(engine.model.params)
  note("loaded")
  with engine:
    note("compiled")
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # Resets the peak.
    shapes = engine.settings.shapes
    for shape in shapes:
      requests = []
      for row in range(shapes.rows_of(shape)[-1]):
        tokens = (_TOKEN + row,) * shape.length  # Equal inputs share a row.
        if shape.kind == "rank":
          requests.append(Ranking(tokens, None, ((_TOKEN,) * shape.steps,)))
        else:
          requests.append(
            Generation(tokens, None, shape.steps, num_beams=shape.beams)
          )
      for ticket in engine.submit(requests):
        ticket.result()
    note("answered")
  return {
    "steps": found,
    "peak_bytes": harness.process_bytes("VmHWM"),
    "compiled_resident_bytes": found["compiled"]["resident"],
    "programs": len(engine._programs),
    "table_bytes": engine.table.nbytes,
    "model_bytes": sum(x.nbytes for x in jax.tree.leaves(engine.model.params)),
  }


def values(record: dict[str, Any]) -> dict[str, Any]:
  """See `serving.rows`."""
  server, memory = record["server"], record["memory"]
  size = memory["model_bytes"]
  own = {name: step["anonymous"] for name, step in memory["steps"].items()}
  arrays = server["array_bytes"] - server["prompt_table_bytes"]
  read = own["loaded"] - own["libraries"] - memory["table_bytes"]
  return {
    "size": size / 1e6,
    "arrays": arrays / server["model_bytes"],
    "reading": read / size,
    "compiling": (own["compiled"] - own["loaded"]) / 1e6,
    "answering": (memory["peak_bytes"] - memory["compiled_resident_bytes"])
    / 1e6,
    "libraries": own["libraries"] / 1e6,
    "resident": server["resident_bytes"] / 1e6,
  }
