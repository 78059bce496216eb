"""Trains a model: `python -m t5x.train --gin_file=... --gin.X=...`."""

from collections.abc import Callable
import sys

from t5x.configuration import command_flags

if __name__ == "__main__":
  command_flags.show_help_if_asked("train")  # Before slow imports.

from absl import logging
import jax

from t5x import gin_utils
from t5x.runs import command_line
from t5x.runs.training import Outcome, train


def main(train: Callable[..., Outcome]) -> None:
  """Trains, and shows the progress and the outcome.

  Args:
    train: `training.train`, its arguments bound.

  Raises:
    SystemExit: with 128 + its number, after a signal; the same command resumes
      the run.
  """
  with (
    command_line.StopSignals() as signals,
    command_line.ProgressBar("train", "step") as progress,
  ):
    outcome = train(
      configuration=gin_utils.configuration("train"),
      on_event=progress,
      should_stop=signals.should_stop,
    )
  is_first = jax.process_index() == 0
  if outcome.was_over and is_first:
    print(
      f"{outcome.model_dir} has already ended, {outcome.status} at step "
      f"{outcome.step}.",
      file=sys.stderr,
    )
  if outcome.status != "interrupted" and is_first:
    try:
      for note in gin_utils.next_steps(outcome.model_dir, outcome.best):
        print(note, flush=True)
    except (ValueError, OSError) as e:
      # The files of its command may have changed; the run is over all the same.
      logging.warning("What to do with the result cannot be said: %s", e)
  if outcome.status == "interrupted":
    if is_first:
      print(
        f"Stopped at step {outcome.step}; the same command resumes it.",
        file=sys.stderr,
      )
    sys.exit(signals.exit_status)


if __name__ == "__main__":
  gin_utils.run_entry_point(train, main)
