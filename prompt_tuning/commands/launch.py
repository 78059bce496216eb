"""Run the cells of sheets that have no record yet, and resume interrupted runs.

  prompt-tuning launch SHEET [SHEET...]

A SHEET is a name such as scale or full/scale, or the path of its file. Records
go to results/SHEET/CELL.json. All cells run with one seed before any runs with
the next. A failed run is recorded with its error, and the next cell runs. You
can stop or kill the command at any time; the same command resumes it.
"""

import argparse
from collections.abc import Sequence
import shlex
import sys
from typing import Any


def run(args: argparse.Namespace) -> int:
  """Runs the command."""
  from prompt_tuning.experiments import launching
  from prompt_tuning.experiments.running import Workspace

  cells = launching.select(args.sheets, args.cell, args.root / "configs")
  launching.check_commands(cells, args.root)
  workspace = Workspace(args.root, args.root / "results")
  return run_cells(args, cells, workspace, cells if args.cell else None)


def run_cells(
  args: argparse.Namespace,
  cells: Sequence[Any],
  workspace: Any,
  shown: Sequence[Any] | None = None,
) -> int:
  """Runs the cells that have no record, and names those without results.

  Args:
    args: The flags of `options.add_launching`.
    cells: Cells of one or more sheets.
    workspace: The folders for their runs and records.
    shown: Cells whose commands `--dry_run` prints; by default those that would
      run.

  Returns:
    The exit status: 1 if a cell has failed, now or before.
  """
  from prompt_tuning.experiments import launching
  from prompt_tuning.training import cluster_options

  if args.submit and args.jobs > 1:
    raise ValueError(
      "--jobs is for this machine. --submit makes one job for each cell: "
      "leave out --jobs."
    )
  options = cluster_options.read(args.submit, args.option)
  archive = workspace.archive()
  todo = launching.open_cells(cells, archive, args.retry_failed)
  failed = {}
  if args.dry_run:
    print(f"{len(todo)} of {len(cells)} cells to run.", file=sys.stderr)
    for cell in todo if shown is None else shown:
      print(shlex.join(cell.command))
    return 0
  if not todo:
    print(f"All {len(cells)} cells have records.", file=sys.stderr)
  if args.submit:
    for job in launching.submit(todo, workspace, args.submit, options, archive):
      print(job)
    if args.retry_failed:  # Cells that failed before are running again.
      return 0
  else:
    for x in launching.launch(cells, workspace, args.jobs, args.retry_failed):
      if not x.counts:
        failed[x.cell.full_name] = x.status
  archive = workspace.archive()
  for cell in cells:
    record = archive.record(cell)
    if record and record.status == "failed":
      again = "failed before (--retry_failed runs it again)"
      failed.setdefault(cell.full_name, again)
  for name, reason in failed.items():
    print(f"{reason}: {name}", file=sys.stderr)
  return 1 if failed else 0
