"""Runs the cells of sheets that have no record yet, and goes on with others.

  python scripts/launch.py configs/scale.toml [SHEET...]

Records go to results/<sheet>/<cell>.json. A cell whose run fails is recorded
with its error, and the next one runs. Stop it when you like, or kill it: the
same command goes on.
"""

import argparse
import fnmatch
import pathlib
import shlex
import sys

from prompt_tuning.experiments import launching, records, sheets

ROOT = pathlib.Path(__file__).resolve().parents[1]


def main() -> None:
  args = _arguments()
  try:
    sys.exit(_launch(args))
  except (OSError, ValueError) as error:
    sys.exit(f"Error: {error}")


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("sheets", nargs="+", type=pathlib.Path, metavar="SHEET")
  parser.add_argument(
    "--cell",
    action="append",
    metavar="NAME",
    help="only these, such as 'ladder_xs-*-seed0'",
  )
  parser.add_argument("--jobs", type=int, default=1, help="run so many at once")
  parser.add_argument(
    "--retry-failed", action="store_true", help="run failed cells again"
  )
  parser.add_argument(
    "--dry-run",
    action="store_true",
    help="print the commands instead; with --cell, of recorded cells too",
  )
  parser.add_argument(
    "--submit",
    metavar="CLUSTER",
    help="hand the cells to submitit: slurm, or local",
  )
  parser.add_argument(
    "--option",
    action="append",
    default=[],
    metavar="NAME=VALUE",
    help="for submitit, such as timeout_min=600 or slurm_partition=gpu",
  )
  parser.add_argument("--root", type=pathlib.Path, default=ROOT)
  args = parser.parse_args()
  if args.jobs < 1:
    parser.error(f"--jobs must be at least 1, not {args.jobs}")
  if args.submit and args.jobs > 1:
    parser.error("--jobs is for this machine; --submit makes a job of a cell")
  if args.option and not args.submit:
    parser.error("--option is for --submit")
  return args


def _launch(args: argparse.Namespace) -> int:
  """Does what the arguments say; returns the exit status."""
  root = args.root.resolve()
  place = launching.Place(root, root / "results")
  cells = [
    cell
    for path in args.sheets
    for cell in sheets.load(path, root / "configs").cells()
  ]
  if args.cell:
    names = [cell.name for cell in cells]
    cells = [
      cell
      for cell in cells
      if any(fnmatch.fnmatchcase(cell.name, x) for x in args.cell)
    ]
    if not cells:
      raise ValueError(
        f"No cell is called {' or '.join(args.cell)}; there is "
        f"{', '.join(names[:5])}, ... ({len(names)} in all)."
      )
  known = records.load(place.results)
  todo = launching.open_cells(cells, known, args.retry_failed)
  if args.dry_run:
    for cell in cells if args.cell else todo:
      print(shlex.join(cell.command))
    print(f"{len(todo)} of {len(cells)} cells to run.", file=sys.stderr)
    return 0
  if args.submit:
    options = dict(_option(x) for x in args.option)
    for job in launching.submit(todo, place, args.submit, options, known):
      print(job)
    first, then = launching.rounds(todo)
    if first and then:
      wait = "1 cell waits" if len(then) == 1 else f"{len(then)} cells wait"
      print(f"{wait} for these: submit again then.", file=sys.stderr)
    return 0
  outcomes = launching.launch(cells, place, args.jobs, args.retry_failed)
  bad = [x for x in outcomes if not x.counts]
  for outcome in bad:
    print(f"{outcome.status}: {outcome.cell.name}", file=sys.stderr)
  return 1 if bad else 0


def _option(text: str) -> tuple[str, str | int]:
  name, equals, value = text.partition("=")
  if not equals:
    raise ValueError(f"Expected --option NAME=VALUE, got {text}.")
  return name, int(value) if value.isdigit() else value


if __name__ == "__main__":
  main()
