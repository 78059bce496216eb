"""Trains a model: `python -m t5x.train --gin_file=... --gin.X=...`."""

from collections.abc import Callable
import sys

from t5x.configuration import command_flags

if __name__ == "__main__":
  command_flags.show_help_if_asked("train")  # Before slow imports.

from absl import logging
import jax

from t5x import gin_utils
from t5x.runs import command_line, events
from t5x.runs.training import Outcome, train


def main(train: Callable[..., Outcome]) -> None:
  """Trains, and shows the progress and the outcome.

  Args:
    train: `training.train`, its arguments bound.

  Raises:
    SystemExit: after a signal; the same command resumes the run.
  """
  with command_line.running("train", "step") as arguments:
    outcome = train(**arguments)
    if outcome.status == "interrupted":
      raise events.CancelledError
  if jax.process_index():
    return
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
    # The files of its command may have changed; the run is over all the same.
    logging.warning("What to do with the result cannot be said: %s", e)


if __name__ == "__main__":
  gin_utils.run_entry_point(train, main)
