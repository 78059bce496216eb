"""Write the tables and figures of sheets from the committed records.

  prompt-tuning tabulate [SHEET...]

A SHEET is a name such as scale, full/scale, parameters, claims, plan or
interpretability, or the path of its file; by default all sheets. The tables in
README.md and docs/ are always written.
"""

import argparse
import sys


def run(args: argparse.Namespace) -> None:
  """Runs the command."""
  from prompt_tuning.experiments import generated_files

  tables = generated_files.TABLES
  files, empty = generated_files.make(args.root, args.sheets)
  if args.check:
    whole = None if args.sheets else tables
    wrong, lines = generated_files.differences(files, args.root, whole)
    print(*lines, sep="\n", end="\n" if lines else "", file=sys.stderr)
    if wrong:
      raise ValueError(
        f"{', '.join(wrong)}. Run prompt-tuning tabulate and commit."
      )
    return
  generated_files.write(files, args.root)
  others = sorted(x for x in files if not x.startswith(f"{tables}/"))
  count = len(files) - len(others)
  print(", ".join([f"Written: {count} files in {tables}", *others]) + ".")
  if empty:
    print(f"No results yet: {', '.join(empty)}.")
