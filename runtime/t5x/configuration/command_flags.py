"""Flags and help of `train`, `eval` and `infer`.

Nothing here imports JAX or the modules of gin files, so help appears at once.
"""

from collections.abc import Iterator, Mapping, Sequence
import logging
import os
import pathlib
import re
import shutil
import signal
import sys
import textwrap
import threading
import tomllib

from absl import flags

from t5x.configuration import reading
from t5x.configuration.client import clients
from t5x.configuration.resolution import Bindings

_FILE = pathlib.Path(__file__).with_suffix(".toml")


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags that the three entry points share, in `values`."""
  for name, (kind, about) in tomllib.loads(_FILE.read_text()).items():
    define = getattr(flags, f"DEFINE_{kind}")
    default = [] if kind in ("list", "multi_string") else None
    define(name, default, about, flag_values=values)


def rewrite_gin_args(args: Sequence[str]) -> list[str]:
  """Rewrites `--gin.A.B=V` to `--gin_bindings=A.B = V`.

  Args:
    args: The command line.

  Returns:
    The command line that absl can parse.

  Raises:
    ValueError: if such an argument has no `=`.
  """
  rewritten = []
  for arg in args:
    if match := re.match(r"--?gin\.(.*)", arg, re.DOTALL):
      name, equals, value = match[1].partition("=")
      if not equals:
        raise ValueError(f"Expected --gin.NAME=VALUE, got {arg}.")
      arg = f"--gin_bindings={name} = {value}"
    rewritten.append(arg)
  return rewritten


def tell_others() -> None:
  """Tells the other processes of a run, if there are any, that it failed."""
  # Processes are joined by this module, which imports JAX.
  if multihost := sys.modules.get("t5x.multihost"):
    multihost.fail()


def leave(status: int) -> None:
  """Ends this process if it is one of several; 0 waits until all are done.

  Another status also ends a process that Orbax would keep for minutes, because
  its threads wait for a checkpoint whose folder could not even be made.
  """
  if multihost := sys.modules.get("t5x.multihost"):
    multihost.leave(status)
  threads = {
    type(x).__module__.partition(".")[0] for x in threading.enumerate()
  }
  if status and "orbax" in threads:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def report_errors() -> None:
  """Makes Ctrl-C end the program with one line; call it before slow imports.

  Any error that the program does not handle ends the other processes, too.
  """

  # When one of Orbax's or fsspec's concurrent calls fails, the others are not
  # awaited, and their loop may be closed. The first error is reported; these
  # loggers would repeat it.
  for name in ("asyncio", "fsspec", "gcsfs"):
    logging.getLogger(name).setLevel(logging.CRITICAL)

  def report_ignored(ignored):
    if str(ignored.exc_value) != "Event loop is closed":
      sys.__unraisablehook__(ignored)

  def report(kind, error, trace):
    tell_others()
    if issubclass(kind, KeyboardInterrupt):
      text = "\nInterrupted. The same command starts the run, or resumes it."
      print(text, file=sys.stderr, flush=True)
      leave(128 + signal.SIGINT)
      os._exit(128 + signal.SIGINT)  # Threads of a run may still work.
    sys.__excepthook__(kind, error, trace)
    leave(1)

  sys.excepthook, sys.unraisablehook = report, report_ignored


def show_help_if_asked(program: str) -> None:
  """Prints help and exits if the command asks for it or has no arguments.

  Args:
    program: "train", "eval" or "infer".
  """
  arguments = sys.argv[1:]
  if arguments and not {"--help", "-help", "-h"} & set(arguments):
    return
  try:
    shown = help_text(program, arguments)
  except (ValueError, flags.Error) as e:
    sys.exit(f"Error: {e}")
  # A reader such as `head` may stop early: end quietly, as other commands do.
  # This process does nothing else.
  signal.signal(signal.SIGPIPE, signal.SIG_DFL)
  print(shown, flush=True)
  sys.exit(0)


def help_text(program: str, arguments: Sequence[str] = ()) -> str:
  """Returns the help of a program.

  Args:
    program: "train", "eval" or "infer".
    arguments: The arguments of the command. If they name gin files, the help
      shows the files' macros with their values.

  Raises:
    ValueError: if a named gin file is missing.
  """
  values = flags.FlagValues()
  define_flags(values)
  values([program, *rewrite_gin_args(arguments)], known_only=True)
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
    read = Bindings(values.gin_file, values.gin_bindings, paths)
    for name, macro in sorted(read.macros.items()):
      value = "required" if macro.text == reading.REQUIRED else macro.text
      lines += _filled(f"{name} = {value}")
      lines += _filled(macro.comment, 6)
  else:
    lines += ["", "--help after some gin files shows their macros."]
  for kind, files in reading.files_by_kind(paths).items():
    lines += ["", f"gin/{kind}/*.gin:", *_columns(files)]
  for client in clients():
    for heading, names in client.task_names().items():
      lines += ["", f"{heading}:", *_filled(", ".join(names))]
  # absl adds a note to flags that may be repeated.
  about = {f"--{x}": str(values[x].help).split(";\n")[0] for x in values}
  return "\n".join([*lines, "", "Flags:", *_columns(about)])


def _columns(rows: Mapping[str, str]) -> Iterator[str]:
  width = max(map(len, rows), default=0) + 2
  for name, description in rows.items():
    yield from _filled(f"{name:{width}}{description}", hanging=width)


def _filled(content: str, indent: int = 2, hanging: int = 2) -> list[str]:
  return textwrap.wrap(
    content,
    min(shutil.get_terminal_size((79, 24)).columns, 120),
    initial_indent=" " * indent,
    subsequent_indent=" " * (indent + hanging),
    break_long_words=False,
    break_on_hyphens=False,
  )
