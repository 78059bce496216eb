"""The statements of gin files, by gin's own parser.

Nothing that the files import is imported, and nothing is registered with gin,
so reading takes milliseconds.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import difflib
import functools
import itertools
import os
import pathlib
import re
import tokenize
from typing import Any

from gin import config_parser

from t5x.configuration.client import clients

REQUIRED = "%gin.REQUIRED"


@dataclasses.dataclass(frozen=True)
class Name:
  """The name of a function or class.

  Attributes:
    module: The module it comes from, such as "t5x.utils"; "" if the file does
      not import it.
    path: Its name in there, such as "DatasetConfig".
    spelled: Its name in the gin file, such as "utils.DatasetConfig".
  """

  module: str
  path: str
  spelled: str = dataclasses.field(compare=False)

  def __str__(self) -> str:
    # Not the module: moving a function within its package changes nothing.
    package = self.module.partition(".")[0]
    return f"{package}.{self.path}" if package else self.path


@dataclasses.dataclass(frozen=True)
class Reference:
  """A function or class as a value: `@scope/name` or, called, `@scope/name()`.

  Attributes:
    scope: The scope, or "".
    name: The function or class.
    is_called: Whether the value is the result of a call.
  """

  scope: str
  name: Name
  is_called: bool


@dataclasses.dataclass(frozen=True)
class Macro:
  """A macro as a value: `%name`."""

  name: str


@dataclasses.dataclass(frozen=True)
class Binding:
  """A statement that gives a value to a parameter or defines a macro.

  Attributes:
    scope: The scope it holds in, such as "train"; "" for any.
    target: The function or class; for a macro, its name.
    parameter: The parameter's name; "" for a macro.
    value: Python literals, in which `Reference` and `Macro` may occur.
    comment: The comment lines right above it.
  """

  scope: str
  target: Name
  parameter: str
  value: Any
  comment: str

  @property
  def label(self) -> str:
    """Its left side, such as "train/utils.DatasetConfig.seed"."""
    name = "/".join(filter(None, (self.scope, self.target.spelled)))
    return ".".join(filter(None, (name, self.parameter)))

  @property
  def text(self) -> str:
    """Its right side."""
    return written(self.value)


class _Parser(config_parser.ParserDelegate):
  """Parses one text and resolves names by the text's own imports."""

  def __init__(self):
    self._imports: dict[str, str] = {}  # Name in the text -> module.
    self._modules: set[str] = set()

  def parse(self, text: str) -> Iterator[Binding | str]:
    """Yields bindings, and the names of included files."""
    lines = text.splitlines()
    for x in config_parser.ConfigParser(text, self):
      if isinstance(x, config_parser.ImportStatement):
        # "import flax.traverse_util" binds flax.
        is_whole = x.is_from or x.alias
        module = x.module if is_whole else x.module.partition(".")[0]
        self._imports[x.bound_name()] = module
        self._modules |= {module, x.module}
      elif isinstance(x, config_parser.IncludeStatement):
        yield x.filename
      elif isinstance(x, config_parser.BindingStatement):
        comment = _comment_above(lines, x.location.line_num)
        name = self._name(x.selector)
        yield Binding(x.scope, name, x.arg_name, x.value, comment)

  def configurable_reference(  # pyright: ignore[reportIncompatibleMethodOverride]
    self, scoped_configurable_name: str, evaluate: bool
  ) -> Reference:
    scope, _, selector = scoped_configurable_name.rpartition("/")
    return Reference(scope, self._name(selector), evaluate)

  def macro(  # pyright: ignore[reportIncompatibleMethodOverride]
    self, macro_name: str
  ) -> Macro:
    return Macro(macro_name)

  def _name(self, selector: str) -> Name:
    bound, _, rest = selector.partition(".")
    if bound not in self._imports:
      return Name("", selector, selector)
    full = f"{self._imports[bound]}.{rest}"
    module = max(
      (x for x in self._modules if full.startswith(f"{x}.")), key=len
    )
    return Name(module, full.removeprefix(f"{module}."), selector)


def _comment_above(lines: Sequence[str], number: int) -> str:
  """Returns the comment above a line, which is counted from 1."""
  start = number - 1
  while start and lines[start - 1].startswith("#"):
    start -= 1
  return " ".join(x.lstrip("# ") for x in lines[start : number - 1])


@functools.lru_cache(maxsize=256)
def _parsed(text: str) -> tuple[Binding | str, ...]:
  return tuple(_Parser().parse(text))


def from_text(text: str) -> list[Binding]:
  """Returns the bindings of gin text, such as that of a flag.

  Raises:
    ValueError: if it is not valid gin syntax.
  """
  try:
    return [x for x in _parsed(text) if isinstance(x, Binding)]
  except (SyntaxError, ValueError, tokenize.TokenError) as e:
    raise ValueError(
      f"{text.strip()} is not valid gin syntax. Strings are quoted: "
      "--gin.X=\"'text'\"."
    ) from e


def from_files(
  gin_files: Iterable[str], paths: Sequence[str]
) -> Iterator[Binding]:
  """Yields the bindings of gin files, with those of the files they include.

  Args:
    gin_files: The files, in order.
    paths: Folders to look in.

  Raises:
    ValueError: if a file is in none of them, or is not valid gin syntax.
  """
  for gin_file in gin_files:
    for x in _file(gin_file, paths):
      if isinstance(x, Binding):
        yield x
      else:
        yield from from_files([x], paths)


