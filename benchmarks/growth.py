"""Measures the growth of a step's cost with prompt, inputs, batch and model.

  python benchmarks/growth.py

One of the four grows at a time, from T5 small with 8 examples of 128 inputs and
a prompt of 100, in bfloat16. Each point has the FLOPs of the program's matrix
products, the bytes of its arguments and temporaries, the least CPU and wall
seconds of a few steps, and the memory that the process adds for them. Writes
`results/benchmarks/growth.json` and `results/growth.png`; `--draw` only draws.
"""

import ctypes
import dataclasses
import gc
import json
import time
from typing import Any

from absl import app, flags
import jax
import jax.numpy as jnp
from matplotlib import figure
import matplotlib.axes

from peers import cases, ours, prompted, report, worker
from t5x import models, partitioning, train_state
from t5x.planning import costs
from t5x.runs import records

FLAGS = flags.FLAGS
flags.DEFINE_integer("steps", 3, "Timed steps of each point.")
flags.DEFINE_bool("draw", False, "Draw from the record.")

_START = cases.Case("step", "small", "bfloat16", 8, 128)
_POINTS = {
  "prompt": (1, 20, 50, 100, 150),
  "inputs": (32, 64, 128, 256, 512),
  "batch": (1, 4, 8, 16, 32),
  "size": ("tiny", "small", "base"),
}
_LABELS = {
  "prompt": "prompt, positions",
  "inputs": "inputs, tokens",
  "batch": "batch, examples",
  "size": "T5 1.1",
}


def measure(case: cases.Case) -> dict[str, Any]:
  """Counts and times a step of a case, with weights of zero."""
  model = ours.make_model(case, several=False, options={})
  (rows,) = case.batches()
  batch = jax.device_put(prompted.features(case, rows))
  shapes = jax.eval_shape(
    lambda: model.get_initial_variables(
      jax.random.key(0), {name: x.shape for name, x in batch.items()}
    )
  )["params"]
  params = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  trainable, frozen = train_state.split(
    params, model.optimizer_def.trainable(shapes)
  )

  def step(trainable, frozen, batch):
    rng = jax.random.key(0)
    return models.value_and_grad(model, trainable, frozen, batch, rng)

  before = _forget_peak()
  start = time.monotonic()
  partitioner = partitioning.PjitPartitioner(num_partitions=1)
  traced = partitioner.partition(step).trace(trainable, frozen, batch)
  program = traced.lower().compile()
  compiled = time.monotonic() - start
  memory = program.memory_analysis()
  _forget_peak()  # Leaves out the memory of compiling.
  seconds, cpu_seconds = [], []
  for _ in range(FLAGS.steps + 1):
    start, cpu = time.monotonic(), worker.cpu_seconds()
    jax.block_until_ready(program(trainable, frozen, batch))
    seconds.append(time.monotonic() - start)
    cpu_seconds.append(worker.cpu_seconds() - cpu)
  return {
    # XLA counts a loop once, as that of attention in blocks.
    "flops": costs.flops_of(traced),
    "argument_bytes": memory.argument_size_in_bytes,
    "temporary_bytes": memory.temp_size_in_bytes,
    # Beyond the process with the weights alone.
    "added_bytes": worker.peak_bytes() - before,
    "compile_seconds": compiled,
    # The first ran with a cold cache.
    "seconds": min(seconds[1:]),
    "cpu_seconds": min(cpu_seconds[1:]),
  }


def _forget_peak() -> int:
  """Resets Linux's count of peak memory; returns the current bytes."""
  gc.collect()
  ctypes.CDLL(None).malloc_trim(0)
  with open("/proc/self/clear_refs", "w", encoding="ascii") as f:
    f.write("5")
  return worker.peak_bytes()


def run() -> dict[str, Any]:
  """Measures all points, each case once."""
  # Keeps what a process takes once out of the first point.
  measure(dataclasses.replace(_START, size="tiny"))
  measured: dict[cases.Case, dict[str, Any]] = {}
  axes: dict[str, list[dict[str, Any]]] = {}
  for axis, values in _POINTS.items():
    axes[axis] = []
    for value in values:
      case = dataclasses.replace(_START, **{axis: value})
      if case not in measured:
        measured[case] = measure(case)
        print(axis, value, json.dumps(measured[case]), flush=True)
      axes[axis].append({axis: value, **measured[case]})
  return {
    "case": dataclasses.asdict(_START),
    **records.environment(),
    "axes": axes,
  }


def draw(record: dict[str, Any]) -> figure.Figure:
  """Draws a column for each axis: time above memory, measured and counted."""
  page = figure.Figure(figsize=(13, 6), layout="constrained")
  panels = page.subplots(2, len(record["axes"]), squeeze=False)
  for column, (axis, points) in zip(
    panels.T, record["axes"].items(), strict=True
  ):
    x = [point[axis] for point in points]
    _lines(
      column[0],
      x,
      {
        "CPU seconds": [point["cpu_seconds"] for point in points],
        "0.1 TFLOP, counted": [point["flops"] / 1e11 for point in points],
      },
    )
    _lines(
      column[1],
      x,
      {
        "a step, measured, GB": [
          point["added_bytes"] / 1e9 for point in points
        ],
        "temporaries, counted, GB": [
          point["temporary_bytes"] / 1e9 for point in points
        ],
      },
    )
    column[1].set_xlabel(_LABELS[axis])
  return page


def _lines(
  panel: matplotlib.axes.Axes, x: list[Any], lines: dict[str, list[float]]
) -> None:
  for (name, values), style in zip(lines.items(), ("o-", "s--"), strict=True):
    panel.plot(x, values, style, label=name, markersize=4)
  panel.set_ylim(bottom=0)
  panel.grid(alpha=0.3)
  panel.legend(fontsize="small")


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"Expected flags only, got {argv[1:]}.")
  if FLAGS.draw:
    record = json.loads((report.RECORDS / "growth.json").read_text())
  else:
    record = run()
    report.write("growth", record)
  draw(record).savefig(report.TABLE.with_name("growth.png"), dpi=110)


if __name__ == "__main__":
  app.run(main)
