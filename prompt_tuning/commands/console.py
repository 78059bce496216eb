"""The command line of the project: `prompt-tuning COMMAND ...`."""

import argparse
from collections.abc import Mapping, Sequence
import difflib
import importlib
import keyword
import os
import pathlib
import re
import sys
import tomllib
from typing import Any

import prompt_tuning
from prompt_tuning.commands import options

_FLAGS = tomllib.loads(
  pathlib.Path(__file__).with_name("flags.toml").read_text()
)
COMMANDS = tuple(name for name in _FLAGS if name != "shared")


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs a command. An error is one line on stderr.

  Args:
    arguments: The words after `prompt-tuning`; by default those of this
      process, which Ctrl-C and errors then end as they end `t5x.train`.

  Returns:
    The exit status.

  Raises:
    SystemExit: as `parse` does.
  """
  args = parse(sys.argv[1:] if arguments is None else arguments)
  # It keeps TensorFlow quiet, so it goes before all other imports.
  importlib.import_module("t5x")
  from t5x.configuration import command_flags

  if arguments is None:
    command_flags.report_errors()
  try:
    status = args.run(args) or 0
    sys.stdout.flush()
    return status
  except BrokenPipeError:  # The reader, such as `head`, has seen enough.
    # Python flushes once more when it exits.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
  except (ValueError, OSError, ImportError, FloatingPointError) as error:
    print(f"Error: {error}", file=sys.stderr)
    if arguments is None:
      command_flags.leave(1)
    return 1


def parse(arguments: Sequence[str]) -> argparse.Namespace:
  """Parses a command line; flags may be spelled with "-" or "_".

  Args:
    arguments: The words after `prompt-tuning`.

  Returns:
    The values of the command's flags; `run`, the function to call with them;
    `parser`, the command's; `words`, the words after its name; and `rest`,
    flags of `t5x` for a command that passes them on.

  Raises:
    SystemExit: for `--help` and `--version`, and for wrong arguments.
  """
  parser = _parser()
  words = [_with_underscores(word) for word in arguments]
  if not words:
    parser.print_help()
    sys.exit(2)
  if " ".join(words[:2]) in COMMANDS:
    words[:2] = [" ".join(words[:2])]
  if not words[0].startswith("-") and words[0] not in COMMANDS:
    alike = [x for x in COMMANDS if x.startswith(f"{words[0]} ")]
    alike = alike or difflib.get_close_matches(words[0], COMMANDS, n=3)
    near = " or ".join(alike)
    hint = f"did you mean {near}?" if near else "see --help"
    if words[0] in ("train", "eval", "infer"):
      hint = f"use python -m t5x.{words[0]}"
    parser.error(f"there is no command {words[0]!r}; {hint}")
  args, rest = parser.parse_known_args(words)
  args.rest, args.words = rest, words[1:]
  if rest and not args.passes_flags_on:
    args.parser.error(f"unknown arguments: {' '.join(rest)}")
  return args


def _with_underscores(word: str) -> str:
  """Returns `--dry_run` for `--dry-run`, and other words as they are."""
  flag, equals, value = word.partition("=")
  if not re.fullmatch(r"--\w[\w-]*", flag):
    return word
  return f"--{flag[2:].replace('-', '_')}{equals}{value}"


class _Formatter(
  argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter
):
  """Help that keeps its line breaks and shows only informative defaults."""

  def _get_help_string(self, action: argparse.Action) -> str | None:
    if action.default in (None, False, "", [], argparse.SUPPRESS):
      return action.help
    return super()._get_help_string(action)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="prompt-tuning",
    description="Prompt tuning of frozen T5 models.",
    epilog="Each command has a --help. To run gin files, use python -m "
    "t5x.train, t5x.eval and t5x.infer.",
    formatter_class=_Formatter,
  )
  parser.add_argument(
    "--version",
    action="version",
    version=f"prompt-tuning {prompt_tuning.__version__}",
  )
  commands = parser.add_subparsers(metavar="COMMAND", required=True)
  for command in COMMANDS:
    name = re.sub(r"\W", "_", command) + "_" * keyword.iskeyword(command)
    module = importlib.import_module(f"prompt_tuning.commands.{name}")
    about = (module.__doc__ or "").strip()
    own = commands.add_parser(
      command,
      help=about.partition("\n")[0],
      description=about,
      formatter_class=_Formatter,
      allow_abbrev=False,
    )
    own.set_defaults(run=module.run, parser=own, passes_flags_on=False)
    _add_flags(own, _FLAGS[command])
  return parser


def _add_flags(
  parser: Any, flags: Mapping[str, Any], environment: str | None = None
) -> None:
  """Adds the flags of a table of `flags.toml` to a parser or a group.

  Args:
    parser: The parser or group.
    flags: The table.
    environment: Start of the names of variables that set flags' defaults.
  """
  environment = flags.get("environment", environment)
  for name, flag in flags.items():
    if name == "passes_flags_on":
      parser.set_defaults(passes_flags_on=flag)
    elif name == "shared":
      for table in flag:
        _add_flags(parser, _FLAGS["shared"][table], environment)
    elif name == "groups":
      for title, group in flag.items():
        made = parser.add_argument_group(title, group.get("about"))
        _add_flags(made, group, environment)
    elif name not in ("about", "environment"):
      own = dict(flag)
      variable = f"{environment}{name.removeprefix('--').upper()}"
      is_single = name.startswith("--") and own.get("action") != "append"
      if environment and is_single and (value := os.environ.get(variable)):
        own["default"] = value  # argparse converts texts.
        if own.get("action") == "store_true":
          own["default"] = value.lower() not in ("0", "false", "no")
      if isinstance(own.get("metavar"), list):
        own["metavar"] = tuple(own["metavar"])
      if "type" in own:
        own["type"] = getattr(options, own["type"])
      parser.add_argument(*name.split(), **own)
