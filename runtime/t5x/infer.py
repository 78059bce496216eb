"""Writes predictions: `python -m t5x.infer --gin_file=... --gin.X=...`."""

from collections.abc import Callable
import sys

from t5x.configuration import command_flags

if __name__ == "__main__":
  command_flags.show_help_if_asked("infer")  # Before slow imports.

import jax

from t5x import gin_utils
from t5x.runs import command_line
from t5x.runs.inference import infer


def main(infer: Callable[..., dict[str, int]]) -> None:
  """Writes the files, and prints their paths.

  Args:
    infer: `inference.infer`, its arguments bound.

  Raises:
    SystemExit: after a signal; the same command resumes after the last chunk.
  """
  with command_line.running("infer", "example") as arguments:
    examples = infer(**arguments)
  if jax.process_index() == 0:
    for path, number in examples.items():
      print(f"{number} examples in {path}", file=sys.stderr)


if __name__ == "__main__":
  gin_utils.run_entry_point(infer, main)
