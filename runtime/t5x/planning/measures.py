"""What a compiled program takes: memory, operations, what devices exchange."""

import collections
from collections.abc import Iterable, Mapping
import dataclasses
import math
import re
import time
from typing import Any

import jax
from jax.extend import core as jex_core
from jax.interpreters import partial_eval

from t5x.planning.programs import Program
from t5x.planning.targets import Target

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
_CALLED = re.compile(r"(?:body|condition|calls|to_apply)=\{?%?([\w.\-]+)")
_BRANCHES = re.compile(
  r"(?:branch|true|false)_computations?=(\{[^}]*\}|%?[\w.\-]+)"
)
_NAME = re.compile(r"[\w.\-]+")
_LIMIT = re.compile(r" = s32\[\]\S* constant\((\d+)\)")
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_OPERATION = re.compile(r" ([a-z\-]+?)(?:-start)?\(")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_KERNELS = re.compile(r'custom_call_target="([^"]+)"')
_NEEDS = re.compile(r"Used ([\d.]+)([GM]) of ([\d.]+)([GM]) hbm")
# Of a GPU's memory, the share that JAX can be told to take.
_MOST_TAKEN = 0.95


@dataclasses.dataclass(frozen=True)
class Measures:
  """Of one device; bytes, operations and seconds.

  Attributes:
    program: Its name.
    topology: The target's name.
    devices: How many there are.
    peak: What it needs at once; None if the compiler refused and did not say.
    memory: What the device has; where the compiler refused for lack of it,
      what that leaves to programs, such as 7.48 of 8 GiB of a TPU v2's core.
    weights: Of the arguments.
    optimizer: Of the arguments.
    batch: Of the arguments.
    temporaries: What it makes beside: activations, and what is between them.
    code: Of the program, where the compiler says.
    flops: Of matrix products.
    argument_bytes: What it has to read once at the least.
    collectives: Kind -> [times a step, bytes a step].
    kernels: Hand-written kernels in it: attention's among them.
    seconds_bound: No step of this program is faster; of an evaluation, with
      answers as long as they may be. None without a peak, and of restoring.
    compile_seconds: What the compiler took, on whatever machine that was.
    refused: What the compiler said instead of a program, or "".
    is_quick: Whether the compiler was to make the least effort.
    taken: Share of `memory` that JAX takes unless XLA_CLIENT_MEM_FRACTION says
      more: 0.75 of a GPU's.
  """

  program: str
  topology: str
  devices: int
  peak: float | None
  memory: float
  weights: int
  optimizer: int
  batch: int
  temporaries: int
  code: int
  flops: float
  argument_bytes: int
  collectives: Mapping[str, list[int]]
  kernels: list[str]
  seconds_bound: float | None
  compile_seconds: float
  refused: str = ""
  is_quick: bool = False
  taken: float = 1.0

  @property
  def fits(self) -> bool:
    """Whether a device has the memory, and JAX can take it."""
    most = 1.0 if self.taken == 1.0 else _MOST_TAKEN
    return not self.refused and (self.peak or 0) <= most * self.memory


