"""Train commands with lists as values.

`--gin.PROMPT_LENGTH=1,5,20` has three values: a value ends at a comma after
which it is whole, so a list, a dictionary or a string with commas is one value.
`--gin_file=gin/prompts/{a,b}.gin` names two files; a run takes one of them. As
a shell expands it to two flags, consecutive gin files of a folder, and repeated
bindings, are alternatives too. "+" joins files that one run takes together.
"""

from collections.abc import Sequence
import contextlib
import dataclasses
import itertools
import pathlib
import re

from t5x.configuration import reading

_BRACES = re.compile(r"\{([^{}]*,[^{}]*)\}")
# One value of --gin_file: files to read in this order.
GinFiles = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class SweepCommand:
  """A parsed command.

  Attributes:
    gin_files: The alternatives for each position, in order.
    bindings: Name -> alternatives, in gin's syntax.
    flags: The other flags, unchanged.
  """

  gin_files: list[list[GinFiles]]
  bindings: dict[str, list[str]]
  flags: list[str]


def parse(arguments: Sequence[str]) -> SweepCommand:
  """Reads the arguments of a command.

  Args:
    arguments: Such as `--gin_file=...`, `--gin.X=...`, `--tfds_data_dir=...`.

  Raises:
    ValueError: if an argument is not a flag, a value is empty or not valid gin,
      or both `--gin_bindings` and `--gin.X` set X.
  """
  found = SweepCommand([], {}, [])
  single: set[str] = set()
  before = ""
  for argument in _joined(arguments):
    flag, _, value = argument.lstrip("-").partition("=")
    if flag == "gin_file":
      files = _file_list(value)
      if before == flag and folder_of([*found.gin_files[-1], *files]):
        found.gin_files[-1] += files
      else:
        found.gin_files.append(files)
    elif flag == "gin_bindings" or flag.startswith("gin."):
      name, values = flag.removeprefix("gin."), [value]
      if flag == "gin_bindings":
        name, values = (x.strip() for x in value.partition("=")[::2])
        values = [values]
        single.add(name)
      else:
        values = _values(name, value)
      if name in single and name in found.bindings:
        raise ValueError(
          f"--gin_bindings and --gin.{name} both set {name}. Give all of its "
          f"values as --gin.{name}=VALUE,VALUE."
        )
      found.bindings.setdefault(name, []).extend(values)
    else:
      found.flags.append(argument)
    before = flag
  places = [["+".join(x) for x in files] for files in found.gin_files]
  for values in (*places, *found.bindings.values()):
    if len(set(values)) != len(values):
      raise ValueError(f"A value is there twice in {', '.join(values)}.")
  return found


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


def _values(name: str, text: str) -> list[str]:
  """Splits a text such as "1,5" or "[1, 2],[3]" into valid gin."""
  values: list[str] = []
  parts: list[str] = []
  for part in text.split(","):
    parts.append(part)
    value = ",".join(parts).strip()
    with contextlib.suppress(ValueError):
      reading.from_text(f"{name} = {value}")
      values.append(value)
      parts = []
  if parts:
    reading.from_text(f"{name} = {','.join(parts)}")  # Raises its error.
  return values


def _file_list(text: str) -> list[GinFiles]:
  """Expands braces and commas in the value of --gin_file."""
  pieces = _BRACES.split(text)
  # The pieces at odd indices were in braces.
  choices = [x.split(",") if i % 2 else [x] for i, x in enumerate(pieces)]
  expanded = ",".join("".join(x) for x in itertools.product(*choices))
  files = [tuple(x.strip().split("+")) for x in expanded.split(",")]
  if not all(x.endswith(".gin") for some in files for x in some):
    raise ValueError(
      f"--gin_file={text}: expected paths that end with .gin, got {expanded}."
    )
  return files
