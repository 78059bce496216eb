"""The types of flag values, and functions that several commands share."""

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


def find_task(
  args: argparse.Namespace, name: str, split: str | None = None
) -> Any:
  """Finds a task or mixture, using the flags of [shared.task]."""
  from absl import logging
  import seqio

  from prompt_tuning import tasks
  from t5x.input import datasets

  logging.set_verbosity(logging.ERROR)
  sys.path.append("")  # `python -m` would find --module here too.
  seqio.set_tfds_data_dir_override(args.tfds_data_dir)
  tasks.use_vocabulary(args.vocabulary, args.extra_ids, name)
  return datasets.find_task(name, split, args.module)


def load_frozen(args: argparse.Namespace, checkpoint: str) -> Any:
  """Loads a `FrozenModel` with the vocabulary that the flags name, if any."""
  from prompt_tuning import tasks
  from prompt_tuning.inference.frozen_model import FrozenModel

  words = args.vocabulary
  if words:
    words = tasks.use_vocabulary(words, args.extra_ids)
  return FrozenModel.load(checkpoint, words, extra_ids=args.extra_ids)


def gin_flags(rest: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
  """Parses the flags of `t5x`: --gin_file= and --gin.NAME=.

  Returns:
    The gin files, the bindings, and the names of the other flags.

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
  ours = ("gin_file", "gin_bindings")
  names = [x for x in given if given[x].present and x not in ours]
  return given.gin_file, given.gin_bindings, names


path = pathlib.Path
share = float  # `data.files` checks its bounds.


def root(text: str) -> pathlib.Path:
  """Reads the folder with `configs/` and `results/`; "" is the default one."""
  if text:
    return pathlib.Path(text).resolve()
  here = pathlib.Path.cwd()
  has_sheets = (here / "configs").is_dir()
  return here if has_sheets else prompt_tuning.project_folder()


def words(text: str) -> list[str]:
  """Splits a flag's value at its commas; "" gives an empty list."""
  return text.split(",") if text else []


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
  """Reads numbers separated by commas."""
  return [positive(part) for part in text.split(",")]


def folder(text: str) -> str:
  """Reads the path of a folder, which need not exist yet."""
  if os.path.isfile(text):
    raise argparse.ArgumentTypeError(f"{text} is a file: name a folder")
  return text
