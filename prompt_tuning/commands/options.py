"""Options that command lines of experiments share."""

import argparse
from collections.abc import Collection, Iterable, Sequence
import os
import pathlib
import sys

import prompt_tuning
from prompt_tuning.experiments import launching
from prompt_tuning.experiments.archive import Archive
from prompt_tuning.experiments.cells import Cell
from prompt_tuning.experiments.running import Outcome, Place
from prompt_tuning.training import cluster_options
from t5x.configuration import checks, reading


def add_root(parser: argparse.ArgumentParser) -> None:
  """Adds the repository's folder: `configs/` and `results/` lie in it."""
  parser.add_argument(
    "--root",
    type=pathlib.Path,
    default=_root(),
    metavar="FOLDER",
    help="with configs/ and results/; by default the working directory if "
    "configs/ lies there or nothing else is known, else the repository",
  )


def _root() -> pathlib.Path:
  here = pathlib.Path.cwd()
  return here if (here / "configs").is_dir() else prompt_tuning.project_folder()


def add_launching(parser: argparse.ArgumentParser) -> None:
  """Adds the options of running cells."""
  parser.add_argument(
    "--jobs",
    type=int,
    default=1,
    help="run so many at once, each with its share of the cores",
  )
  parser.add_argument(
    "--retry-failed",
    "--retry_failed",
    action="store_true",
    help="run failed cells again",
  )
  parser.add_argument(
    "--dry-run",
    "--dry_run",
    action="store_true",
    help="print the commands instead",
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


def check_launching(
  parser: argparse.ArgumentParser, args: argparse.Namespace
) -> None:
  """Ends the program if options have no effect or contradict each other."""
  if args.jobs < 1:
    parser.error(f"--jobs must be at least 1, not {args.jobs}")
  if args.submit and args.jobs > 1:
    parser.error("--jobs is for this machine; --submit makes a job of a cell")
  if args.option and not args.submit:
    parser.error("--option is for --submit")


def check_commands(cells: Sequence[Cell], root: pathlib.Path) -> None:
  """Looks for the gin files and macros of cells, before any of them runs.

  Raises:
    ValueError: if one is not there, or a value is no gin.
  """
  _check_gin_files(cells, root)
  paths = (str(root), prompt_tuning.gin_search_path())
  macros: dict[Sequence[str], Collection[str]] = {}
  for cell in cells:
    files = cell.gin_files
    if not files:
      continue
    if files not in macros:
      macros[files] = reading.macros(files, paths)
    texts = [f"{name} = {value}" for name, value in cell.bindings.items()]
    checks.check_macros(texts, macros[files])


def _check_gin_files(cells: Sequence[Cell], root: pathlib.Path) -> None:
  """Raises ValueError for a file that is not there, with the cells' names."""
  places = (root, pathlib.Path(prompt_tuning.gin_search_path()))
  missing: dict[str, list[str]] = {}
  for cell in cells:
    for name in cell.gin_files:
      if not any((x / name).exists() for x in places):
        missing.setdefault(name, []).append(cell.name)
  if missing:
    raise ValueError(
      "; ".join(
        f"there is no gin file {name}, which {_some(names)}"
        for name, names in missing.items()
      )
      + f". They are looked for in {root}."
    )


def _some(names: Sequence[str]) -> str:
  if len(names) == 1:
    return f"{names[0]} needs"
  return f"{names[0]} and {len(names) - 1} more cells need"


def show(cells: Iterable[Cell]) -> None:
  """Prints the commands of cells, as far as somebody reads them."""
  try:
    for cell in cells:
      print(cell.shell_command)
    sys.stdout.flush()
  except BrokenPipeError:  # Of `| head`. Python flushes once more at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def submit(
  cells: Sequence[Cell],
  place: Place,
  archive: Archive,
  args: argparse.Namespace,
) -> None:
  """Hands cells to a cluster, and prints the ids of the jobs."""
  chosen = cluster_options.read(args.option)
  for job in launching.submit(cells, place, args.submit, chosen, archive):
    print(job)
  first, then = launching.rounds(cells)
  if first and then:
    wait = "1 cell waits" if len(then) == 1 else f"{len(then)} cells wait"
    print(f"{wait} for these: submit again then.", file=sys.stderr)


def report(
  cells: Sequence[Cell], archive: Archive, outcomes: Sequence[Outcome] = ()
) -> int:
  """Names the cells that have no results; returns the exit status.

  Args:
    cells: Those that were to be run.
    archive: The records, after the launch.
    outcomes: Of the launch.
  """
  status = {x.cell.full_name: x.status for x in outcomes if not x.counts}
  for cell in cells:
    record = archive.record(cell)
    if record and record.status == "failed":
      failed = "failed before, --retry-failed runs it again"
      status.setdefault(cell.full_name, failed)
  for name, what in status.items():
    print(f"{what}: {name}", file=sys.stderr)
  return 1 if status else 0
