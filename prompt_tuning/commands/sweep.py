"""Run a training command for each value in its lists, and tabulate the scores.

  prompt-tuning sweep ARGUMENTS OF t5x.train, with lists as values

  prompt-tuning sweep --gin_file=gin/models/ladder_s.gin \\
    --gin_file=gin/recipes/prompt_tuning.gin \\
    --gin_file=gin/prompts/{random_uniform,class_labels}.gin \\
    --gin.TASK="'ladder_cb'" --gin.TRAIN_STEPS_RELATIVE=100 \\
    --gin.PROMPT_LENGTH=1,5,20,100 --gin.RANDOM_SEED=0,1

Commas inside quotes or brackets separate nothing. Of consecutive gin files from
the same folder, each run takes one; a.gin+b.gin are taken together. Scores are
averaged over seeds. The table and the figure go to runs/sweeps/NAME. Finished
runs are not repeated: you can stop or kill the command, add values, and start
it again.
"""

import argparse
import pathlib
import sys

from prompt_tuning.commands import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of the command."""
  parser.set_defaults(passes_flags_on=True)
  parser.add_argument(
    "--name",
    help="folder in runs/sweeps; by default it is named after the lists",
  )
  parser.add_argument(
    "--write_sheet",
    type=pathlib.Path,
    metavar="FILE",
    help="run nothing: write a sheet of the same runs, such as "
    "configs/mine.toml, and store the finished runs as its records",
  )
  parser.add_argument(
    "--module", default="t5x.train", help="program that each run starts"
  )
  options.add_launching(parser)
  options.add_root(parser)


def run(args: argparse.Namespace) -> int:
  """Runs the command."""
  from prompt_tuning.experiments import (
    launching,
    sheet_runs,
    sweep_runs,
    sweeps,
    train_commands,
  )

  options.check_launching(args)
  command = train_commands.parse(args.rest)
  fields = sweeps.fields(command, args.words, args.module)
  if args.write_sheet:
    sweep_runs.write_sheet(fields, args.name, args.root, args.write_sheet)
    return 0
  sweep = sweep_runs.Sweep(fields, args.name, args.root)
  print(sweep, file=sys.stderr)
  if args.dry_run:
    archive = sweep.workspace.archive()
    sheet_runs.print_commands(
      launching.open_cells(sweep.cells, archive, args.retry_failed)
    )
    return 0
  status = sheet_runs.run(
    sweep.cells,
    sweep.workspace,
    args.jobs,
    args.retry_failed,
    args.submit,
    args.option,
    sweep.score,
  )
  sweep.tabulate()
  return status
