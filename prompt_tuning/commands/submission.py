"""Make a SuperGLUE or GLUE submission from predictions, and check it.

  prompt-tuning submission --predictions=DIR,DIR --output=submission.zip
  prompt-tuning submission --check=submission.zip

Make the predictions with `python -m t5x.infer` on each task's test split.
"""

import argparse
import pathlib
import sys


def run(args: argparse.Namespace) -> None:
  """Runs the command."""
  from prompt_tuning.data.release import submission

  if bool(args.check) == bool(args.predictions and args.output):
    raise ValueError("Give --predictions and --output, or --check.")
  if not args.check:
    folders = [pathlib.Path(folder) for folder in args.predictions]
    rows_by_task = {
      name: submission.rows(name, *found, args.replace_invalid)
      for name, found in submission.find_predictions(folders).items()
    }
    submission.write(rows_by_task, args.output)
  path = args.check or args.output
  if problems := submission.check(path):
    sys.exit("The leaderboard would refuse it:\n  " + "\n  ".join(problems))
  print(f"{path} is complete.")
