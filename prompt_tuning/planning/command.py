"""Plans a command: compiles what it would run for devices not there."""

from collections.abc import Iterator, Sequence
import itertools

from prompt_tuning.planning import measures, programs, targets

GIB = 2**30
_PARTITIONS = "partitioning.PjitPartitioner.num_partitions"
_REMAT = "network.T5Config.remat"
_MICROBATCHES = "NUM_MICROBATCHES"
_DTYPE = "PARAMETER_DTYPE"


def plan(
  topology: str,
  gin_files: Sequence[str],
  gin_bindings: Sequence[str],
  names: Sequence[str] = (),
) -> Iterator[tuple[programs.Program, measures.Measures]]:
  """Compiles the programs of a command; see `programs.programs_of`."""
  target = targets.find(topology)
  for program in programs.programs_of(
    gin_files, gin_bindings, target.devices, names
  ):
    yield program, measures.measure(program, target)


def describe(found: measures.Measures, steps: int | None) -> str:
  """Says what a program takes, in lines."""
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
  lines += [
    f"  {kind:17}{times} a step, {size / 1e9:.3f} GB a device"
    for kind, (times, size) in found.collectives.items()
  ] or ["  exchanges        nothing"]
  lines.append(f"  kernels          {', '.join(found.kernels) or 'none'}")
  if found.seconds_bound is not None:
    bound = found.seconds_bound
    lines.append(f"  bound            {bound:.4g} seconds a step at the least")
    if steps:
      hours = bound * steps / 3600
      lines.append(
        f"  bound of {steps} steps: {hours:.3g} hours, "
        f"{hours * found.devices:.3g} device hours at the least"
      )
  lines.append(f"  compiled in      {found.compile_seconds:.0f} s")
  if found.refused:
    lines.append(f"  refused          {found.refused}")
  return "\n".join(lines)


def candidates(devices: int, bindings: Sequence[str]) -> Iterator[list[str]]:
  """Yields bindings to try, those that compute least first.

  Args:
    devices: How many there are.
    bindings: Of the command; what they set is left alone.
  """
  given = {b.partition("=")[0].strip() for b in bindings}

  def values(name: str, some: Sequence[str]) -> list[str | None]:
    return [None] if name in given else [f"{name} = {value}" for value in some]

  splits = [str(2**i) for i in range(devices.bit_length()) if devices >= 2**i]
  # A few microbatches cost nothing; computing again costs a third.
  for choice in itertools.product(
    values(_REMAT, ["False", "True"]),
    values(_MICROBATCHES, ["None", "4"]),
    values(_PARTITIONS, splits),
    values(_DTYPE, ["'float32'", "'bfloat16'"]),
  ):
    yield [x for x in choice if x is not None]


def search(
  topology: str,
  gin_files: Sequence[str],
  gin_bindings: Sequence[str],
  tries: int,
) -> Iterator[tuple[list[str], measures.Measures]]:
  """Tries settings of the training step; yields those that fit.

  Settings whose weights alone are too large are not compiled.
  """
  target = targets.find(topology)
  compiled = 0
  for settings in candidates(len(target.devices), gin_bindings):
    try:
      for program in programs.programs_of(
        gin_files, [*gin_bindings, *settings], target.devices, ["train"]
      ):
        if measures.argument_bytes(program) > 0.9 * target.memory:
          continue
        if compiled == tries:
          return
        compiled += 1
        found = measures.measure(program, target)
        if found.fits:
          yield settings, found
    except ValueError:
      continue  # A batch that this mesh does not divide.
