"""Plans a command: compiles what it would run for devices that are not there.

python scripts/plan.py --topology=v3:4x4 FLAGS...

FLAGS are those of any train, eval or infer command; checkpoints and data need
not be there. It prints what the programs take of each device, and a bound on
their time: no run is faster, and real ones are slower.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import itertools
import json
import sys

from absl import app, flags
import jax

from prompt_tuning.planning import measures, programs, targets
from t5x import gin_utils

GIB = 2**30
_PARTITIONS = "partitioning.PjitPartitioner.num_partitions"
_REMAT = "network.T5Config.remat"
_MICROBATCHES = "NUM_MICROBATCHES"
_DTYPE = "PARAMETER_DTYPE"


def define_flags() -> None:
  """Defines the flags of this program, beside those of commands."""
  gin_utils.define_flags()
  flags.DEFINE_string(
    "topology", None, "v3:4x4, v5e:4x4, h100x8, a100x1, ...", required=True
  )
  flags.DEFINE_list(
    "programs", [], "Some of train, evaluate, infer and restore; all of them."
  )
  flags.DEFINE_bool("search", False, "Try settings; print the best that fit.")
  flags.DEFINE_integer("tries", 12, "Programs that --search compiles at most.")
  flags.DEFINE_bool("json", False, "Print what was measured as JSON lines.")


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


def main() -> None:
  """Runs the command line."""
  targets.prepare()
  define_flags()
  app.run(_main, argv=gin_utils.rewrite_gin_args(sys.argv))


def _main(argv: Sequence[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
  values = flags.FLAGS
  jax.config.update("jax_platforms", "cpu")
  command = (values.topology, values.gin_file, values.gin_bindings)
  try:
    if values.search:
      _print_search(*command, values.tries)
      return
    for program, found in plan(*command, values.programs):
      if values.json:
        print(json.dumps(dataclasses.asdict(found)), flush=True)
      else:
        print(describe(found, program.steps), flush=True)
  except ValueError as e:
    sys.exit(f"Error: {e}")


def _print_search(
  topology: str, gin_files: Sequence[str], bindings: Sequence[str], tries: int
) -> None:
  fitting = list(search(topology, gin_files, bindings, tries))
  if not fitting:
    sys.exit(f"None of {tries} programs fits {topology}: take more devices.")
  exchanged = lambda x: sum(size for _, size in x.collectives.values())  # noqa: E731
  fitting.sort(key=lambda x: (x[1].seconds_bound or 0, exchanged(x[1])))
  for settings, found in fitting[:3]:
    chosen = " ".join(
      f"--gin.{'='.join(x.split(' = '))}".replace("'", '"') for x in settings
    )
    print(describe(found, None), chosen, sep="\n  ")
