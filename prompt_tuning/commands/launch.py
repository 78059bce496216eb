"""Runs the cells of sheets that have no record yet, and goes on with others.

  python scripts/launch.py SHEET [SHEET...]

A SHEET is a name such as scale or full/scale, or the path of its file. Records
go to results/SHEET/CELL.json. The first seed of a sheet runs before the second.
A cell whose run fails is recorded with its error, and the next one runs. Stop
it when you like, or kill it: the same command goes on.
"""

import argparse
from collections.abc import Sequence
import fnmatch
import sys

from prompt_tuning.commands import options
from prompt_tuning.experiments import launching, sheets
from prompt_tuning.experiments.cells import Cell
from prompt_tuning.experiments.running import Place


def main(arguments: Sequence[str] | None = None) -> None:
  """Does what the arguments say, by default those of the process."""
  args = _parse(arguments)
  try:
    sys.exit(_launch(args))
  except (OSError, ValueError) as error:
    sys.exit(f"Error: {error}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("sheets", nargs="+", metavar="SHEET")
  parser.add_argument(
    "--cell",
    action="append",
    metavar="NAME",
    help="only these, such as 'ladder_xs-*-seed0'; --dry-run then shows those "
    "with a record too",
  )
  options.add_launching(parser)
  options.add_root(parser)
  args = parser.parse_args(arguments)
  options.check_launching(parser, args)
  return args


def _launch(args: argparse.Namespace) -> int:
  """Does what the arguments say; returns the exit status."""
  root = args.root.resolve()
  place = Place(root, root / "results")
  cells = _cells(args)
  options.check_commands(cells, root)
  archive = place.archive()
  todo = launching.open_cells(cells, archive, args.retry_failed)
  if args.dry_run:
    options.show(cells if args.cell else todo)
    print(f"{len(todo)} of {len(cells)} cells to run.", file=sys.stderr)
    return 0
  if args.submit:
    options.submit(todo, place, archive, args)
    # Those that failed may be run again now.
    return 0 if args.retry_failed else options.report(cells, archive)
  outcomes = launching.launch(cells, place, args.jobs, args.retry_failed)
  return options.report(cells, place.archive(), outcomes)


def _cells(args: argparse.Namespace) -> list[Cell]:
  """Returns the cells that the arguments name.

  Raises:
    ValueError: if there is no such sheet or cell, or a sheet has a command of
      its own.
  """
  configs = args.root.resolve() / "configs"
  cells = []
  for given in args.sheets:
    name = sheets.name_of(given, configs)
    sheet = sheets.load(name, configs)
    if sheet.launch:  # What its cells need of each other, this does not do.
      raise ValueError(f"{name} is run by {sheet.launch}.")
    cells += sheet.seed_by_seed()
  if not args.cell:
    return cells
  chosen = [
    cell
    for cell in cells
    if any(fnmatch.fnmatchcase(cell.name, x) for x in args.cell)
  ]
  if not chosen:
    names = [cell.name for cell in cells]
    raise ValueError(
      f"No cell is called {' or '.join(args.cell)}; there is "
      f"{', '.join(names[:5])}, ... ({len(names)} in all)."
    )
  return chosen
