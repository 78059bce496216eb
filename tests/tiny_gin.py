"""Gin configurations of commands, and of the tiny T5 in testdata/tiny.gin."""

from collections.abc import Sequence
from typing import Any

from absl import flags
import gin
from started import TESTS
import tiny

from t5x import eval as eval_lib
from t5x import gin_utils
from t5x import infer as infer_lib
from t5x import train as train_lib
from t5x.configuration import command_flags, reading

PROGRAMS = {
  "train": train_lib.train,
  "eval": eval_lib.evaluate,
  "infer": infer_lib.infer,
}


def parse(
  files: Sequence[str], bindings: Sequence[str] = (), finalize: bool = True
) -> None:
  """Makes a configuration the current one of gin, until the test's end."""
  import __main__

  for function in PROGRAMS.values():  # The gin files import `__main__`.
    setattr(__main__, function.__name__, function)
  gin.clear_config()
  gin_utils.parse_gin_flags(reading.search_paths(), files, bindings, finalize)


def parse_command(words: Sequence[str]) -> set[str]:
  """Parses the configuration of a `t5x` command; returns its other flags."""
  values = {"--gin_file": [], "--gin_bindings": []}
  for flag in gin_utils.rewrite_gin_args(words[3:]):
    name, _, value = flag.partition("=")
    values.setdefault(name, []).append(value)
  parse(values.pop("--gin_file"), values.pop("--gin_bindings"))
  return set(values)


def start(monkeypatch, program: str, words: Sequence[str], run: Any) -> None:
  """Starts a program in this process, as its entry point does."""
  import __main__

  function = PROGRAMS[program]
  values = flags.FlagValues()
  command_flags.define_flags(values)
  values([program, *command_flags.rewrite_gin_args(words)])
  monkeypatch.setattr(flags, "FLAGS", values)
  monkeypatch.setattr(__main__, function.__name__, function, raising=False)
  gin_utils._start(function, run)


def configure_files(
  program: str,
  files: list[str],
  bindings: list[str],
  model: str = "tiny",
  **macros: Any,
) -> None:
  """Parses a program's configuration for the tiny T5 or another tiny model."""
  macros = {
    "MIXTURE_OR_TASK_NAME": tiny.TASK,
    "MIXTURE_OR_TASK_MODULE": "tiny",
    "BATCH_SIZE": tiny.BATCH_SIZE,
    **macros,
  }
  parse(
    [
      str(TESTS / "testdata" / f"{model}.gin"),
      *files,
      f"gin/runs/{program}.gin",
    ],
    [*bindings, *(f"{name} = {value!r}" for name, value in macros.items())],
  )
