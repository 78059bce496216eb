"""Measures the start-up of a command: the time until its first step.

  python benchmarks/first_step.py -- --gin_file=gin/models/ladder_xs.gin ...

runs `python -m t5x.train` with the arguments after `--` to the end of its first
step, first with an empty cache of compiled programs, then with a full cache. It
prints the seconds from the start of the process, the part that JAX spent on
tracing, lowering and compiling, and the peak memory. `--checkout=DIR` runs
another checkout of this repository. The script adds a MODEL_DIR.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import harness

# The program that runs in the measured process.
_PROGRAM = """
import json, os, runpy, sys, time
import jax
spans = []
def listen(event, seconds, **_):
  if event.startswith("/jax/core/compile/"):
    spans.append((time.time() - seconds, time.time()))
def compiling(since):
  total, end = 0.0, since
  for start, stop in sorted(spans):  # Spans may be nested.
    total += max(0.0, stop - max(start, end))
    end = max(end, stop)
  return total
jax.monitoring.register_event_duration_secs_listener(listen)
from t5x import trainer
train_steps = trainer.Trainer.train_steps
def until_first(self, batches, steps, on_step=lambda: False):
  begun = time.time()
  train_steps(self, batches, 1)
  jax.block_until_ready(self.train_state)
  status = open("/proc/self/status").read().split()
  start = float(os.environ["FIRST_STEP_START"])
  facts = {
    "seconds": time.time() - start,
    "before_the_step": begun - start,
    "compiling": compiling(start),
    "compiling_the_step": compiling(begun),
    "peak_gb": int(status[status.index("VmHWM:") + 1]) * 1024 / 1e9,
  }
  print(json.dumps(facts), flush=True)
  os._exit(0)
trainer.Trainer.train_steps = until_first
sys.argv[0] = "train"
runpy.run_module("t5x.train", run_name="__main__", alter_sys=True)
"""


def first_step(
  checkout: pathlib.Path, cache: str, arguments: list[str]
) -> dict[str, float]:
  """Runs a command to its first step; returns seconds, and GB of memory."""
  with tempfile.TemporaryDirectory() as folder:
    done = subprocess.run(
      [
        *(sys.executable, "-c", _PROGRAM, *arguments),
        f"--gin.MODEL_DIR='{folder}/run'",
      ],
      cwd=checkout,
      env={
        **os.environ,
        "PYTHONPATH": f"{checkout}:{checkout / 'runtime'}",
        "XDG_CACHE_HOME": cache,
        "JAX_COMPILATION_CACHE_DIR": cache,
        "FIRST_STEP_START": str(time.time()),
      },
      capture_output=True,
      text=True,
      check=False,
    )
  *_, last = done.stdout.splitlines() or [""]
  if not last.startswith("{"):
    raise ValueError(f"No step was done:\n{done.stderr[-2000:]}")
  return json.loads(last)


def main() -> None:
  parser = harness.parser(__doc__)
  add = parser.add_argument
  add("--checkout", type=pathlib.Path, default=harness.ROOT)
  add("--warm", type=int, default=3, help="runs with a full cache")
  add("arguments", nargs="*", help="arguments of t5x.train, after --")
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as cache:
    for i in range(1 + args.warm):
      facts = first_step(args.checkout.resolve(), cache, args.arguments)
      line = ", ".join(f"{name} {x:.2f}" for name, x in facts.items())
      print(f"{'warm' if i else 'cold'}: {line}", flush=True)


if __name__ == "__main__":
  main()
