"""Memory of `prompt-tuning tune` on a 16 GiB GPU, by compiling for an A100.

  bash scripts/setup.sh plan
  .venv/bin/python benchmarks/tune_memory.py small base large xl

For each size of T5 1.1, the settings are those that `tune` chooses for 10,000
rows of two labels and inputs of 512 tokens. JAX takes 12 of the 16 GiB. Prints
the rows of the table in docs/accelerators.md.
"""

import dataclasses

import harness

_GIB = 2**30
_DEVICE, _TAKEN = 16 * _GIB, 12 * _GIB
_RECIPE = "gin/recipes/prompt_tuning.gin"
_LENGTHS = "{'inputs': 512, 'targets': 4}"


def row(size: str) -> str:
  """Compiles the step and the evaluation of a size; returns a row."""
  import jax

  from prompt_tuning.training import defaults, one_command
  from t5x.planning import costs, programs, targets

  target = dataclasses.replace(targets.find("a100x1"), memory=_DEVICE)
  files = [f"gin/models/t5_1_1_{size}.gin", _RECIPE]
  with programs.read_command(
    files, ["NUM_PARTITIONS = 1"], target.devices
  ) as command:
    config = command.arguments["model"].module.config
    parameters = sum(x.size for x in jax.tree.leaves(command.state.frozen))
  facts = defaults.Facts(
    config, parameters, 10_000, 512, 2, "gpu", _TAKEN, True, 1, rate=0.3
  )
  chosen = {x.name: x.value for x in defaults.choose(facts)}
  sizes = {
    f"network.T5Config.{name}": getattr(config, name)
    for name in one_command.SIZES
  }
  bindings = [f"{k} = {v!r}" for k, v in {**sizes, **chosen}.items()]
  bindings.append(f"TASK_FEATURE_LENGTHS = {_LENGTHS}")
  files = ["gin/models/t5_1_1.gin", _RECIPE]
  with programs.read_command(files, bindings, target.devices) as command:
    peaks = [
      costs.estimate(program, target).peak
      for program in command.programs(["train", "evaluate"])
    ]
  estimate = defaults.step_bytes(
    facts,
    chosen["PROMPT_LENGTH"],
    chosen["BATCH_SIZE"] // chosen.get("NUM_MICROBATCHES", 1),
    chosen.get("network.T5Config.remat", False),
    chosen["PARAMETER_DTYPE"],
  )
  fits = all(x is not None and x <= _TAKEN for x in peaks)
  cells = [
    size,
    str(chosen["PROMPT_LENGTH"]),
    str(chosen.get("NUM_MICROBATCHES", 1)),
    "yes" if chosen.get("network.T5Config.remat") else "no",
    *(f"{x / _GIB:.1f}" if x else "-" for x in (estimate, *peaks)),
    "yes" if fits else "no",
  ]
  return f"| {' | '.join(cells)} |"


def main() -> None:
  """Prints the rows of the named sizes."""
  parser = harness.parser(__doc__)
  parser.add_argument("sizes", nargs="+", metavar="SIZE", help="small to xl")
  args = parser.parse_args()

  import t5x

  t5x.show_compilers()  # Before JAX is imported.

  from t5x.planning import targets

  targets.prepare()  # Before JAX starts.
  for size in args.sizes:
    print(row(size), flush=True)


if __name__ == "__main__":
  main()
