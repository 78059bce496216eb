"""Run the cells of sheets that have no record yet, and resume interrupted runs.

  prompt-tuning launch SHEET [SHEET...]

A SHEET is a name such as scale or full/scale, or the path of its file. Records
go to results/SHEET/CELL.json. All cells run with one seed before the next seed
begins. A failed run is recorded with its error, and the next cell runs. You can
stop or kill the command at any time; the same command resumes it.
"""

import argparse
import sys

from prompt_tuning.commands import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of the command."""
  parser.add_argument("sheets", nargs="+", metavar="SHEET")
  parser.add_argument(
    "--cell",
    action="append",
    default=[],
    metavar="NAME",
    help="only these cells, such as 'ladder_xs-*-seed0'; --dry_run then shows "
    "cells that have a record too",
  )
  options.add_launching(parser)
  options.add_root(parser)


def run(args: argparse.Namespace) -> int:
  """Runs the command."""
  from prompt_tuning.experiments import launching, sheet_runs
  from prompt_tuning.experiments.running import Workspace

  options.check_launching(args)
  workspace = Workspace(args.root, args.root / "results")
  cells = sheet_runs.select(args.sheets, args.cell, args.root / "configs")
  sheet_runs.check_commands(cells, args.root)
  if not args.dry_run:
    return sheet_runs.run(
      cells, workspace, args.jobs, args.retry_failed, args.submit, args.option
    )
  todo = launching.open_cells(cells, workspace.archive(), args.retry_failed)
  sheet_runs.print_commands(cells if args.cell else todo)
  print(f"{len(todo)} of {len(cells)} cells to run.", file=sys.stderr)
  return 0
