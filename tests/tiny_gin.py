"""Runs of the tiny T5 through gin: testdata/tiny.gin and a method's file."""

import pathlib
from typing import Any

import gin
import tiny

import prompt_tuning
from t5x import eval as eval_lib
from t5x import gin_utils
from t5x import infer as infer_lib
from t5x import train as train_lib

_TESTS = pathlib.Path(__file__).parent

PROGRAMS = {
  "train": train_lib.train,
  "eval": eval_lib.evaluate,
  "infer": infer_lib.infer,
}


def configure_files(
  program: str, files: list[str], bindings: list[str], **macros: Any
) -> None:
  """Makes the configuration of a program the one that gin knows."""
  import __main__

  for function in PROGRAMS.values():  # Where the gin files look for them.
    setattr(__main__, function.__name__, function)
  gin.clear_config()
  macros = {
    "MIXTURE_OR_TASK_NAME": tiny.TASK,
    "MIXTURE_OR_TASK_MODULE": "tiny",
    "BATCH_SIZE": tiny.BATCH_SIZE,
    **macros,
  }
  gin_utils.parse_gin_flags(
    [prompt_tuning.gin_search_path()],
    [
      str(_TESTS / "testdata/tiny.gin"),
      *files,
      f"gin/runs/{program}.gin",
    ],
    [*bindings, *(f"{name} = {value!r}" for name, value in macros.items())],
  )
