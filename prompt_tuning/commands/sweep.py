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

from prompt_tuning.commands import launch, options


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of the command."""
  parser.set_defaults(passes_flags_on=True)
  add = parser.add_argument
  about = "folder in runs/sweeps; by default it is named after the lists"
  add("--name", help=about)
  sheet = (
    "run nothing: write a sheet of the same runs, such as configs/mine.toml, "
    "and store the finished runs as its records"
  )
  add("--write_sheet", type=pathlib.Path, metavar="FILE", help=sheet)
  add("--module", default="t5x.train", help="program that each run starts")
  options.add_launching(parser)
  options.add_root(parser)


def run(args: argparse.Namespace) -> int:
  """Runs the command."""
  from prompt_tuning.experiments import launching, sweeps
  from prompt_tuning.experiments.running import Workspace
  from prompt_tuning.experiments.sheets import Sheet

  fields = sweeps.fields(args.rest, args.words, args.module, args.name)
  sheet = Sheet.model_validate(fields)
  cells = sheet.cells()
  launching.check_commands(cells, args.root)
  # One folder for all sweeps: a run that two of them share runs once.
  workspace = Workspace(args.root, args.root / "runs" / "records")
  if args.write_sheet:
    sweeps.write_sheet(fields, workspace, args.write_sheet)
    return 0
  lists = "; ".join(
    f"{axis} = {', '.join(sheet.label(axis, x) for x in values)}"
    for axis, values in sheet.grids[0].items()
    if len(values) > 1
  )
  print(f"{len(cells)} runs: {lists}.", file=sys.stderr)
  status = launch.run_cells(args, cells, workspace)
  if not args.dry_run:
    sweeps.tabulate(sheet, workspace)
  return status
