"""Pretrain the ladder's miniature T5s from scratch, on generated prose.

  prompt-tuning pretrain [SIZE...]

Runs the cells of configs/ladder.toml that have no record, and those whose runs
and checkpoints are both missing: the checkpoints of ladder_l are too large for
the repository. Puts checkpoints where the other sheets look for them:
checkpoints/SIZE/{span_corruption,lm_10,lm_50,lm_100}, in bfloat16; also
long_documents for ladder_xs, and longer_lm for all but ladder_l. You can stop
the command at any time; the same command resumes it.
"""

import argparse

from prompt_tuning.commands import options

SIZES = ("ladder_xxs", "ladder_xs", "ladder_s", "ladder_m", "ladder_l")


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of the command."""
  parser.add_argument(
    "sizes",
    nargs="*",
    metavar="SIZE",
    help=f"one of {', '.join(SIZES)}; by default all",
  )
  options.add_root(parser)


def run(args: argparse.Namespace) -> None:
  """Runs the command."""
  from prompt_tuning.experiments import ladder_runs

  if unknown := set(args.sizes) - set(SIZES):
    raise ValueError(f"No size {sorted(unknown)}; there is {', '.join(SIZES)}.")
  ladder_runs.pretrain(args.sizes or SIZES, args.root)
