"""Prints the memory of a server's process after each step, as JSON.

  python benchmarks/traffic/memory.py CHECKPOINT FOLDER

Compiled programs and leftovers of compiling are not copies of the model, so
they are counted apart from the memory for reading it.
"""

import t5x  # noqa: F401  # Before what imports TensorFlow, to keep that quiet.

# isort: split

import json
import pathlib
import sys
from typing import Any

from absl import logging
import jax

import prompt_tuning as pt
from prompt_tuning.commands import console, serve
from prompt_tuning.inference.batch_queue import Shape
from prompt_tuning.inference.engine import Engine
from prompt_tuning.inference.requests import Generation, Ranking, Request
from prompt_tuning.serving import server
from t5x.files import compilation_cache

# Read first, to leave out what reading any model takes once.
_SMALLEST = "checkpoints/ladder_xs/lm_100"
# Any token but the special ones.
_TOKEN = 5


def steps(checkpoint: str, folder: str) -> dict[str, Any]:
  """Runs a server's steps from its start to its answers.

  Args:
    checkpoint: The frozen model.
    folder: An empty folder for the server's prompts.

  Returns:
    For each step, the process's own ("anonymous") bytes, and those of its
    arrays.
  """
  smallest = pt.load(_SMALLEST).params
  jax.block_until_ready(smallest)
  found = {"libraries": _now()}
  words = (f"--checkpoint={checkpoint}", f"--prompts={folder}", "--jobs=")
  options = serve.complete(console.parse(["serve", *words]))
  engine = server.make_service(options).engine
  jax.block_until_ready(engine.model.params)
  found["loaded"] = _now()
  with engine:
    found["compiled"] = _now()
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # The peak so far.
    for shape in engine.settings.shapes:
      _answer(engine, shape)
    found["answered"] = _now()
  return {
    "steps": found,
    "peak_bytes": _kilobytes("status", "VmHWM"),
    "compiled_resident_bytes": found["compiled"]["resident"],
    "programs": len(engine._programs),
    "table_bytes": engine.table.array.nbytes,
    "model_bytes": sum(x.nbytes for x in jax.tree.leaves(engine.model.params)),
  }


def _answer(engine: Engine, shape: Shape) -> None:
  """Answers a full batch of a shape."""
  requests: list[Request] = []
  for row in range(engine.settings.shapes.rows_of(shape)[-1]):
    tokens = (_TOKEN + row,) * shape.length  # Rows of equal inputs share one.
    if shape.kind == "rank":
      label = (_TOKEN,) * shape.steps
      requests.append(Ranking(tokens, None, (label,)))
    else:
      requests.append(
        Generation(tokens, None, shape.steps, num_beams=shape.beams)
      )
  for ticket in engine.submit(requests):
    ticket.future.result()


def _now() -> dict[str, int]:
  return {
    "anonymous": _kilobytes("smaps_rollup", "Anonymous"),
    "resident": _kilobytes("smaps_rollup", "Rss"),
    "arrays": sum(x.nbytes for x in jax.live_arrays()),
  }


def _kilobytes(file: str, name: str) -> int:
  """Reads a size of this process, in bytes."""
  for line in pathlib.Path("/proc/self", file).read_text().splitlines():
    if line.startswith(f"{name}:"):
      return int(line.split()[1]) * 1024
  raise ValueError(f"There is no {name} in {file}.")


if __name__ == "__main__":
  logging.set_verbosity(logging.WARNING)
  compilation_cache.enable()
  print(json.dumps(steps(*sys.argv[1:])))
