"""Writes predictions: `python -m t5x.infer --gin_file=... --gin.X=...`."""

from collections.abc import Callable
import sys

from t5x.configuration import command_flags

if __name__ == "__main__":
  command_flags.show_help_if_asked("infer")  # Before slow imports.

import jax

from t5x import gin_utils
from t5x.runs import command_line
from t5x.runs.inference import InferenceOutcome, infer


def main(infer: Callable[..., InferenceOutcome]) -> None:
  """Writes the files, and prints their paths.

  Args:
    infer: `inference.infer`, its arguments bound.

  Raises:
    SystemExit: with 128 + its number, after a signal; the same command resumes
      after the last chunk.
  """
  with (
    command_line.StopSignals() as signals,
    command_line.ProgressBar("infer", "example") as progress,
  ):
    outcome = infer(
      configuration=gin_utils.configuration("infer"),
      on_event=progress,
      should_stop=signals.should_stop,
    )
  is_first = jax.process_index() == 0
  if is_first:
    for path, examples in outcome.examples.items():
      print(f"{examples} examples in {path}", file=sys.stderr)
  if outcome.status == "interrupted":
    if is_first:
      print(
        f"Stopped at example {progress.step}; the same command resumes it.",
        file=sys.stderr,
      )
    sys.exit(signals.exit_status)


if __name__ == "__main__":
  gin_utils.run_entry_point(infer, main)
