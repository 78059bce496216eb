"""Writes predictions: `python -m t5x.infer --gin_file=... --gin.X=...`."""

import sys

from t5x.runs import preflight

if __name__ == "__main__":
  preflight.before_imports("infer")  # Before slow imports.

from t5x import gin_utils
from t5x.runs import command_line
from t5x.runs.inference import infer


def show(examples: dict[str, int]) -> None:
  """Prints the paths of the files."""
  for path, number in examples.items():
    print(f"{number} examples in {path}", file=sys.stderr)


if __name__ == "__main__":
  gin_utils.run_entry_point(
    infer, lambda bound: command_line.run(bound, "infer", "example", show)
  )
