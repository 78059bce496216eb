"""Flags that several commands share, and types of their values."""

import argparse
from collections.abc import Callable, Sequence
import contextlib
import math
import os
import pathlib
import sys
from typing import Any, TypeVar

import prompt_tuning

_Number = TypeVar("_Number", int, float)


def add_root(parser: argparse.ArgumentParser) -> None:
  """Adds `--root`, the folder with `configs/` and `results/`."""
  here = pathlib.Path.cwd()
  has_sheets = (here / "configs").is_dir()
  parser.add_argument(
    "--root",
    type=lambda text: pathlib.Path(text).resolve(),
    default=here if has_sheets else prompt_tuning.project_folder(),
    help="folder with configs/ and results/",
  )


def add_launching(parser: argparse.ArgumentParser) -> None:
  """Adds the flags that say how cells are run."""
  add = parser.add_argument
  jobs = "cells to run at the same time, each on its share of the cores"
  add("--jobs", type=positive, default=1, help=jobs)
  add("--retry_failed", action="store_true", help="run failed cells again")
  add("--dry_run", action="store_true", help="print the commands, run nothing")
  add_cluster(parser, "submit the cells to a cluster: slurm, or local")


def add_cluster(parser: argparse.ArgumentParser, about: str) -> None:
  """Adds the flags that submit work to a cluster."""
  add = parser.add_argument
  add("--submit", metavar="CLUSTER", help=about)
  option = "for submitit, such as timeout_min=600 or slurm_partition=gpu"
  name = "NAME=VALUE"
  add("--option", action="append", default=[], metavar=name, help=option)


def add_task_data(parser: argparse.ArgumentParser) -> None:
  """Adds the flags that say where a task, its data and vocabulary are."""
  add = parser.add_argument
  add("--tfds_data_dir", help="folder with the TFDS data")
  module = "Python module that registers the tasks"
  add("--module", default="prompt_tuning.tasks", help=module)
  add_vocabulary(
    parser,
    "the ladder's for its tasks, that of checkpoints/t5_small for the others",
  )


def find_task(
  args: argparse.Namespace, name: str, split: str | None = None
) -> Any:
  """Finds a task or mixture by the flags of `add_task_data`."""
  from absl import logging
  import seqio

  from prompt_tuning import tasks
  from t5x.input import datasets

  logging.set_verbosity(logging.ERROR)
  sys.path.append("")  # `python -m` would find --module here too.
  seqio.set_tfds_data_dir_override(args.tfds_data_dir)
  tasks.use_vocabulary(args.vocabulary, args.extra_ids, name)
  return datasets.find_task(name, split, args.module)


def add_prompt(parser: argparse.ArgumentParser) -> None:
  """Adds a prompt and the flag of its model."""
  about = "file or folder of the prompt"
  parser.add_argument("prompt", metavar="PROMPT", help=about)
  about = "the frozen model; by default the one that the prompt's file names"
  parser.add_argument("--model", metavar="MODEL", help=about)


def gin_flags(rest: Sequence[str]) -> tuple[list[str], list[str]]:
  """Parses the flags of `t5x`: --gin_file= and --gin.NAME=.

  Returns:
    The gin files and the bindings.

  Raises:
    ValueError: for any other argument.
  """
  from absl import flags

  from t5x.configuration import command_flags

  given = flags.FlagValues()
  command_flags.define_flags(given)
  try:
    others = given(["flags", *command_flags.rewrite_gin_args(rest)])[1:]
  except flags.Error as error:
    raise ValueError(error) from error
  if others:
    raise ValueError(f"Unexpected arguments: {' '.join(others)}")
  return given.gin_file, given.gin_bindings


def add_vocabulary(parser: argparse.ArgumentParser, default: str) -> None:
  """Adds the flags of a vocabulary; `default` says which one is the default."""
  about = f"SentencePiece model, or 'ladder'; by default {default}"
  sentinels = "sentinels after the vocabulary's pieces"
  parser.add_argument("--vocabulary", metavar="FILE", help=about)
  parser.add_argument("--extra_ids", type=count, default=100, help=sentinels)


def words(text: str) -> list[str]:
  """Splits a flag's value at its commas."""
  return text.split(",")


def _at_least(kind: type[_Number], least: int) -> Callable[[str], _Number]:
  """Returns the type of a flag: a number that is finite and not too small."""

  def read(text: str) -> _Number:
    with contextlib.suppress(ValueError):
      if least <= (number := kind(text)) < math.inf:
        return number
    raise argparse.ArgumentTypeError(f"expected {least} or more, got {text!r}")

  return read


count, positive = _at_least(int, 0), _at_least(int, 1)
seconds = _at_least(float, 0)


def positives(text: str) -> list[int]:
  """Reads numbers between commas."""
  return [positive(part) for part in words(text)]


def folder(text: str) -> str:
  """Reads the path of a folder, which need not exist yet."""
  if os.path.isfile(text):
    raise argparse.ArgumentTypeError(f"{text} is a file: name a folder")
  return text
