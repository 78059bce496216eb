"""Train commands with lists as values, as words of a shell.

`--gin.PROMPT_LENGTH=1,5,20` has three values: a value ends at a comma outside
of quotes and brackets, so a list, a dictionary, a call or a string with commas
is one value. `--gin_file=gin/prompts/{a,b}.gin` names two files; a run takes
one of them. As a shell expands it to two flags, consecutive gin files of a
folder, and repeated bindings, are alternatives too. "+" joins files that one
run takes together.
"""

from collections.abc import Sequence
import dataclasses
import itertools
import pathlib
import re

_BRACES = re.compile(r"\{([^{}]*,[^{}]*)\}")
_CLOSING = {"(": ")", "[": "]", "{": "}"}
# One value of --gin_file: files to read in this order.
GinFiles = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class TrainCommand:
  """A parsed command.

  Attributes:
    gin_files: The alternatives for each position, in order.
    bindings: Name -> alternatives, in gin's syntax.
    flags: The other flags, unchanged.
  """

  gin_files: Sequence[Sequence[GinFiles]]
  bindings: dict[str, list[str]]
  flags: Sequence[str]


def parse(arguments: Sequence[str]) -> TrainCommand:
  """Reads the arguments of a command.

  Args:
    arguments: Such as `--gin_file=...`, `--gin.X=...`, `--tfds_data_dir=...`.

  Raises:
    ValueError: if an argument is not a flag, a value is empty or lacks a
      closing bracket, or both `--gin_bindings` and `--gin.X` set X.
  """
  places: list[list[GinFiles]] = []
  bindings: dict[str, list[str]] = {}
  single, listed = set(), set()
  flags = []
  in_a_row = False
  for argument in _joined(arguments):
    name, _, value = argument.lstrip("-").partition("=")
    if name == "gin_file":
      files = [tuple(x.split("+")) for x in _file_list(value)]
      if in_a_row and folder_of([*places[-1], *files]):
        places[-1] += files
      else:
        places.append(files)
    elif name == "gin_bindings":
      binding, _, value = value.partition("=")
      single.add(binding.strip())
      bindings[binding.strip()] = [value.strip()]
    elif name.startswith("gin."):
      listed.add(name.removeprefix("gin."))
      values = bindings.setdefault(name.removeprefix("gin."), [])
      values += split(value, argument)
    else:
      flags.append(argument)
    in_a_row = name == "gin_file"
  for name in sorted(single & listed):
    raise ValueError(
      f"--gin_bindings and --gin.{name} both set {name}. Give all of its "
      f"values as --gin.{name}=VALUE,VALUE."
    )
  for name, values in (
    *(("--gin_file", ["+".join(x) for x in files]) for files in places),
    *((f"--gin.{name}", values) for name, values in bindings.items()),
  ):
    if len(set(values)) != len(values):
      raise ValueError(
        f"{name}: a value is there twice in {', '.join(values)}."
      )
  return TrainCommand(places, bindings, flags)


def _joined(arguments: Sequence[str]) -> list[str]:
  """Joins flags and the values that follow them after a space.

  Raises:
    ValueError: if a value follows no flag.
  """
  found: list[str] = []
  for argument in arguments:
    if argument.startswith("-"):
      found.append(argument)
    elif found and "=" not in found[-1]:
      found[-1] += f"={argument}"
    else:
      raise ValueError(f"Expected --FLAG=VALUE, got {argument}.")
  return found


def folder_of(files: Sequence[GinFiles]) -> str | None:
  """Returns the folder of alternatives, if they have the same one."""
  folders = {str(pathlib.PurePath(x[-1]).parent) for x in files}
  return folders.pop() if len(folders) == 1 else None


def split(text: str, where: str) -> list[str]:
  """Splits a text at its commas outside of quotes and brackets.

  Args:
    text: Such as "1,5" or "[1, 2],[3]".
    where: The argument, for error messages.

  Raises:
    ValueError: if a closing quote or bracket is missing, or a value is empty.
  """
  parts, start = [], 0
  open_until: list[str] = []
  quote = ""
  skip = False
  for i, letter in enumerate(text):
    if skip:
      skip = False
    elif quote:
      skip = letter == "\\"
      quote = "" if letter == quote else quote
    elif letter in "'\"":
      quote = letter
    elif letter in _CLOSING:
      open_until.append(_CLOSING[letter])
    elif open_until and letter == open_until[-1]:
      open_until.pop()
    elif letter == "," and not open_until:
      parts.append(text[start:i].strip())
      start = i + 1
  parts.append(text[start:].strip())
  if quote or open_until:
    raise ValueError(
      f"{where}: {quote or open_until[-1]} is missing at the end. Quote the "
      "value for the shell, as in --gin.TASK=\"'a','b'\"."
    )
  if "" in parts:
    raise ValueError(f"{where}: expected values between commas, got {text!r}.")
  return parts


def _file_list(text: str) -> list[str]:
  """Expands braces and commas in the value of --gin_file."""
  pieces = _BRACES.split(text)
  # The pieces at odd indices were in braces.
  choices = [x.split(",") if i % 2 else [x] for i, x in enumerate(pieces)]
  expanded = ["".join(x) for x in itertools.product(*choices)]
  files = [x.strip() for some in expanded for x in some.split(",")]
  if not all(x.endswith(".gin") for file in files for x in file.split("+")):
    raise ValueError(
      f"--gin_file={text}: expected paths that end with .gin, got "
      f"{', '.join(files)}."
    )
  return files
