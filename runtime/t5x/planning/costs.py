"""The cost of a compiled program: memory, operations, exchanged bytes."""

import collections
from collections.abc import Mapping
import contextlib
import dataclasses
import math
import re
import time
from typing import Any

import jax
from jax.extend import core as jex_core
from jax.interpreters import partial_eval

from t5x.planning.programs import Program
from t5x.planning.targets import Target, attention_kernel

_QUICK = {"exec_time_optimization_effort": -1.0}
_COLLECTIVES = (
  "all-reduce",
  "all-gather",
  "reduce-scatter",
  "all-to-all",
  "collective-permute",
)
_BITS = re.compile(r"(?:f|bf|s|u|c)(\d+)|pred")
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_NAME = re.compile(r"%([\w.\-]+)")
_LIMIT = re.compile(r" = s32\[\]\S* constant\((\d+)\)")
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_OPERATION = re.compile(r" ([a-z\-]+?)(?:-start)?\(")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_KERNELS = re.compile(r'custom_call_target="([^"]+)"')
_NEEDS = re.compile(r"Used ([\d.]+)([GM]) of ([\d.]+)([GM]) hbm")
GIB = 2**30
_EVALUATION_NOTE = (
  "a run's batches have the longest inputs of their split, which nothing cuts; "
  "to give them: docs/accelerators.md"
)
# The greatest share of a GPU's memory that JAX can take.
_MOST_TAKEN = 0.95


@dataclasses.dataclass(frozen=True)
class CostReport:
  """The cost of a compiled program on one device: bytes, operations, seconds.

  Attributes:
    program: The program's name.
    topology: The target's name.
    devices: The number of devices.
    memory: The device's memory. If the program does not fit, the part that
      programs can use, such as 7.48 of 8 GiB on a TPU v2 core.
    weights: Bytes of the weights among the arguments.
    optimizer: Bytes of the optimizer state among the arguments.
    flops: Operations of matrix products.
    argument_bytes: Bytes of all arguments; the program reads each at least
      once.
    compile_seconds: Time to compile, on the machine that compiled.
    seconds_bound: A lower bound of a step; for evaluation, with answers of the
      greatest length. None for restoring, or if the target's speed is unknown.
    peak: The greatest memory needed at once; None if the compiler refused the
      program without saying.
    batch: Bytes of the batch among the arguments.
    temporaries: Bytes of everything else in memory, including activations.
    code: Bytes of the program itself, if the compiler reports them.
    collectives: Kind -> [times a step, bytes a step]; None if JAX cannot read
      the compiled program.
    kernels: Hand-written kernels in the program, such as for attention; None if
      JAX cannot read it.
    refused: The compiler's message if it made no program, or "".
    is_quick: Whether the compiler made the least effort.
    taken: The share of `memory` that JAX takes unless
      XLA_CLIENT_MEM_FRACTION says otherwise: 0.75 on a GPU.
  """

  program: str
  topology: str
  devices: int
  memory: float
  weights: int
  optimizer: int
  flops: float
  argument_bytes: int
  compile_seconds: float
  seconds_bound: float | None
  peak: float | None = None
  batch: int = 0
  temporaries: int = 0
  code: int = 0
  collectives: Mapping[str, list[int]] | None = dataclasses.field(
    default_factory=dict
  )
  kernels: list[str] | None = dataclasses.field(default_factory=list)
  refused: str = ""
  is_quick: bool = False
  taken: float = 1.0

  @property
  def fits(self) -> bool:
    """True if a device has the memory and JAX can take it."""
    most = 1.0 if self.taken == 1.0 else _MOST_TAKEN
    return not self.refused and (self.peak or 0) <= most * self.memory


def estimate(
  program: Program, target: Target, is_thorough: bool = False
) -> CostReport:
  """Compiles a program with its platform's own compiler.

  Args:
    program: The traced program.
    target: The devices to compile for.
    is_thorough: Whether the compiler for TPUs makes as much effort as for a
      run, which takes twice as long. With the least effort, operations are
      scheduled and tiled worse; sharding and the contents of memory are the
      same, except for the size of the code.

  Raises:
    ValueError: if the compiler refuses it for a reason other than memory.
  """
  state = program.state
  weights = bytes_of((state.trainable, state.frozen))
  optimizer = bytes_of(state.opt_state)
  flops = flops_of(program.traced, program.decode_steps) / len(target.devices)
  is_quick = target.is_tpu and not is_thorough
  start = time.monotonic()
  try:
    compiled = program.traced.lower().compile(_QUICK if is_quick else None)
  except jax.errors.JaxRuntimeError as e:
    message, read = str(e), weights + optimizer
    line = message.partition("\n")[0][:300]
    details: dict[str, Any] = {"refused": line}
    if needs := _NEEDS.search(message):
      scale = {"G": GIB, "M": 2**20}
      peak, memory = (float(needs[i]) * scale[needs[i + 1]] for i in (1, 3))
      details |= {"peak": peak, "memory": memory}
    elif "RESOURCE_EXHAUSTED" not in message:
      raise ValueError(
        f"The compiler refuses {program.name} on {target.name}: "
        f"{line.rstrip('.')}."
      ) from e
  else:
    details = _contents(program, compiled, weights, optimizer)
    read = compiled.memory_analysis().argument_size_in_bytes
  bound = None
  if program.name != "restore" and target.peak and target.bandwidth:
    bound = max(flops / target.peak, read / target.bandwidth)
  return CostReport(
    program=program.name,
    topology=target.name,
    devices=len(target.devices),
    weights=weights,
    optimizer=optimizer,
    flops=flops,
    argument_bytes=read,
    compile_seconds=round(time.monotonic() - start, 1),
    seconds_bound=bound,
    is_quick=is_quick,
    taken=target.taken,
    **{"memory": target.memory, **details},
  )


