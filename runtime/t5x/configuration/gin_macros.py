"""The gin files that there are, and the macros that they define and lack.

Read as text: nothing that they name is imported.
"""

from collections.abc import Collection, Iterator, Sequence
import dataclasses
import os
import re

from t5x.configuration import gin_text
from t5x.configuration.client import clients

REQUIRED = "%gin.REQUIRED"

_DEFINITION = re.compile(r"^([A-Z][A-Z0-9_]*)\s*=\s*(.*)$")
# A line without the comment at its end.
_CODE = re.compile(r"""(?:[^'"#]|'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")*""")


@dataclasses.dataclass(frozen=True)
class Macro:
  """A macro of a gin file.

  Attributes:
    value: As it is written there.
    comment: What stands above it.
  """

  value: str
  comment: str


def definitions(text: str) -> dict[str, Macro]:
  """Returns the macros that a gin file defines, without those of includes.

  Args:
    text: Of the file.
  """
  found: dict[str, Macro] = {}
  comment: list[str] = []
  lines = iter(text.splitlines())
  for line in lines:
    if line.startswith("#"):
      comment.append(line.lstrip("# "))
      continue
    if match := _DEFINITION.match(line):
      value = _code(match[2])
      while _is_open(value) and (more := next(lines, None)) is not None:
        value += f" {_code(more)}"
      found[match[1]] = Macro(value, " ".join(comment))
    comment = []
  return found


def _code(line: str) -> str:
  found = _CODE.match(line)
  return (found[0] if found else line).strip()


def _is_open(value: str) -> bool:
  """Whether brackets, of which none is in a string, lack their end."""
  return sum(value.count(x) for x in "([{") > sum(value.count(x) for x in ")]}")


def macros_of(
  gin_files: Sequence[str], paths: Sequence[str]
) -> dict[str, Macro]:
  """Returns the macros of gin files and of what they include.

  Args:
    gin_files: In order: later ones win.
    paths: Folders to look in.

  Raises:
    ValueError: if a file lies in none of them.
  """
  found: dict[str, Macro] = {}
  for gin_file in gin_files:
    content = next(gin_text.texts([gin_file], paths))
    included = macros_of(includes(gin_file, paths), paths)
    for name, macro in (*included.items(), *definitions(content).items()):
      comment = macro.comment or (found[name].comment if name in found else "")
      found[name] = Macro(macro.value, comment)
  return found


def files_by_kind(paths: Sequence[str]) -> dict[str, dict[str, str]]:
  """Returns kind -> name of a file -> its first sentence.

  Args:
    paths: Folders to look in; a kind is a folder of `gin/` there.
  """
  found: dict[str, dict[str, str]] = {}
  for kind in dict.fromkeys(x for c in clients() for x in c.gin_kinds):
    for path in reversed(paths):
      folder = os.path.join(path, "gin", kind)
      if os.path.isdir(folder):
        for name in sorted(os.listdir(folder)):
          if name.endswith(".gin"):
            with open(os.path.join(folder, name), encoding="utf-8") as f:
              first = _first_sentence(f.read())
            found.setdefault(kind, {})[name.removesuffix(".gin")] = first
  return found


def _first_sentence(content: str) -> str:
  header = []
  for line in content.splitlines():
    if not line.startswith("# "):
      break
    header.append(line[2:])
  return re.split(r"(?<=\.) ", " ".join(header))[0]


def includes(gin_file: str, paths: Sequence[str]) -> list[str]:
  """Returns the files that a gin file includes, in order.

  Args:
    gin_file: The file.
    paths: Folders to look in.

  Raises:
    ValueError: if it lies in none of them.
  """
  return gin_text.includes(next(gin_text.texts([gin_file], paths)))


def undefined(gin_files: Sequence[str], paths: Sequence[str]) -> set[str]:
  """Returns the macros that gin files use and none of them defines.

  Args:
    gin_files: The files.
    paths: Folders to look in.

  Raises:
    ValueError: if a file lies in none of them.
  """
  used = gin_text.used_macros(gin_files, paths)
  return used - gin_text.macros_of(gin_files, paths)


def what_gives(
  names: Collection[str], gin_files: Sequence[str], paths: Sequence[str]
) -> str:
  """Says what a command lacks: a kind of gin file, or values.

  Args:
    names: Macros without a value.
    gin_files: The files of the command.
    paths: Folders to look in.

  Returns:
    A sentence for each kind of file of which none is there and which gives a
    value to some of the macros, and one for the macros that are left.
  """
  left, sentences = set(names), []
  there = {
    os.path.basename(os.path.dirname(x))
    for x in _with_includes(gin_files, paths)
  }
  for kind, files in files_by_kind(paths).items():
    # Of recipes and runs, none gives what another kind does not.
    if kind in {*there, "recipes", "runs"}:
      continue
    given = {
      file: _given(f"gin/{kind}/{file}.gin", left, paths) for file in files
    }
    if found := set().union(*given.values()):
      left -= found
      choices = ", ".join(file for file in files if given[file])
      sentences.append(
        f"A file of gin/{kind} gives {', '.join(sorted(found))}: add "
        f"--gin_file=gin/{kind}/NAME.gin, where NAME is one of {choices}."
      )
  if left:
    sentences.append(
      f"The gin files require {', '.join(sorted(left))}. Give a value to each: "
      + " ".join(f"--gin.{name}=..." for name in sorted(left))
    )
  return " ".join(sentences)


def _with_includes(
  gin_files: Sequence[str], paths: Sequence[str]
) -> Iterator[str]:
  for gin_file in gin_files:
    yield gin_file
    yield from _with_includes(includes(gin_file, paths), paths)


def _given(
  gin_file: str, names: Collection[str], paths: Sequence[str]
) -> set[str]:
  """Those macros to which a file, with what it includes, gives a value."""
  found = macros_of([gin_file], paths)
  return {
    name for name in names if name in found and found[name].value != REQUIRED
  }