def includes(gin_file: str, paths: Sequence[str]) -> list[str]:
  """Returns the files that a gin file itself includes, in order.

  Raises:
    ValueError: as `from_files` does.
  """
  return [x for x in _file(gin_file, paths) if isinstance(x, str)]


def _file(gin_file: str, paths: Sequence[str]) -> tuple[Binding | str, ...]:
  path = find(gin_file, paths)
  with open(path, encoding="utf-8") as f:
    text = f.read()
  try:
    return _parsed(text)
  except SyntaxError as e:
    line = (e.text or "").strip()
    raise ValueError(
      f"{path}, line {e.lineno}: {line} is not valid gin syntax. Strings are "
      "quoted."
    ) from e
  except tokenize.TokenError as e:
    raise ValueError(f"{path} is not valid gin syntax: {e.args[0]}.") from e


def search_paths(given: Sequence[str] = (".",)) -> list[str]:
  """Returns the folders for gin files: the given ones, then the packages'."""
  return list(dict.fromkeys([*given, *(x.gin_path for x in clients())]))


def find(gin_file: str, paths: Sequence[str]) -> str:
  """Returns the path of a gin file.

  Args:
    gin_file: The file, as a flag or an include names it.
    paths: Folders to look in, in order.

  Raises:
    ValueError: if it is in none of them.
  """
  for path in paths:
    if os.path.isfile(found := os.path.join(path, gin_file)):
      return found
  folder = os.path.dirname(gin_file)
  siblings = {
    os.path.join(folder, x.name)
    for path in paths
    for x in pathlib.Path(path, folder).glob("*.gin")
  }
  near = difflib.get_close_matches(gin_file, sorted(siblings), cutoff=0.4)
  raise ValueError(
    f"No gin file {gin_file} in {', '.join(paths)}."
    + (f" Did you mean {' or '.join(near)}?" if near else "")
    + " --gin_search_paths adds folders."
  )


def macros(
  gin_files: Iterable[str], paths: Sequence[str]
) -> dict[str, Binding]:
  """Returns the macros that gin files and their includes define.

  Args:
    gin_files: The files, in order; later ones win, but an earlier comment
      stays where a later file has none.
    paths: Folders to look in.

  Returns:
    Name -> definition.

  Raises:
    ValueError: as `from_files` does.
  """
  found: dict[str, Binding] = {}
  for x in from_files(gin_files, paths):
    if not x.parameter:
      if not x.comment and x.label in found:
        x = dataclasses.replace(x, comment=found[x.label].comment)
      found[x.label] = x
  return found


def lacking_values(gin_files: Sequence[str], paths: Sequence[str]) -> set[str]:
  """Returns the macros that gin files use or require but give no value.

  Args:
    gin_files: The files, in order.
    paths: Folders to look in.

  Raises:
    ValueError: as `from_files` does.
  """
  defined = macros(gin_files, paths)
  used = {
    leaf.name
    for x in from_files(gin_files, paths)
    for leaf in leaves(x.value)
    if isinstance(leaf, Macro) and leaf.name.isidentifier()  # No constant.
  }
  required = {name for name, x in defined.items() if x.text == REQUIRED}
  return (used - set(defined)) | required


def files_by_kind(paths: Sequence[str]) -> dict[str, dict[str, str]]:
  """Returns kind of gin file -> name of a file -> its first sentence.

  Args:
    paths: Folders to look in; a kind is a folder of `gin/` there.
  """
  found: dict[str, dict[str, str]] = {}
  for kind in dict.fromkeys(x for c in clients() for x in c.gin_kinds):
    for path in reversed(paths):
      for file in sorted(pathlib.Path(path, "gin", kind).glob("*.gin")):
        found.setdefault(kind, {})[file.stem] = _first_sentence(file)
  return found


def _first_sentence(file: pathlib.Path) -> str:
  lines = file.read_text(encoding="utf-8").splitlines()
  header = itertools.takewhile(lambda line: line.startswith("# "), lines)
  text = " ".join(line[2:] for line in header)
  return re.split(r"(?<=\.) ", text)[0]


def leaves(value: Any) -> Iterator[Any]:
  """Yields the values inside nested lists, tuples and dictionaries."""
  if isinstance(value, dict):
    yield from leaves([*value.items()])
  elif isinstance(value, list | tuple):
    for x in value:
      yield from leaves(x)
  else:
    yield value


def written(value: Any, names: Mapping[Name, str] | None = None) -> str:
  """Returns a value as text; the order of a dictionary's items is ignored.

  Args:
    value: Of a binding.
    names: The names to write for functions and classes; by default, those in
      the gin file.
  """

  def text(x: Any) -> str:
    return written(x, names)

  if isinstance(value, Macro):
    return f"%{value.name}"
  if isinstance(value, Reference):
    scope = f"{value.scope}/" if value.scope else ""
    name = value.name.spelled if names is None else names[value.name]
    return f"@{scope}{name}{'()' if value.is_called else ''}"
  if isinstance(value, dict):
    items = sorted((text(k), text(v)) for k, v in value.items())
    return f"{{{', '.join(f'{k}: {v}' for k, v in items)}}}"
  if isinstance(value, list):
    return f"[{', '.join(map(text, value))}]"
  if isinstance(value, tuple):
    comma = "," if len(value) == 1 else ""
    return f"({', '.join(map(text, value))}{comma})"
  return repr(value)