def measure(
  program: Program, target: Target, is_thorough: bool = False
) -> Measures:
  """Compiles a program with its platform's own compiler.

  Args:
    program: Which.
    target: For what.
    is_thorough: Whether TPUs' compiler makes the effort that it makes for a
      run, which takes twice as long. With the least, operations are scheduled
      and tiled worse; sharding, and what lies in memory, is the same but for
      the size of the code.

  Raises:
    ValueError: if the compiler refuses it for another reason than memory.
  """
  number = len(target.devices)
  flops = flops_of(program.traced, program.decode_steps) / number
  weights = bytes_of((program.state.trainable, program.state.frozen))
  optimizer = bytes_of(program.state.opt_state)
  start = time.monotonic()
  refused, compiled = "", None
  is_quick = target.is_tpu and not is_thorough
  try:
    compiled = program.traced.lower().compile(_QUICK if is_quick else None)
  except jax.errors.JaxRuntimeError as e:
    refused = str(e)
    _check_is_for_memory(refused, f"{program.name} on {target.name}")
  seconds = time.monotonic() - start
  known = {
    "program": program.name,
    "topology": target.name,
    "devices": number,
    "memory": target.memory,
    "weights": weights,
    "optimizer": optimizer,
    "flops": flops,
    "compile_seconds": round(seconds, 1),
    "is_quick": is_quick,
    "taken": target.taken,
  }
  if compiled is None:
    return _refused(refused, known, target)
  memory = compiled.memory_analysis()
  arguments = memory.argument_size_in_bytes
  beside = 0
  if program.name == "restore":
    # Weights lie there meanwhile, of scanned layers one stack twice.
    beside = weights + max(map(bytes_of, jax.tree.leaves(program.state.params)))
  if program.name == "evaluate":
    # Between steps of training it lies there, though an evaluation reads none.
    beside = optimizer
  read = weights + (0 if program.name == "evaluate" else optimizer)
  peak = (
    arguments
    + beside
    + memory.temp_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
    + memory.generated_code_size_in_bytes
  )
  text = compiled.as_text() or ""
  return Measures(
    **known,
    peak=peak,
    batch=max(arguments - read, 0),
    temporaries=memory.temp_size_in_bytes,
    code=memory.generated_code_size_in_bytes,
    argument_bytes=arguments,
    collectives=collectives_of(text, program.decode_steps),
    kernels=sorted(
      {x for x in _KERNELS.findall(text) if "fmha" in x or "tpu_custom" in x}
    ),
    seconds_bound=_bound(program.name, flops, arguments, target),
  )


def _check_is_for_memory(said: str, what: str) -> None:
  """Raises ValueError if a compiler refused a program for another reason."""
  if "RESOURCE_EXHAUSTED" in said or _NEEDS.search(said):
    return
  line = said.partition("\n")[0][:300].rstrip(".")
  raise ValueError(f"The compiler refuses {what}: {line}.")


def _refused(said: str, known: dict[str, Any], target: Target) -> Measures:
  """Returns what is known of a program that the compiler refused."""
  needs = _NEEDS.search(said)
  scale = {"G": 2**30, "M": 2**20}
  state = known["weights"] + known["optimizer"]
  if needs:
    known = {**known, "memory": float(needs[3]) * scale[needs[4]]}
  return Measures(
    **known,
    peak=float(needs[1]) * scale[needs[2]] if needs else None,
    batch=0,
    temporaries=0,
    code=0,
    argument_bytes=state,
    collectives={},
    kernels=[],
    seconds_bound=_bound(known["program"], known["flops"], state, target),
    refused=said.partition("\n")[0][:300],
  )


def _bound(
  program: str, flops: float, read: float, target: Target
) -> float | None:
  """Returns the greater of operations over peak and bytes over bandwidth."""
  if program == "restore" or target.peak is None or target.bandwidth is None:
    return None
  return max(flops / target.peak, read / target.bandwidth)


