"""Flags that several commands share, and types of their values."""

import argparse
import math
import pathlib

import prompt_tuning


def add_root(parser: argparse.ArgumentParser) -> None:
  """Adds `--root`, the folder with `configs/` and `results/`."""
  here = pathlib.Path.cwd()
  has_sheets = (here / "configs").is_dir()
  parser.add_argument(
    "--root",
    type=lambda text: pathlib.Path(text).resolve(),
    default=here if has_sheets else prompt_tuning.project_folder(),
    metavar="FOLDER",
    help="folder with configs/ and results/",
  )


def add_launching(parser: argparse.ArgumentParser) -> None:
  """Adds the flags that say how cells are run."""
  parser.add_argument(
    "--jobs",
    type=positive,
    default=1,
    help="cells to run at the same time, each on its share of the cores",
  )
  parser.add_argument(
    "--retry_failed", action="store_true", help="run failed cells again"
  )
  parser.add_argument(
    "--dry_run",
    action="store_true",
    help="print the commands instead of running them",
  )
  add_cluster(parser, "submit the cells to a cluster: slurm, or local")


def add_cluster(parser: argparse.ArgumentParser, about: str) -> None:
  """Adds the flags that submit work to a cluster."""
  parser.add_argument("--submit", metavar="CLUSTER", help=about)
  parser.add_argument(
    "--option",
    action="append",
    default=[],
    metavar="NAME=VALUE",
    help="for submitit, such as timeout_min=600 or slurm_partition=gpu",
  )


def check_launching(args: argparse.Namespace) -> None:
  """Checks that flags for a cluster and for this machine are not mixed.

  Raises:
    ValueError: if a flag has no effect beside the others.
  """
  if args.submit and args.jobs > 1:
    raise ValueError(
      "--jobs is for this machine; --submit makes a job of each cell."
    )
  if args.option and not args.submit:
    raise ValueError("--option is for --submit.")


def add_task_data(parser: argparse.ArgumentParser) -> None:
  """Adds the flags that say where a task, its data and vocabulary are."""
  parser.add_argument(
    "--tfds_data_dir", metavar="FOLDER", help="folder with the TFDS data"
  )
  parser.add_argument(
    "--module",
    default="prompt_tuning.tasks",
    help="Python module that registers the tasks",
  )
  add_vocabulary(
    parser,
    "the ladder's for its tasks, that of checkpoints/t5_small for the others",
  )


def add_vocabulary(parser: argparse.ArgumentParser, default: str) -> None:
  """Adds the flags of a vocabulary; `default` says which one is the default."""
  parser.add_argument(
    "--vocabulary",
    metavar="FILE",
    help=f"SentencePiece model, or 'ladder'; by default {default}",
  )
  parser.add_argument(
    "--extra_ids",
    type=count,
    default=100,
    help="sentinels after the vocabulary's pieces",
  )


def words(text: str) -> list[str]:
  """Splits a flag's value at its commas."""
  return text.split(",")


def count(text: str) -> int:
  """Reads a number that is 0 or more."""
  if not (text := text.strip()).isdecimal():
    raise argparse.ArgumentTypeError(f"expected 0 or more, got {text!r}")
  return int(text)


def positive(text: str) -> int:
  """Reads a number that is 1 or more."""
  if not (number := count(text)):
    raise argparse.ArgumentTypeError("expected 1 or more, got 0")
  return number


def positives(text: str) -> list[int]:
  """Reads numbers between commas."""
  return [positive(part) for part in words(text)]


def seconds(text: str) -> float:
  """Reads a time in seconds."""
  try:
    number = float(text)
  except ValueError:
    number = math.nan
  if not 0 <= number < math.inf:
    raise argparse.ArgumentTypeError(f"expected 0 or more, got {text!r}")
  return number
