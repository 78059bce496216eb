"""Write the tables and figures of sheets from the committed records.

  prompt-tuning tabulate [SHEET...]

A SHEET is a name such as scale, full/scale, parameters, claims or
interpretability, or the path of its file; by default all sheets. The tables in
README.md and docs/ are always written.
"""

import argparse
import sys

from prompt_tuning.commands import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of the command."""
  parser.add_argument("sheets", nargs="*", metavar="SHEET")
  parser.add_argument(
    "--check",
    action="store_true",
    help="write nothing; fail if a file differs from what the records make",
  )
  options.add_root(parser)


def run(args: argparse.Namespace) -> int:
  """Runs the command."""
  from prompt_tuning.experiments import generated_files

  if not args.check:
    print(generated_files.write(args.root, args.sheets))
    return 0
  wrong, hidden = generated_files.differences(args.root, args.sheets)
  for line in hidden:
    print(line, file=sys.stderr)
  if wrong:
    raise ValueError(
      f"{', '.join(wrong)}. Run prompt-tuning tabulate and commit."
    )
  return 0
