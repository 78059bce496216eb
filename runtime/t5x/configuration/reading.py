"""The statements of gin files, read with gin's own parser.

The files' imports are not executed, and nothing is registered with gin, so
reading takes milliseconds.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
import dataclasses
import difflib
import functools
import itertools
import os
import pathlib
import re
from typing import Any

from gin import config_parser

from t5x.configuration.client import clients
from t5x.files import parsing

REQUIRED = "%gin.REQUIRED"


@dataclasses.dataclass(frozen=True)
class Name:
  """The name of a function or class.

  Attributes:
    module: The module it comes from, such as "t5x.utils"; "" if the file does
      not import it.
    path: Its name in the module, such as "DatasetConfig".
    spelled: Its name in the gin file, such as "utils.DatasetConfig".
  """

  module: str
  path: str
  spelled: str = dataclasses.field(compare=False)

  def __str__(self) -> str:
    # Without the module: moving a function within its package changes nothing.
    package = self.module.partition(".")[0]
    return f"{package}.{self.path}" if package else self.path


@dataclasses.dataclass(frozen=True, repr=False)
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

  def __repr__(self) -> str:
    scope = f"{self.scope}/" if self.scope else ""
    return f"@{scope}{self.name.spelled}{'()' if self.is_called else ''}"


@dataclasses.dataclass(frozen=True, repr=False)
class Macro:
  """A macro as a value: `%name`."""

  name: str

  def __repr__(self) -> str:
    return f"%{self.name}"


@dataclasses.dataclass(frozen=True)
class Binding:
  """A statement that gives a value to a parameter or defines a macro.

  Attributes:
    scope: The scope in which it holds, such as "train"; "" for any.
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
    """The left side, such as "train/utils.DatasetConfig.seed"."""
    name = "/".join(filter(None, (self.scope, self.target.spelled)))
    return ".".join(filter(None, (name, self.parameter)))

  @property
  def text(self) -> str:
    """The right side."""
    return repr(self.value)


def mapped(function: Callable[[Any], Any], value: Any) -> Any:
  """Maps the values inside nested lists, tuples and dictionaries.

  Returns:
    The same structure, with the items of dictionaries sorted by their texts.
  """
  if isinstance(value, dict):
    items = (
      (mapped(function, k), mapped(function, v)) for k, v in value.items()
    )
    return dict(sorted(items, key=lambda item: tuple(map(repr, item))))
  if isinstance(value, list | tuple):
    return type(value)(mapped(function, x) for x in value)
  return function(value)


def leaves(value: Any) -> list[Any]:
  """Returns the values inside nested lists, tuples and dictionaries."""
  found: list[Any] = []
  mapped(found.append, value)
  return found


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
        above = reversed(lines[: x.location.line_num - 1])
        comment = itertools.takewhile(lambda line: line.startswith("#"), above)
        yield Binding(
          x.scope,
          self._name(x.selector),
          x.arg_name,
          mapped(lambda leaf: leaf, x.value),
          " ".join(line.lstrip("# ") for line in reversed([*comment])),
        )

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


@functools.lru_cache(maxsize=256)
def _parsed(text: str) -> tuple[Binding | str, ...]:
  return tuple(_Parser().parse(text))


def from_text(text: str) -> list[Binding]:
  """Returns the bindings of gin text, such as a flag's.

  Raises:
    ValueError: if it is not valid gin syntax.
  """
  with parsing.of(text.strip()[:200], "valid gin syntax", _remedy(text)):
    return [x for x in _parsed(text) if isinstance(x, Binding)]


def _remedy(text: str) -> str:
  """Returns a hint for a binding that gin cannot read."""
  name, _, value = (x.strip() for x in text.partition("="))
  is_list = re.fullmatch(r"[\w./-]+(,[\w./-]+)+", value)
  words = value.split(",") if is_list else [value.strip("'")]
  written = ",".join(f"'{word}'" for word in words)
  reason = "Strings are quoted"
  if re.fullmatch(r"-?\d+,\d+", value):
    reason, written = "Numbers have a point", value.replace(",", ".")
  elif value.capitalize() in ("True", "False", "None"):
    reason, written = "Write it with a capital", value.capitalize()
  elif not value or value.startswith(("[", "(", "{")):
    reason, written = "Brackets and quotes come in pairs", "['a', 'b']"
  quoted = f'"{written}"' if "'" in written else written
  return f"{reason}: --gin.{name or 'X'}={quoted}."


def from_file(gin_file: str, paths: Sequence[str]) -> tuple[Binding | str, ...]:
  """Returns the bindings of a gin file, and the names of included files.

  Args:
    gin_file: The file, as a flag or an include names it.
    paths: Folders to look in.

  Raises:
    ValueError: if no folder has the file, or it is not valid gin syntax.
  """
  path = find(gin_file, paths)
  with parsing.of(path, "valid gin syntax", "Strings are quoted."):
    return _parsed(pathlib.Path(path).read_text(encoding="utf-8"))


def search_paths(given: Sequence[str] = ()) -> list[str]:
  """Returns the folders for gin files: `given` or ".", and the packages'."""
  packages = (x.gin_path for x in clients())
  return list(dict.fromkeys([*(given or ["."]), *packages]))


def find(gin_file: str, paths: Sequence[str]) -> str:
  """Returns the path of a gin file; raises ValueError if it is missing."""
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
    f"No gin file {gin_file} in {', '.join(paths)}.{suggestion(near)} "
    "--gin_search_paths adds folders."
  )


def suggestion(near: Iterable[str]) -> str:
  """Returns the end of a message about a wrong name."""
  return f" Did you mean {' or '.join(near)}?" if near else ""


def files_by_kind(paths: Sequence[str]) -> dict[str, dict[str, str]]:
  """Returns kind of gin file -> name of a file -> its first sentence.

  Args:
    paths: Folders to look in; each folder in their `gin/` is a kind.
  """
  found: dict[str, dict[str, str]] = {}
  for kind in dict.fromkeys(x for c in clients() for x in c.gin_kinds):
    for path in reversed(paths):
      for file in sorted(pathlib.Path(path, "gin", kind).glob("*.gin")):
        lines = file.read_text(encoding="utf-8").splitlines()
        header = itertools.takewhile(lambda line: line.startswith("# "), lines)
        text = " ".join(line[2:] for line in header)
        sentence = re.split(r"(?<=\.) ", text)[0]
        found.setdefault(kind, {})[file.stem] = sentence
  return found
