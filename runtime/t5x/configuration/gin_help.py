"""What `--help` prints. It imports neither JAX nor what gin files name."""

from collections.abc import Iterator, Mapping, Sequence
import shutil
import signal
import sys
import textwrap

from absl import flags

from t5x import gin_utils
from t5x.configuration import gin_macros
from t5x.configuration.client import clients

_WIDTH = 79


def show_if_asked(program: str) -> None:
  """Prints help and ends the program if its arguments ask for that, or lack.

  Args:
    program: "train", "eval" or "infer".
  """
  arguments = sys.argv[1:]
  if arguments and not {"--help", "-help", "-h"} & set(arguments):
    return
  try:
    shown = text(program, arguments)
  except (ValueError, SyntaxError) as e:
    sys.exit(f"Error: {e}")
  # Whoever reads may have seen enough, such as `head`: that ends it quietly, as
  # it ends other commands. It is the last thing that the process does.
  signal.signal(signal.SIGPIPE, signal.SIG_DFL)
  print(shown, flush=True)
  sys.exit(0)


def text(program: str, arguments: Sequence[str] = ()) -> str:
  """Returns the help of a program.

  Args:
    program: "train", "eval" or "infer".
    arguments: Of the command: the macros of the gin files that it names are
      shown with their values.

  Raises:
    ValueError: if a named gin file is missing.
  """
  paths = gin_utils.search_paths(
    (_values(arguments, "gin_search_paths") or ["."])[-1].split(",")
  )
  lines = [
    f"python -m t5x.{program} --gin_file=... --gin.NAME=VALUE",
    "",
    "A command names a model, a recipe, a task and a folder:",
  ]
  for client in clients():
    if arguments_ := client.examples.get(program):
      example = (f"python -m t5x.{program}", *arguments_)
      lines += [
        "",
        *textwrap.indent(" \\\n  ".join(example), "  ").splitlines(),
      ]
  if gin_files := _values(arguments, "gin_file"):
    lines += ["", "Macros of these files, --gin.NAME=VALUE (strings quoted):"]
    lines += _macro_lines(gin_files, arguments, paths)
  else:
    lines += ["", "--help after some gin files shows their macros."]
  for kind, files in gin_macros.files_by_kind(paths).items():
    lines += ["", f"gin/{kind}/*.gin:", *_columns(files)]
  for client in clients():
    for heading, names in client.task_names().items():
      lines += ["", f"{heading}:", *_filled(", ".join(names))]
  lines += ["", "Flags:", *_columns(_flags())]
  return "\n".join(lines)


def _values(arguments: Sequence[str], flag: str) -> list[str]:
  """The values that a flag is given, as --flag=value or --flag value."""
  found = []
  for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
    name, equals, value = argument.lstrip("-").partition("=")
    if argument.startswith("-") and name == flag:
      found.append(value if equals else following)
  return found


def _macro_lines(
  gin_files: Sequence[str], arguments: Sequence[str], paths: Sequence[str]
) -> Iterator[str]:
  found = gin_macros.macros_of(gin_files, paths)
  for argument in gin_utils.rewrite_gin_args(arguments):
    name, _, value = argument.partition("=")[2].partition(" = ")
    if name in found:
      found[name] = gin_macros.Macro(value, found[name].comment)
  for name, macro in sorted(found.items()):
    value = "required" if macro.value == gin_macros.REQUIRED else macro.value
    yield from _filled(f"{name} = {value}", "  ")
    yield from _filled(macro.comment, "      ") if macro.comment else ()


def _flags() -> dict[str, str]:
  """The flags of the programs, which are defined as they start."""
  values = flags.FlagValues()
  gin_utils.define_flags(values)
  # absl adds that some may be repeated.
  return {f"--{x}": str(values[x].help).split(";\n")[0] for x in values}


def _columns(rows: Mapping[str, str]) -> Iterator[str]:
  width = max(map(len, rows), default=0) + 2
  for name, description in rows.items():
    yield from textwrap.wrap(
      f"{name:{width}}{description}",
      _WIDTH,
      initial_indent="  ",
      subsequent_indent=" " * (width + 2),
    )


def _filled(content: str, indent: str = "  ") -> list[str]:
  width = min(shutil.get_terminal_size((_WIDTH, 24)).columns, 120)
  return textwrap.wrap(
    content,
    width,
    initial_indent=indent,
    subsequent_indent=indent + "  ",
    break_long_words=False,
    break_on_hyphens=False,
  )
