"""Run a training command for lists of values, and tabulate the scores.

  prompt-tuning sweep ARGUMENTS OF t5x.train, with lists as values

  prompt-tuning sweep --gin_file=gin/models/ladder_s.gin \\
    --gin_file=gin/recipes/prompt_tuning.gin \\
    --gin_file=gin/prompts/{random_uniform,class_labels}.gin \\
    --gin.TASK="'ladder_cb'" --gin.TRAIN_STEPS_RELATIVE=100 \\
    --gin.PROMPT_LENGTH=1,5,20,100 --gin.RANDOM_SEED=0,1

Commas inside quotes or brackets do not separate values. If consecutive gin
files are from the same folder, each run takes one of them; a.gin+b.gin are
taken together. Scores are averaged over seeds. The table and the figure go to
runs/sweeps/NAME. Finished runs are not repeated: you can stop or kill the
command, add values, and start it again.
"""

import argparse
import pathlib
import shutil
import sys
from typing import Any

from prompt_tuning.commands import launch


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
    _write_sheet(fields, workspace, args.write_sheet)
    return 0
  lists = "; ".join(
    f"{axis} = {', '.join(sheet.label(axis, x) for x in values)}"
    for axis, values in sheet.grids[0].items()
    if len(values) > 1
  )
  print(f"{len(cells)} runs: {lists}.", file=sys.stderr)
  status = launch.run_cells(args, cells, workspace)
  if not args.dry_run:
    _tabulate(sheet, workspace)
  return status


def _tabulate(sheet: Any, workspace: Any) -> None:
  """Prints the table of a sweep, and writes the page with its figure."""
  import pandas as pd

  from prompt_tuning.experiments import generated_files, pages, tables
  from prompt_tuning.experiments.results import Results

  results = Results(sheet, workspace.archive())
  files = pages.sheet_files(results, stem="table")
  if not files:
    return
  folder = workspace.root / "runs" / sheet.name
  generated_files.write(files, folder)
  table = tables.table(results)
  frame = pd.DataFrame(table.rows, columns=list(table.header))
  print(frame.to_string(index=False))
  if drifted := pages.drift_note(results):
    again = f"Delete them in {workspace.results} to make them again."
    print(f"{drifted}{again}", file=sys.stderr)
  for suffix in ("md", "csv", "png"):
    print(folder / f"table.{suffix}")


def _write_sheet(
  given: dict[str, Any], workspace: Any, file: pathlib.Path
) -> None:
  """Writes a sweep as a sheet, and copies the records of its finished runs.

  Args:
    given: The fields of the sweep.
    workspace: The folders of the sweep.
    file: The file, in the folder `configs` of the workspace.

  Raises:
    ValueError: if the file exists, or is in another folder.
  """
  from prompt_tuning.experiments import sheets
  from prompt_tuning.experiments.sheets import Sheet

  path = file.resolve()
  if path.parent != workspace.root / "configs" or path.suffix != ".toml":
    raise ValueError(
      f"--write_sheet={file}: expected a file such as "
      f"{workspace.root / 'configs' / 'mine.toml'}."
    )
  if path.exists():
    raise ValueError(f"{path} already exists. Choose another name.")
  # A sheet is launched by its name.
  kept = {k: x for k, x in given.items() if k not in ("name", "launch")}
  sheet = Sheet.model_validate({"name": path.stem, **kept})
  archive = workspace.archive()
  found = [(cell, archive.find(cell)) for cell in sheet.cells()]
  path.write_text(sheets.dumps(kept), encoding="utf-8")
  count = 0
  for cell, stored in found:
    target = workspace.root / "results" / f"{cell.full_name}.json"
    if stored and stored.record.counts and not target.exists():
      target.parent.mkdir(parents=True, exist_ok=True)
      shutil.copyfile(stored.path, target)
      count += 1
  print(
    f"{path}: {len(found)} cells, {count} of them with a record. "
    f"{sheet.launch_command} runs the others, and prompt-tuning tabulate "
    f"{sheet.name} makes the table."
  )
