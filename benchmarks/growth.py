"""Measures the growth of a step's cost with prompt, inputs, batch and model.

  python benchmarks/growth.py

One of the four grows at a time, starting from T5 small with 8 examples of 128
tokens and a prompt of 100, in bfloat16. Each point has the FLOPs of the
program's matrix products, the bytes of its arguments and temporaries, the least
CPU and wall seconds of a few steps, and the memory that they add. Writes
`results/benchmarks/growth.json` and `results/growth.png`; `--draw` only draws.
"""

import dataclasses
import gc
import json
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
from matplotlib import figure

import harness
from peers import cases, ours, prompted
from t5x import models, partitioning, train_state
from t5x.formats import stored_arrays
from t5x.planning import costs

# Number of timed steps of each point.
_STEPS = 3
_START = cases.Case("step", "small", "bfloat16", 8, 128)
# Axis -> its label and values.
_AXES = {
  "prompt": ("prompt, positions", (1, 20, 50, 100, 150)),
  "inputs": ("inputs, tokens", (32, 64, 128, 256, 512)),
  "batch": ("batch, examples", (1, 4, 8, 16, 32)),
  "size": ("T5 1.1", ("tiny", "small", "base")),
}
# For each line: its row of panels, label, field, unit and style.
_LINES = (
  (0, "CPU seconds", "cpu_seconds", 1, "o-"),
  (0, "0.1 TFLOP, counted", "flops", 1e11, "s--"),
  (1, "a step, measured, GB", "added_bytes", 1e9, "o-"),
  (1, "temporaries, counted, GB", "temporary_bytes", 1e9, "s--"),
)


def measure(case: cases.Case) -> dict[str, Any]:
  """Counts and times a step of a case, with zeros as weights."""
  model = ours.make_model(case)
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
  for _ in range(_STEPS + 1):
    start, cpu = time.monotonic(), time.process_time()
    jax.block_until_ready(program(trainable, frozen, batch))
    seconds.append(time.monotonic() - start)
    cpu_seconds.append(time.process_time() - cpu)
  return {
    # XLA counts a loop only once, such as the loop of blockwise attention.
    "flops": costs.flops_of(traced),
    "argument_bytes": memory.argument_size_in_bytes,
    "temporary_bytes": memory.temp_size_in_bytes,
    # Memory beyond that of the process with only the weights.
    "added_bytes": harness.process_bytes("VmHWM") - before,
    "compile_seconds": compiled,
    # Without the first step, which ran with a cold cache.
    "seconds": min(seconds[1:]),
    "cpu_seconds": min(cpu_seconds[1:]),
  }


def _forget_peak() -> int:
  """Resets Linux's count of peak memory; returns the current bytes."""
  gc.collect()
  stored_arrays.return_freed_memory()
  pathlib.Path("/proc/self/clear_refs").write_text("5")
  return harness.process_bytes("VmHWM")


def run() -> dict[str, Any]:
  """Measures all points, each case once."""
  # Keeps one-time costs of the process out of the first point.
  measure(dataclasses.replace(_START, size="tiny"))
  measured: dict[cases.Case, dict[str, Any]] = {}
  axes: dict[str, list[dict[str, Any]]] = {}
  for axis, (_, values) in _AXES.items():
    axes[axis] = []
    for value in values:
      case = dataclasses.replace(_START, **{axis: value})
      if case not in measured:
        measured[case] = measure(case)
        print(axis, value, json.dumps(measured[case]), flush=True)
      axes[axis].append({axis: value, **measured[case]})
  return {"case": dataclasses.asdict(_START), "axes": axes}


def draw(record: dict[str, Any]) -> figure.Figure:
  """Draws a column for each axis: time above memory, measured and counted."""
  page = figure.Figure(figsize=(13, 6), layout="constrained")
  panels = page.subplots(2, len(record["axes"]), squeeze=False)
  for column, (axis, points) in zip(
    panels.T, record["axes"].items(), strict=True
  ):
    x = [point[axis] for point in points]
    for row, label, name, unit, style in _LINES:
      values = [point[name] / unit for point in points]
      column[row].plot(x, values, style, label=label, markersize=4)
    for panel in column:
      panel.set_ylim(bottom=0)
      panel.grid(alpha=0.3)
      panel.legend(fontsize="small")
    column[1].set_xlabel(_AXES[axis][0])
  return page


def main() -> None:
  parser = harness.parser(__doc__)
  parser.add_argument("--draw", action="store_true", help="only draw")
  args = parser.parse_args()
  if not args.draw:
    harness.write("growth", run())
  record = json.loads((harness.RECORDS / "growth.json").read_text())
  draw(record).savefig(harness.RESULTS / "growth.png", dpi=110)


if __name__ == "__main__":
  main()
