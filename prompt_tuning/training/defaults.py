"""Settings for a prompt by the size of its model, its data and the device.

Each one is a first guess: `--gin.NAME=VALUE` replaces it.
"""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import itertools
import math
import pathlib
import re
from typing import Any

import jax
import numpy as np
import psutil

from prompt_tuning.inference.frozen_model import FrozenModel
from prompt_tuning.models.layers import Config
from prompt_tuning.models.t5.config import T5Config

# The paper's settings are for models of more parameters than this.
_SMALL = 150_000_000
# Beyond this size, short prompts are as good (section 3.2 of the paper).
_LARGE = 2_000_000_000
_PAPERS_RATE = 0.3
# The best rate for T5 small, 1.0, over the root mean square of its embeddings.
_RELATIVE_RATE = 1 / 13.5
_PASSES = 30
_MOST_STEPS, _MOST_STEPS_ON_CPU = 5_000, 2_000
# Of gin/runs/by_length.gin.
BY_LENGTH = "NUM_LENGTHS"
# Inputs of so few tokens are not worth several compiled shapes.
_SHORT = 64
# Layers that are worth one program for all of them.
_MANY_LAYERS = 24
# Examples of a microbatch that keep a device busy.
_ROWS = 8
# Bytes of a score of attention, with its gradient and dropout, that are in
# memory at once: compiled steps for an A100 took 4.2 float32 numbers at most.
_BYTES_A_SCORE = 17
# The estimate and the compiler's own buffers differ.
_SAFETY = 1.2
_GIB = 2**30
# Linux alone has it.
_CPU = pathlib.Path("/proc/cpuinfo")
# A container's limit, in cgroups of version 2 and 1.
_LIMITS = (
  pathlib.Path("/sys/fs/cgroup/memory.max"),
  pathlib.Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


@dataclasses.dataclass(frozen=True)
class Facts:
  """The facts that determine the settings.

  Attributes:
    config: Sizes of the network.
    parameters: Its number of parameters.
    rows: Training examples.
    tokens: Tokens of the longest training input, without the prompt.
    labels: The number of legal targets; 0 if they are free text.
    platform: JAX's name of the device: "cpu", "gpu" or "tpu".
    memory: Bytes of the device's memory that JAX may use.
    multiplies_bfloat16: Whether the device has units for products of bfloat16.
    devices: Their number. They divide a batch.
    rate: The result of `prompt_rate`.
    given: Name -> value of the user's settings; the others are fitted to them.
  """

  config: Config
  parameters: int
  rows: int
  tokens: int
  labels: int
  platform: str
  memory: int
  multiplies_bfloat16: bool
  devices: int
  rate: float
  given: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Setting:
  """A setting and the reason for it.

  Attributes:
    name: Its name in gin.
    value: Its value.
    reason: A clause for the user.
  """

  name: str
  value: Any
  reason: str

  def __str__(self) -> str:
    return f"  {self.name.rpartition('.')[2]} = {self.value!r}: {self.reason}"


def devices() -> tuple[str, int, bool, int]:
  """Returns the fields `platform` to `devices` of the facts."""
  first, *others = jax.local_devices()
  limit = (first.memory_stats() or {}).get("bytes_limit")
  memory = limit or _host_memory() // (1 + len(others))
  multiplies = _multiplies_bfloat16(first)
  return first.platform, memory, multiplies, jax.device_count()


def divisible(batch: int, devices: int) -> int:
  """Returns the next batch size that so many devices divide."""
  return math.ceil(batch / devices) * devices


def _host_memory() -> int:
  """Returns the bytes of memory that this machine, or its container, has."""
  found = [psutil.virtual_memory().total]
  for file in _LIMITS:
    with contextlib.suppress(OSError, ValueError):  # "max" is no limit.
      found.append(int(file.read_text()))
  return min(found)


def _multiplies_bfloat16(first: Any) -> bool:
  """Returns whether a device has units for products of bfloat16.

  On CPUs, XLA uses Intel's AMX. Without it, a step of SmolLM2 in bfloat16 took
  1.4 times as long as in float32. NVIDIA GPUs have such units since compute
  capability 8.0; on a T4, which has 7.5, XLA multiplies in float32.
  """
  if first.platform != "cpu":
    older = r"[1-7]\.\d+"  # AMD's GPUs and TPUs say no number.
    capability = getattr(first, "compute_capability", "")
    return re.fullmatch(older, str(capability)) is None
  with contextlib.suppress(OSError):
    return "amx_bf16" in _CPU.read_text()
  return False


def prompt_rate(model: FrozenModel) -> float:
  """Returns the paper's rate or, for a decoder, one scaled to its embeddings.

  An update is as large as the rate, however small the initial embeddings are.
  """
  if isinstance(model.config, T5Config):
    return _PAPERS_RATE
  table = model.embedding
  size = float(np.linalg.norm(table)) / table.size**0.5
  return float(f"{_RELATIVE_RATE * size:.1g}")


def periods(steps: int, stats: int | None = None) -> tuple[int, int]:
  """Returns the steps between losses, and between the ten evaluations.

  Args:
    steps: Training steps.
    stats: Steps between losses, which divide those between evaluations; by
      default a hundredth of `steps`.
  """
  stats = stats or max(1, steps // 100)
  return stats, max(1, steps // 10 // stats) * stats


def is_by_length(platform: str, tokens: int) -> bool:
  """Returns whether to train by length; on accelerators it was not measured.

  Args:
    platform: JAX's name of the device.
    tokens: The longest input.
  """
  return platform == "cpu" and tokens > _SHORT


def choose(facts: Facts) -> list[Setting]:
  """Returns the settings of a run, in the order in which they matter."""
  # The run itself reports other values, including 0, as wrong.
  own = facts.given.items()
  given = {k: x for k, x in own if isinstance(x, int) and x > 0}
  is_small = facts.parameters < _SMALL
  is_cpu = facts.platform == "cpu"
  length, reason = 100, "the paper's default"
  if is_small:
    length, reason = 20, "enough for a small model, and quick"
  elif facts.parameters > _LARGE:
    length, reason = 20, "a large model gains little beyond it (paper, 3.2)"
  if facts.labels > length:
    length, reason = facts.labels, "a position for each label"
  length = given.get("PROMPT_LENGTH", length)
  batch = divisible(min(4 if is_cpu else 32, facts.rows), facts.devices)
  batch = given.get("BATCH_SIZE", batch)
  most = _MOST_STEPS_ON_CPU if is_cpu else _MOST_STEPS
  steps = min(max(_PASSES * facts.rows / batch, 500), most)
  steps = given.get("TRAIN_STEPS_RELATIVE", 100 * math.ceil(steps / 100))
  passes = f"{steps * batch / facts.rows:,.0f} passes over {facts.rows:,} rows"
  stats, evals = periods(steps, given.get("STATS_PERIOD"))
  rate = facts.rate, "the paper's"
  if not isinstance(facts.config, T5Config):
    rate = facts.rate, "small, as the model's embeddings are"
  elif is_small:
    rate = 1.0, "better than the paper's 0.3 here"
  of_batch = "short steps on a CPU" if is_cpu else "the paper's, or all rows"
  dtype = "float32", "exact"
  if facts.multiplies_bfloat16:
    dtype = "bfloat16", "twice as fast as float32"
  return [
    Setting("PROMPT_LENGTH", length, reason),
    Setting("LEARNING_RATE", *rate),
    Setting("BATCH_SIZE", batch, of_batch),
    Setting("TRAIN_STEPS_RELATIVE", steps, passes),
    Setting("EVAL_PERIOD", evals, "ten evaluations"),
    Setting("STATS_PERIOD", stats, "a hundred reports of the loss"),
    Setting("DROPOUT_RATE", 0.0, "without it prompts scored higher here"),
    Setting("ACTIVATION_DTYPE", *dtype),
    *_memory_settings(facts, length, batch),
  ]


def _memory_settings(
  facts: Facts, length: int, batch: int
) -> Iterator[Setting]:
  """Yields the cheapest settings whose step fits into the device's memory."""
  batch = max(batch // facts.devices, 1)  # Of one device.
  parts = [2**i for i in range(batch.bit_length()) if batch % 2**i == 0]
  dtypes = ("bfloat16",)
  if not facts.multiplies_bfloat16:
    dtypes = ("float32", "bfloat16")
  # Rematerialisation costs a third of a step, and so do tiny microbatches.
  large = [x for x in parts if batch // x >= min(_ROWS, batch)]
  choices = [
    *itertools.product([False], large, dtypes),
    *itertools.product([True], parts, dtypes),
  ]
  need, remat, count, dtype = 0.0, *choices[0]
  for remat, count, dtype in choices:
    need = step_bytes(facts, length, batch // count, remat, dtype)
    if need <= facts.memory:
      break
  memory = f"about {need / _GIB:.1f} of {facts.memory / _GIB:.1f} GiB"
  if need > facts.memory:
    memory += ", which may not fit"
  half = "half the memory" if dtype == "bfloat16" else "as in the checkpoint"
  yield Setting("PARAMETER_DTYPE", dtype, f"{half}; a step takes {memory}")
  if count > 1:
    yield Setting("NUM_MICROBATCHES", count, "a whole batch takes too much")
  elif is_by_length(facts.platform, facts.tokens):
    yield Setting(BY_LENGTH, 6, "a step has that many lengths, so less padding")
  if remat:
    name = f"{facts.config.GIN_NAME}.remat"
    yield Setting(name, True, "kept activations would take too much")
  if facts.config.stacks[0] >= _MANY_LAYERS:
    name = f"{facts.config.GIN_NAME}.scan_layers"
    yield Setting(name, True, "one layer is compiled for all")


def step_bytes(
  facts: Facts, length: int, examples: int, remat: bool, dtype: str
) -> float:
  """Estimates the memory of a training step, a little too high.

  Args:
    facts: The model, the inputs and the platform.
    length: Positions of the prompt.
    examples: Examples in a microbatch.
    remat: Whether each layer's activations are computed again.
    dtype: Of the frozen weights.
  """
  config, tokens = facts.config, length + facts.tokens
  wide = 4 if facts.platform == "cpu" else 2
  layers = sum(config.stacks)
  # On a CPU, attention never holds all scores.
  scores = config.num_heads * tokens**2 * _BYTES_A_SCORE
  scores = 0 if facts.platform == "cpu" else scores
  kept = tokens * config.emb_dim * wide
  inside = tokens * wide * (8 * config.emb_dim + 6 * config.mlp_dim)
  of_example = scores + inside + layers * kept
  if not remat:
    of_example += layers * (scores / 2 + inside)
  weights = facts.parameters * (4 if dtype == "float32" else 2)
  return weights + _SAFETY * examples * of_example