def bytes_of(tree: Any) -> int:
  """Returns the bytes of one device's part of shapes that have shardings."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
  )


def flops_of(traced: Any, decode_steps: int = 1) -> float:
  """Counts the operations of a program's matrix products; see `matrix_flops`.

  Args:
    traced: What `jax.jit(...).trace` returns.
    decode_steps: How often a loop runs that does not say so.
  """
  jaxpr = traced.jaxpr.jaxpr
  # Without what nothing reads, such as gradients of what is frozen.
  jaxpr, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
  return matrix_flops(jaxpr, decode_steps)


def matrix_flops(jaxpr: Any, decode_steps: int = 1) -> float:
  """Counts the operations of matrix products, loops included.

  The compilers count what is in a loop once.

  Args:
    jaxpr: Of the whole program, all devices together.
    decode_steps: How often a loop runs that does not say so.
  """
  jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
  total = 0.0
  for equation in jaxpr.eqns:
    inside = [matrix_flops(x, decode_steps) for x in _inside(equation.params)]
    name = equation.primitive.name
    if name == "dot_general":
      (contracted, _), _ = equation.params["dimension_numbers"]
      shape = equation.invars[0].aval.shape
      width = math.prod(shape[axis] for axis in contracted)
      total += 2.0 * width * math.prod(equation.outvars[0].aval.shape)
    elif name == "scan":
      total += equation.params["length"] * sum(inside)
    elif name == "while":
      total += max(decode_steps, 1) * sum(inside)
    elif name == "cond":
      # Such as one for each platform: no more than all of them do.
      total += min(inside)
    elif name == "pallas_call":
      total += 0.0  # A bound stays one.
    else:
      total += sum(inside)
  return total


def _inside(params: Mapping[str, Any]) -> Iterable[Any]:
  kinds = (jex_core.Jaxpr, jex_core.ClosedJaxpr)
  for name, value in params.items():
    values = value if isinstance(value, tuple | list) else [value]
    # The functions for differentiation are beside what is computed.
    if name in ("jvp_jaxpr_fun", "fwd_jaxpr_thunk", "bwd"):
      continue
    yield from (x for x in values if isinstance(x, kinds))


def collectives_of(text: str, decode_steps: int = 1) -> dict[str, list[int]]:
  """Counts what devices exchange.

  Args:
    text: The compiled program.
    decode_steps: How often a loop runs that does not say so.

  Returns:
    Kind -> [times, bytes], of a device's results; of branches, those of the one
    that exchanges most.
  """
  entry, current = "", ""
  own: dict[str, list[tuple[str, int]]] = {}
  calls: dict[str, list[tuple[list[str], int, str | None]]] = {}
  limits: dict[str, list[int]] = {}
  for line in text.splitlines():
    if started := _COMPUTATION.match(line.strip()):
      current = started[1]
      own[current], calls[current], limits[current] = [], [], []
      entry = current if line.startswith("ENTRY") else entry
    elif " = " in line and current:
      match = _OPERATION.search(line)
      if match and match[1] in _COLLECTIVES:
        own[current].append((match[1], _result_bytes(line, match.start())))
      limits[current] += [int(x) for x in _LIMIT.findall(line)]
      trips, condition = _TRIPS.search(line), _CONDITION.search(line)
      one_of = _NAME.findall(" ".join(_BRANCHES.findall(line)))
      calls[current] += [
        (called, int(trips[1]) if trips else 0, condition and condition[1])
        for called in (*([x] for x in _CALLED.findall(line)), one_of)
        if called
      ]

  def visit(name: str) -> dict[str, list[int]]:
    found: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
    for kind, size in own.get(name, ()):
      found[kind][0] += 1
      found[kind][1] += size
    for called, trips, condition in calls.get(name, ()):
      if condition is not None and not trips:
        # TPU's compiler leaves the number in what the loop compares with.
        trips = max(limits.get(condition, []), default=max(decode_steps, 1))
      most = max(
        map(visit, called), key=lambda x: sum(y[1] for y in x.values())
      )
      for kind, (times, size) in most.items():
        found[kind][0] += max(trips, 1) * times
        found[kind][1] += max(trips, 1) * size
    return found

  return dict(visit(entry))


def _result_bytes(line: str, end: int) -> int:
  """Returns the bytes of what an instruction results in."""
  result = line[line.index(" = ") + 3 : end]
  sizes = []
  for dtype, shape in _SHAPE.findall(result):
    bits = _BITS.fullmatch(dtype)
    if bits and (dtype, shape) != ("u32", ""):  # That is a context.
      count = math.prod(int(x) for x in shape.split(",") if x)
      sizes.append(count * int(bits[1] or 8) // 8)
  # What starts one lists its operands before its results, but for all-reduce.
  begins = re.match(r" ?([a-z-]+)-start\(", line[end:])
  if begins and begins[1] != "all-reduce":
    sizes = sizes[len(sizes) // 2 :]
  return sum(sizes)
