"""The text of `--help`, made without importing JAX or what gin files name."""

from collections.abc import Iterator, Mapping, Sequence
import shutil
import signal
import sys
import textwrap

from absl import flags

from t5x.configuration import command_flags, reading
from t5x.configuration.client import clients

_WIDTH = 79


def show_if_asked(program: str) -> None:
  """Prints help and exits if the command asks for it or has no arguments.

  Args:
    program: "train", "eval" or "infer".
  """
  arguments = sys.argv[1:]
  if arguments and not {"--help", "-help", "-h"} & set(arguments):
    return
  try:
    shown = text(program, arguments)
  except (ValueError, flags.Error) as e:
    sys.exit(f"Error: {e}")
  # A reader such as `head` may stop early: end quietly, as other commands do.
  # Nothing else happens in this process.
  signal.signal(signal.SIGPIPE, signal.SIG_DFL)
  print(shown, flush=True)
  sys.exit(0)


def text(program: str, arguments: Sequence[str] = ()) -> str:
  """Returns the help of a program.

  Args:
    program: "train", "eval" or "infer".
    arguments: The arguments of the command. If they name gin files, the help
      shows the files' macros with their values.

  Raises:
    ValueError: if a named gin file is missing.
  """
  values = flags.FlagValues()
  command_flags.define_flags(values)
  arguments = command_flags.rewrite_gin_args(arguments)
  values([program, *arguments], known_only=True)
  paths = reading.search_paths(values.gin_search_paths)
  lines = [
    f"python -m t5x.{program} --gin_file=... --gin.NAME=VALUE",
    "",
    "A command names a model, a recipe, a task and a folder:",
  ]
  for client in clients():
    if example := client.examples.get(program):
      command = " \\\n  ".join([f"python -m t5x.{program}", *example])
      lines += ["", *textwrap.indent(command, "  ").splitlines()]
  if values.gin_file:
    lines += ["", "Macros of these files, --gin.NAME=VALUE (strings quoted):"]
    lines += _macro_lines(values.gin_file, values.gin_bindings, paths)
  else:
    lines += ["", "--help after some gin files shows their macros."]
  for kind, files in reading.files_by_kind(paths).items():
    lines += ["", f"gin/{kind}/*.gin:", *_columns(files)]
  for client in clients():
    for heading, names in client.task_names().items():
      lines += ["", f"{heading}:", *_filled(", ".join(names))]
  # absl adds that some may be repeated.
  about = {f"--{x}": str(values[x].help).split(";\n")[0] for x in values}
  return "\n".join([*lines, "", "Flags:", *_columns(about)])


def _macro_lines(
  gin_files: Sequence[str], gin_bindings: Sequence[str], paths: Sequence[str]
) -> Iterator[str]:
  given = {x.label: x for t in gin_bindings for x in reading.from_text(t)}
  for name, macro in sorted(reading.macros(gin_files, paths).items()):
    value = given.get(name, macro).text
    value = "required" if value == reading.REQUIRED else value
    yield from _filled(f"{name} = {value}", "  ")
    yield from _filled(macro.comment, "      ") if macro.comment else ()


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
