"""Makes a checkpoint and a vocabulary of a real T5 1.1 small.

  python scripts/import_t5_small.py [checkpoints/t5_small]

The weights are those of the package traceforge-title-model (the extra
t5-small): a FLAN-T5 small, fine-tuned to write titles and stored in int8. They
are real, but not the paper's.
"""

import argparse
import pathlib
import sys

import prompt_tuning
from prompt_tuning.interop import t5_small

DEFAULT_FOLDER = prompt_tuning.project_folder() / "checkpoints" / "t5_small"


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    "folder", nargs="?", type=pathlib.Path, default=DEFAULT_FOLDER
  )
  try:
    t5_small.import_to(parser.parse_args().folder)
  except (ValueError, OSError) as error:
    sys.exit(f"Error: {error}")


if __name__ == "__main__":
  main()
