"""Compile a command for TPUs or GPUs you do not have, to see whether it fits.

  prompt-tuning plan --topology=v3:4x4 FLAGS...

FLAGS are those of any t5x.train, t5x.eval or t5x.infer command; its
checkpoints and data need not exist. Prints the memory that the programs take on
each device, and a lower bound on their time: real runs are slower.
"""

import argparse
import dataclasses
import json
import sys

from prompt_tuning.commands import options


def run(args: argparse.Namespace) -> None:
  """Runs the command."""
  import t5x

  t5x.show_compilers()  # Before JAX is imported.

  from t5x.planning import targets

  targets.prepare()  # Before JAX starts.

  from t5x.planning import costs, programs, search

  target = targets.find(args.topology)
  gin_files, gin_bindings, _ = options.gin_flags(args.rest)
  if args.search:
    if args.programs or args.json or args.thorough:
      raise ValueError(
        "--search chooses the programs itself: leave out --programs, --json "
        "and --thorough."
      )
    search.print_best(
      args.topology,
      gin_files,
      gin_bindings,
      args.tries,
      args.minutes,
    )
    return
  with programs.read_command(
    gin_files, gin_bindings, target.devices
  ) as command:
    if "TASK_FEATURE_LENGTHS" in command.opened:
      print(
        "For inputs of {inputs} and targets of {targets} tokens, because "
        "TASK_FEATURE_LENGTHS is not given. A run measures its task.".format(
          **programs.LENGTHS
        ),
        file=sys.stderr,
      )
    for program in command.programs(args.programs):
      found = costs.estimate(program, target, args.thorough)
      if args.json:
        print(json.dumps(dataclasses.asdict(found)), flush=True)
      else:
        print(costs.describe(found, program.steps), flush=True)