def _contents(
  program: Program, compiled: Any, weights: int, optimizer: int
) -> dict[str, Any]:
  """Returns the fields of a report on a compiled program."""
  memory = compiled.memory_analysis()
  unread, read = 0, weights + optimizer
  if program.name == "restore":
    # All weights are in memory too, and one stack of scanned layers twice.
    unread = weights + max(map(bytes_of, jax.tree.leaves(program.state.params)))
  if program.name == "evaluate":
    # The optimizer's state stays in memory, although evaluation never reads it.
    unread, read = optimizer, weights
  collectives = kernels = None
  # A newer compiler's operations may be unknown to JAX.
  with contextlib.suppress(jax.errors.JaxRuntimeError):
    if (text := compiled.as_text()) is not None:
      collectives = collectives_of(text, program.decode_steps)
      calls = sorted(set(_KERNELS.findall(text)))
      kernels = [x for x in calls if "fmha" in x or "tpu_custom" in x]
  return {
    "peak": memory.argument_size_in_bytes
    + unread
    + memory.temp_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
    + memory.generated_code_size_in_bytes,
    "batch": max(memory.argument_size_in_bytes - read, 0),
    "temporaries": memory.temp_size_in_bytes,
    "code": memory.generated_code_size_in_bytes,
    "collectives": collectives,
    "kernels": kernels,
  }


