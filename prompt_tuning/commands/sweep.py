"""Runs a train command for each of the values in its lists, and tabulates.

  python scripts/sweep.py ARGUMENTS OF t5x.train, with lists for values

  python scripts/sweep.py --gin_file=gin/models/ladder_s.gin \\
    --gin_file=gin/recipes/prompt_tuning.gin \\
    --gin_file=gin/prompts/{random_uniform,class_labels}.gin \\
    --gin.TASK="'ladder_cb'" --gin.TRAIN_STEPS_RELATIVE=100 \\
    --gin.PROMPT_LENGTH=1,5,20,100 --gin.RANDOM_SEED=0,1

Commas in quotes or brackets separate nothing. Of gin files of one folder in a
row a run takes one; a.gin+b.gin are taken together. Runs of other seeds are
averaged. The table and the figure are written to runs/sweeps/NAME, and runs
that are over are not run again: stop it, kill it, add values, and start it
again.
"""

import argparse
from collections.abc import Sequence
import pathlib
import shutil
import sys

from prompt_tuning.commands import options
from prompt_tuning.experiments import (
  drift,
  launching,
  pages,
  sweeps,
  tables,
  toml_files,
  train_commands,
)
from prompt_tuning.experiments.results import Results
from prompt_tuning.experiments.running import Outcome, Place
from prompt_tuning.experiments.sheets import Sheet


def main(arguments: Sequence[str] | None = None) -> None:
  """Does what the arguments say, by default those of the process."""
  given = list(sys.argv[1:] if arguments is None else arguments)
  args, rest = _parse(given)
  try:
    fields = sweeps.fields(train_commands.parse(rest), given, args.module)
    do = _write_sheet if args.write_sheet else _run
    sys.exit(do(args, fields))
  except (OSError, ValueError) as error:
    sys.exit(f"Error: {error}")


def _parse(given: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
  """Returns the sweep's own arguments, and those of the program."""
  parser = argparse.ArgumentParser(
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument(
    "--name", help="of the folder in runs/sweeps; by default what is swept"
  )
  parser.add_argument(
    "--write_sheet",
    "--write-sheet",
    type=pathlib.Path,
    metavar="FILE",
    help="write the sheet that makes the same, such as configs/mine.toml, "
    "file the records that are there for it, and run nothing",
  )
  parser.add_argument(
    "--module", default="t5x.train", help="what to run, by default t5x.train"
  )
  options.add_launching(parser)
  options.add_root(parser)
  if not given:
    parser.print_help()
    sys.exit(2)
  args, rest = parser.parse_known_args(given)
  options.check_launching(parser, args)
  return args, rest


def _sheet(args: argparse.Namespace, fields: dict) -> Sheet:
  name = args.name or sweeps.name_of(fields)
  return Sheet.model_validate({"name": f"sweeps/{name}", **fields})


def _place(root: pathlib.Path) -> Place:
  # One folder for all: what two sweeps have in common runs once.
  return Place(root, root / "runs" / "records")


def _run(args: argparse.Namespace, fields: dict) -> int:
  """Runs what has no record, and writes the table; returns the exit status."""
  sheet = _sheet(args, fields)
  root = args.root.resolve()
  place = _place(root)
  cells = sheet.cells()
  options.check_commands(cells, root)
  print(f"{len(cells)} runs: {_axes(sheet)}.", file=sys.stderr)
  archive = place.archive()
  todo = launching.open_cells(cells, archive, args.retry_failed)
  if args.dry_run:
    options.show(todo)
    return 0
  outcomes: Sequence[Outcome] = ()
  if args.submit:
    options.submit(todo, place, archive, args)
  else:

    def score(outcome: Outcome) -> str:
      record = place.archive().finished(outcome.cell)
      text = outcome.status
      if record and record.scores:
        text = f"{record.score:.1f}"
      return f"{outcome.cell.name}: {text}"

    outcomes = launching.launch(
      cells, place, args.jobs, args.retry_failed, score
    )
  archive = place.archive()
  _tabulate(Results(sheet, archive), root)
  if args.submit and args.retry_failed:
    return 0  # Those that failed are run again now.
  return options.report(cells, archive, outcomes)


def _axes(sheet: Sheet) -> str:
  """Says what is swept, such as "prompt_length = 1, 5"."""
  (grid,) = sheet.grids
  return "; ".join(
    f"{axis} = {', '.join(sheet.label(axis, x) for x in values)}"
    for axis, values in grid.items()
    if len(values) > 1
  )


def _tabulate(results: Results, root: pathlib.Path) -> None:
  """Prints the table, and writes the page with its figure."""
  files = pages.of_results(results, stem="table")
  if not files:
    return
  folder = root / "runs" / results.sheet.name
  pages.write(files, folder)
  print(tables.of_results(results).plain())
  if drifted := drift.note(results):
    again = f"Delete them in {_place(root).results} to make them again."
    print(f"{drifted}{again}", file=sys.stderr)
  for suffix in ("md", "csv", "png"):
    print(folder / f"table.{suffix}")


def _write_sheet(args: argparse.Namespace, fields: dict) -> int:
  """Writes the sheet, and files what the sweep has run for it.

  Raises:
    ValueError: if the file is there, or not where sheets are.
  """
  root, path = args.root.resolve(), args.write_sheet.resolve()
  if path.parent != root / "configs" or path.suffix != ".toml":
    raise ValueError(
      f"--write_sheet={args.write_sheet}: expected a file such as "
      f"{root / 'configs' / 'mine.toml'}."
    )
  if path.exists():
    raise ValueError(f"{path} is there already. Choose another name.")
  options.check_commands(_sheet(args, fields).cells(), root)
  # Its page says how it is run as a sheet.
  kept = {key: x for key, x in fields.items() if key != "launch"}
  sheet = Sheet.model_validate({"name": path.stem, **kept})
  archive = _place(root).archive()
  place = Place(root, root / "results")
  found = [(cell, archive.find(cell)) for cell in sheet.cells()]
  path.write_text(toml_files.dumps(kept), encoding="utf-8")
  count = 0
  for cell, stored in found:
    target = place.record(cell)
    if stored and stored.record.counts and not target.exists():
      target.parent.mkdir(parents=True, exist_ok=True)
      shutil.copyfile(stored.path, target)
      count += 1
  print(
    f"{path}: {len(found)} cells, {count} of them with a record. "
    f"{sheet.launch_command} runs the others, python scripts/tabulate.py "
    f"{sheet.name} makes the table."
  )
  return 0
