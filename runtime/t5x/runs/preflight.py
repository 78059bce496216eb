"""A search for the mistakes that a command's words, folders and headers show.

It runs before JAX and TensorFlow are imported, which takes seconds, and before
anything is written.
"""

import ast
from collections.abc import Callable, Iterable, Iterator, Sequence
import difflib
import json
import os
import pathlib
import sys
from typing import Any

from absl import (
  app,  # noqa: F401  # It defines flags.
  flags,
)

from t5x.configuration import checks, command_flags, identity, reading
from t5x.configuration.client import clients
from t5x.configuration.resolution import Bindings, Setting, resolve
from t5x.files import storage
from t5x.formats import checkpoint_folder


def before_imports(program: str) -> None:
  """Shows help or the command's mistakes and exits; else just returns.

  From here on, Ctrl-C ends the program with one line.

  Args:
    program: "train", "eval" or "infer".
  """
  command_flags.report_errors()
  command_flags.show_help_if_asked(program)
  try:
    checks.refuse(problems(program, sys.argv[1:]))
  except (ValueError, OSError) as e:
    if "--traceback" in sys.argv:
      raise
    sys.exit(f"Error: {e}")


def problems(program: str, words: Sequence[str]) -> Iterator[str]:
  """Yields the problems of a command.

  Args:
    program: "train", "eval" or "infer".
    words: The command's arguments.

  Raises:
    ValueError: if an argument has no value.
  """
  values = flags.FlagValues()
  command_flags.define_flags(values)
  for module, found in flags.FLAGS.flags_by_module_dict().items():
    for flag in found if module.startswith("absl.") else ():
      values[flag.name] = flag
  try:
    rewritten = command_flags.rewrite_gin_args(words)
    others = values([program, *rewritten], known_only=True)[1:]
  except flags.Error as e:
    raise ValueError(str(e)) from e
  paths = reading.search_paths(values.gin_search_paths)
  files, texts = values.gin_file, values.gin_bindings
  unreadable = [
    *_failures(lambda file: Bindings([file], paths=paths), files),
    *_failures(reading.from_text, texts),
  ]
  yield from unreadable
  if unreadable:
    return
  of_files = Bindings(files, paths=paths)
  for word in others:
    yield from _unknown_word(word, list(values), of_files, paths)
  read = Bindings(texts=texts, start=of_files)
  function = identity.FUNCTIONS[program]
  has_run = read.root(function) is not None
  if not has_run:
    yield _no_run(read)
    # A run's file would define more.
    texts = [x for x in texts if not any(checks.unknown([x], of_files.macros))]
  yield from checks.unknown(texts, of_files.macros, paths)
  yield from checks.missing(read, paths)
  if not has_run:
    return
  for _, problem in checks.without_effect(read, function, texts):
    yield from filter(None, [problem])
  settings = resolve(read, function)
  wrong = list(checks.wrong_values(settings, f"t5x.{program}"))
  yield from wrong
  if wrong:
    return
  by_name = {x.name: x.value for x in settings}
  periods = [by_name.get(x) for x in checks.PERIODS]
  if program == "train" and all(isinstance(x, int | None) for x in periods):
    yield from checks.wrong_periods(*periods)
  configuration = identity.RunConfiguration.from_bindings(program, read)
  yield from _failures(
    lambda x: _check_place(x, configuration, files),
    [x for x in settings if isinstance(x.value, str)],
  )
  for client in clients():
    yield from client.problems(by_name, read.files)


def _failures(check: Callable[[Any], Any], items: Iterable[Any]) -> list[str]:
  """Returns the messages of errors that a check raises for items."""
  found = []
  for item in items:
    try:
      check(item)
    except (ValueError, OSError) as e:
      found.append(str(e))
  return found


def _unknown_word(
  word: str, known: Sequence[str], read: Bindings, paths: Sequence[str]
) -> Iterator[str]:
  """Yields the problem if an argument is not a known flag."""
  name, equals, value = word.lstrip("-").partition("=")
  macro = name.upper()
  if not word.startswith("-"):
    yield f"Unexpected argument {word}: give flags, --NAME=VALUE."
  elif macro in read.macros or checks.definers(macro, paths):
    try:
      ast.literal_eval(value)
    except (ValueError, SyntaxError):
      value = f"\"'{value}'\"" if equals else "..."
    yield (
      f"There is no flag --{name}. It is a macro of the gin files: "
      f"--gin.{macro}={value}"
    )
  elif not name.startswith("help"):  # Absl defines those at the start.
    near = [f"--{x}" for x in difflib.get_close_matches(name, known)]
    yield f"There is no flag --{name}.{reading.suggestion(near)}"


def _no_run(read: Bindings) -> str:
  for program, function in identity.FUNCTIONS.items():
    if read.root(function) is not None:
      return (
        f"The gin files configure a t5x.{program} run: start it with "
        f"python -m t5x.{program}."
      )
  return (
    "None of the gin files configures a run. Name a recipe, "
    "--gin_file=gin/recipes/NAME.gin, or a run, "
    "--gin_file=gin/runs/NAME.gin; --help lists them."
  )


def _check_place(
  place: Setting,
  configuration: identity.RunConfiguration,
  files: Sequence[str],
) -> None:
  """Raises ValueError for a missing base model or a wrong folder.

  Args:
    place: A setting whose value is a string, which may be a path.
    configuration: The command's configuration.
    files: The command's gin files.
  """
  if storage.is_bucket(place.value) or not identity.matches(
    place.name, "base_model_paths", "folders"
  ):
    return
  name = f"{place.macro or place.name}={place.text}"
  if (path := os.path.expanduser(place.value)) != place.value:
    raise ValueError(
      f"{name}: shells do not replace ~ inside quotes. Write {path}."
    )
  if identity.matches(place.name, "base_model_paths"):
    checkpoint_folder.find_checkpoint(place.value)
    return
  folder = pathlib.Path(place.value).absolute()
  there = next(x for x in (folder, *folder.parents) if x.exists())
  if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
    why = "there is no permission" if there.is_dir() else "it is a file"
    raise ValueError(
      f"{name} cannot be written at {there}: {why}. Choose another folder."
    )
  try:
    record = json.loads((folder / "record.json").read_text())
    kind, command, evals = (record.get(x) for x in ("kind", "command", "evals"))
  except (OSError, ValueError, AttributeError, RecursionError):
    return  # The run itself sets a damaged record aside.
  program = configuration.program
  identity.check_kind(kind, program, name)
  saved = checkpoint_folder.CheckpointFolder(storage.absolute(folder))
  before = identity.read(str(folder))
  if program != "train" or saved.is_empty() or before is None:
    return
  try:
    identity.check_same_run(before[0], configuration, name, bool(evals))
  except ValueError as e:
    words = [x for x in command or () if str(x).endswith(".gin")]
    there = [x.removeprefix("--gin_file=") for x in words]
    if there in ([], list(files)):
      raise
    raise ValueError(
      f"{name} has a run with {', '.join(there)}; this command names "
      f"{', '.join(files)}. Choose another folder."
    ) from e