def bytes_of(tree: Any) -> int:
  """Returns the bytes that one device holds of sharded shapes."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
  )


def flops_of(traced: Any, decode_steps: int = 1) -> float:
  """Counts the operations of matrix products, in every iteration of loops.

  The compilers count the body of a loop once. Products of int8 count half: a
  chip does up to twice as many of them as of bfloat16, which its peak counts.

  Args:
    traced: The whole program, for all devices together, from
      `jax.jit(...).trace`.
    decode_steps: Iterations of a loop whose number is not in the program.
  """
  jaxpr = traced.jaxpr.jaxpr
  # Removes unused results, such as gradients of frozen weights.
  jaxpr, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
  return _flops(jaxpr, decode_steps)


def _flops(jaxpr: Any, decode_steps: int) -> float:
  total = 0.0
  for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
    # Functions that differentiate are not part of the computation.
    params = {
      name: value
      for name, value in equation.params.items()
      if name not in ("jvp_jaxpr_fun", "fwd_jaxpr_thunk", "bwd")
    }
    inside = [
      _flops(x, decode_steps)
      for x in jax.tree.leaves([*params.values()], is_leaf=_is_program)
      if _is_program(x)
    ]
    name = equation.primitive.name
    if name == "dot_general":
      (contracted, _), _ = params["dimension_numbers"]
      shape = equation.invars[0].aval.shape
      width = math.prod(shape[axis] for axis in contracted)
      is_int8 = all(x.aval.dtype == "int8" for x in equation.invars)
      times = 1.0 if is_int8 else 2.0
      total += times * width * math.prod(equation.outvars[0].aval.shape)
    elif name == "scan":
      total += params["length"] * sum(inside)
    elif name == "while":
      total += max(decode_steps, 1) * sum(inside)
    elif name == "cond":
      # Branches may be for platforms; the bound counts the cheapest.
      total += min(inside)
    elif name != "pallas_call":  # Kernels count 0, so the bound stays valid.
      total += sum(inside)
  return total


def _is_program(x: Any) -> bool:
  return isinstance(x, jex_core.Jaxpr | jex_core.ClosedJaxpr)


def collectives_of(text: str, decode_steps: int = 1) -> dict[str, list[int]]:
  """Counts the exchanges between devices.

  Args:
    text: The compiled program.
    decode_steps: Iterations of a loop whose number is not in the program.

  Returns:
    Kind -> [times, bytes], for the results on one device. Among branches, the
    one that exchanges most counts.
  """
  entry, lines = "", []
  computations: dict[str, list[str]] = {}
  for line in text.splitlines():
    if started := _COMPUTATION.match(line.strip()):
      lines = computations.setdefault(started[1], [])
      entry = started[1] if line.startswith("ENTRY") else entry
    elif " = " in line:
      lines.append(line)

  def trips(line: str) -> int:
    known = _TRIPS.findall(line)
    if not known:
      # The compiler for TPUs leaves the number in the loop's comparison.
      condition = computations.get(_CONDITION.findall(line)[0], ())
      known = _LIMIT.findall("\n".join(condition)) or [decode_steps]
    return max(1, *map(int, known))

  def visit(name: str) -> dict[str, list[int]]:
    found: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
    for line in computations.get(name, ()):
      match = _OPERATION.search(line)
      kind = match[1] if match else ""
      if match and kind in _COLLECTIVES:
        found[kind][0] += 1
        found[kind][1] += _result_bytes(line, match.start())
      attributes = _NAME.findall(line.partition("), ")[2])
      called = [visit(x) for x in attributes if x in computations]
      if kind == "conditional":
        by_size = sorted(called, key=lambda x: sum(y[1] for y in x.values()))
        called = by_size[-1:]  # Empty if the text lacks all branches.
      number = trips(line) if kind == "while" else 1
      for each, (times, size) in (x for y in called for x in y.items()):
        found[each][0] += number * times
        found[each][1] += number * size
    return found

  return dict(visit(entry))


def _result_bytes(line: str, end: int) -> int:
  """Returns the bytes of an instruction's result."""
  result = line[line.index(" = ") + 3 : end]
  sizes = []
  for dtype, shape in _SHAPE.findall(result):
    bits = _BITS.fullmatch(dtype)
    if bits and (dtype, shape) != ("u32", ""):  # u32[] is a context.
      count = math.prod(int(x) for x in shape.split(",") if x)
      sizes.append(count * int(bits[1] or 8) // 8)
  # A start lists its operands before its results, except for all-reduce.
  begins = re.match(r" ?([a-z-]+)-start\(", line[end:])
  if begins and begins[1] != "all-reduce":
    sizes = sizes[len(sizes) // 2 :]
  return sum(sizes)


def describe(found: CostReport, steps: int | None) -> str:
  """Returns lines on the memory and time that a program takes."""
  peak = "unknown" if found.peak is None else f"{found.peak / GIB:.2f} GiB"
  lines = [
    f"{found.program} on {found.topology}, {found.devices} devices: "
    f"{'fits' if found.fits else 'does not fit'}",
    f"  memory a device  {peak} of {found.memory / GIB:.2f} GiB",
    f"    weights        {found.weights / GIB:.3f} GiB",
    f"    optimizer      {found.optimizer / GIB:.3f} GiB",
    f"    batch          {found.batch / GIB:.3f} GiB",
    f"    temporaries    {found.temporaries / GIB:.3f} GiB (activations too)",
    f"    code           {found.code / GIB:.3f} GiB",
    f"  products         {found.flops / 1e12:.3f} TFLOP a device",
    f"  reads at least   {found.argument_bytes / GIB:.3f} GiB a device",
  ]
  if found.collectives is None:
    lines.append(
      "  exchanges        unknown, as JAX cannot read this compiler's program; "
      "the extra `plan` has a compiler whose programs it reads"
    )
  else:
    lines += [
      f"  {kind:17}{times} a step, {size / 1e9:.3f} GB a device"
      for kind, (times, size) in found.collectives.items()
    ] or ["  exchanges        nothing"]
  if found.flops and found.kernels is not None:
    kernel, attention = attention_kernel(found.topology), "plain"
    if found.kernels:
      attention = f"by kernels: {', '.join(found.kernels)}"
    elif kernel is not None:
      attention += (
        f"; --gin.network.T5Config.attention_kernel=\"'{kernel}'\" is a "
        "kernel's (docs/speed.md)"
      )
    lines.append(f"  attention        {attention}")
  if found.seconds_bound is not None:
    bound = found.seconds_bound
    lines.append(f"  bound            at least {bound:.4g} seconds a step")
    if steps:
      hours = bound * steps / 3600
      lines.append(
        f"  bound of {steps} steps: at least {hours:.3g} hours, "
        f"{hours * found.devices:.3g} device hours"
      )
  effort = ", with the least effort" if found.is_quick else ""
  lines.append(f"  compiled in      {found.compile_seconds:.0f} s{effort}")
  if found.fits and (found.peak or 0) > found.taken * found.memory:
    lines.append(
      f"  note             JAX takes {found.taken:.0%} of the memory unless "
      "told otherwise: XLA_CLIENT_MEM_FRACTION=0.95"
    )
  if found.refused:
    lines.append(f"  refused          {found.refused}")
  if found.program == "evaluate":
    lines.append(f"  note             {_EVALUATION_NOTE}")
  return "\n".join(lines)
