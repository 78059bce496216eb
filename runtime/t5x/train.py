"""Trains a model: `python -m t5x.train --gin_file=... --gin.X=...`."""

import sys

from t5x.runs import preflight

if __name__ == "__main__":
  preflight.before_imports("train")  # Before slow imports.

from absl import logging

from t5x import gin_utils
from t5x.runs import command_line
from t5x.runs.training import Outcome, train


def show(outcome: Outcome) -> None:
  """Prints the outcome and the next steps."""
  if outcome.was_over:
    print(
      f"{outcome.model_dir} has already ended, {outcome.status} at step "
      f"{outcome.step}.",
      file=sys.stderr,
    )
  try:
    for note in gin_utils.next_steps(outcome.model_dir, outcome.best):
      print(note, flush=True)
  except (ValueError, OSError) as e:
    # The command's files may have changed since, but the run is still over.
    logging.warning("The next steps cannot be shown: %s", e)


if __name__ == "__main__":
  gin_utils.run_entry_point(
    train, lambda bound: command_line.run(bound, "train", "step", show)
  )
