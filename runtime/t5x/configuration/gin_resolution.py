"""What a gin configuration says, without the words that it says it in.

Two configurations that configure the same functions alike are equal here,
whatever their files, macros and import aliases are called: macros are replaced
by what they stand for, names of imports by where they come from, and what the
program does not reach is left out. Nothing that the files import is imported
and nothing is registered with gin, so this takes milliseconds.
"""

import collections
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
import dataclasses
from typing import Any

from gin import config_parser

from t5x.configuration.gin_text import Macro, Reference, statements, texts


@dataclasses.dataclass(frozen=True)
class Name:
  """What a selector names.

  Attributes:
    module: Where it comes from, such as "t5x.utils"; "" if no import says so.
    path: What it is called there, such as "DatasetConfig".
  """

  module: str
  path: str

  def __str__(self) -> str:
    # Not the module: moving a function within its package changes nothing.
    package = self.module.partition(".")[0]
    return f"{package}.{self.path}" if package else self.path


_Imports = Mapping[str, str]  # Name in the file -> module.


def _name(selector: str, imports: _Imports) -> Name:
  """Says what a selector means in a file."""
  bound, _, rest = selector.partition(".")
  if bound not in imports:
    return Name("", selector)
  full = f"{imports[bound]}.{rest}"
  # "import flax.traverse_util" binds flax.
  modules = [x for x in imports.values() if full.startswith(f"{x}.")]
  module = max(modules, key=len)
  return Name(module, full.removeprefix(f"{module}."))


@dataclasses.dataclass(frozen=True)
class _Value:
  """A value, and how names in it are to be understood."""

  value: Any
  imports: _Imports


class Bindings:
  """What gin files and bindings bind, in the order in which they do.

  Attributes:
    macros: Name -> value.
    parameters: (scope, name) -> parameter -> value.
  """

  def __init__(
    self,
    gin_files: Iterable[str] = (),
    bindings: Iterable[str] = (),
    paths: Sequence[str] = (".",),
  ):
    """Reads files, then bindings, which win.

    Args:
      gin_files: In order.
      bindings: Gin text.
      paths: Folders for the files and what they include.

    Raises:
      ValueError: if a file is missing.
      SyntaxError: if something is no gin.
    """
    self.macros: dict[str, _Value] = {}
    self.parameters: dict[tuple[str, Name], dict[str, _Value]] = {}
    self._selectors: dict[str, Name] = {}
    for gin_file in gin_files:
      self._read(next(texts([gin_file], paths)), paths)
    for binding in bindings:
      self._read(binding, paths)

  def with_bindings(self, bindings: Iterable[str]) -> "Bindings":
    """Returns these and others, which win."""
    new = Bindings()
    new.macros = dict(self.macros)
    new.parameters = {key: dict(x) for key, x in self.parameters.items()}
    new._selectors = dict(self._selectors)
    for binding in bindings:
      new._read(binding, ())
    return new

  def _read(self, text: str, paths: Sequence[str]) -> None:
    parsed = statements(text)
    imports: dict[str, str] = {}
    for x in parsed:
      if isinstance(x, config_parser.ImportStatement):
        imports[x.bound_name()] = (
          x.module if x.is_from or x.alias else x.module.partition(".")[0]
        )
        # The longer module, for selectors that spell it out.
        imports[f" {x.module}"] = x.module
    for x in parsed:
      if isinstance(x, config_parser.IncludeStatement):
        self._read(next(texts([x.filename], paths)), paths)
      elif isinstance(x, config_parser.BindingStatement):
        value = _Value(x.value, imports)
        for leaf in _leaves(x.value):
          if isinstance(leaf, Reference):
            self.name(leaf.selector, imports)
        if not x.arg_name:
          name = f"{x.scope}/{x.selector}" if x.scope else x.selector
          self.macros[name] = value
          continue
        key = x.scope, self.name(x.selector, imports)
        self.parameters.setdefault(key, {})[x.arg_name] = value

  def name(self, selector: str, imports: _Imports) -> Name:
    """Says what a selector means, in a file or in a binding without imports."""
    name = _name(selector, imports)
    if name.module:
      self._selectors[f"{name.module}.{name.path}"] = name
      self._selectors[selector] = name
      return name
    return self._selectors.get(selector) or self._ending(selector) or name

  def _ending(self, selector: str) -> Name | None:
    """The one known name that ends like this, if there is one."""
    found = {
      name
      for full, name in self._selectors.items()
      if full.endswith(f".{selector}")
    }
    return found.pop() if len(found) == 1 else None

  def of(self, scope: str, name: Name) -> dict[str, _Value]:
    """The parameters of a function where a scope is active."""
    parts = scope.split("/") if scope else []
    found: dict[str, _Value] = {}
    for i in range(len(parts) + 1):
      found |= self.parameters.get(("/".join(parts[:i]), name), {})
    return found

  def innermost(self, scope: str, name: Name) -> str:
    """The part of a scope on which a function's parameters depend."""
    while scope and (scope, name) not in self.parameters:
      scope = scope.rpartition("/")[0]
    return scope

  def methods(self, name: Name) -> set[Name]:
    """The configured methods of a class."""
    return {
      x
      for _, x in self.parameters
      if x.module == name.module and x.path.startswith(f"{name.path}.")
    }

  def root(self, function: str) -> Name | None:
    """The name of a program's function, whatever its module is called here."""
    for _, name in self.parameters:
      if name.path.rpartition(".")[2] == function:
        return name
    return None


@dataclasses.dataclass(frozen=True)
class Called:
  """A reference whose name is known; evaluated, the result of calling it."""

  scope: str
  name: Name
  evaluate: bool


@dataclasses.dataclass(frozen=True)
class Setting:
  """A parameter that a configuration gives a value.

  Attributes:
    name: Such as "train/t5x.DatasetConfig.batch_size". Parameters of the
      program's function are called after it alone: "train.eval_period".
    function: What has the parameter; None of a macro.
    parameter: Its name there.
    value: It, macros replaced; a `Called` where gin makes the value.
    text: The value as Python writes it.
    macro: The macro that gives it, if one does.
  """

  name: str
  function: Name | None
  parameter: str
  value: Any
  text: str
  macro: str | None


def resolve(
  bindings: Bindings, function: str, without: Collection[str] = ()
) -> list[Setting]:
  """Resolves a configuration.

  Args:
    bindings: The configuration.
    function: Of the program, such as "train"; what it does not reach is left
      out. A program that gin does not bind is configured by the macros.
    without: Parameters to leave out, with what is reached through them alone.

  Returns:
    The settings, by name.
  """
  root = bindings.root(function)
  if root is None:
    found = [
      _Found("", None, name, _Resolution(bindings, "").of(value), name)
      for name, value in bindings.macros.items()
      if name.lower() not in without
    ]
  else:
    found = list(_reached(bindings, root, without))
  names = {x.function for x in found if x.function}
  for x in found:
    names |= {y.name for y in _leaves(x.value) if isinstance(y, Called)}
  shown = _shown(names, root)
  settings = [
    Setting(
      "/".join(filter(None, (x.scope, _path(x, shown)))),
      x.function,
      x.parameter,
      x.value,
      _written(x.value, shown),
      x.macro,
    )
    for x in found
  ]
  return sorted(settings, key=lambda x: x.name)


@dataclasses.dataclass(frozen=True)
class _Found:
  """A parameter that the program reaches; `function` is None of a macro."""

  scope: str
  function: Name | None
  parameter: str
  value: Any
  macro: str | None


def _reached(
  bindings: Bindings, root: Name, without: Collection[str]
) -> Iterator[_Found]:
  """Follows references from the program's function on."""
  reached: set[tuple[str, Name]] = set()
  open_ = [("", root)]
  while open_:
    scope, name = open_.pop()
    scope = bindings.innermost(scope, name)
    if (scope, name) in reached:
      continue
    reached.add((scope, name))
    open_.extend((scope, method) for method in bindings.methods(name))
    for parameter, value in bindings.of(scope, name).items():
      if parameter in without:
        continue
      resolution = _Resolution(bindings, scope)
      resolved = resolution.of(value)
      macro = value.value.name if isinstance(value.value, Macro) else None
      yield _Found(scope, name, parameter, resolved, macro)
      open_.extend(resolution.references)


def _shown(names: Iterable[Name], root: Name | None) -> dict[Name, str]:
  """What names are called: two that are called alike, by their modules too."""
  counts = collections.Counter(map(str, names))
  shown = {
    name: str(name) if counts[str(name)] == 1 else f"{name.module}.{name.path}"
    for name in names
  }
  if root is not None:
    shown[root] = root.path
  return shown


def _path(found: _Found, shown: Mapping[Name, str]) -> str:
  if found.function is None:
    return found.parameter
  return f"{shown[found.function]}.{found.parameter}"


def _leaves(value: Any) -> Iterator[Any]:
  """What stands in a value, however deep."""
  if isinstance(value, dict):
    yield from _leaves([*value.items()])
  elif isinstance(value, list | tuple):
    for x in value:
      yield from _leaves(x)
  else:
    yield value


class _Resolution:
  """Replaces macros by their values, and notes what is referred to."""

  def __init__(self, bindings: Bindings, scope: str):
    self._bindings = bindings
    self._scope = scope
    self.references: list[tuple[str, Name]] = []

  def of(self, value: _Value, seen: tuple[str, ...] = ()) -> Any:
    """Returns a value without macros; references name what they mean."""
    x = value.value
    if isinstance(x, Macro):
      # Such as gin.REQUIRED, or one that is defined by itself.
      if x.name in seen or x.name not in self._bindings.macros:
        return x
      return self.of(self._bindings.macros[x.name], (*seen, x.name))
    if isinstance(x, Reference):
      name = self._bindings.name(x.selector, value.imports)
      self.references.append((x.scope or self._scope, name))
      return Called(x.scope, name, x.evaluate)

    def part(item: Any) -> Any:
      return self.of(_Value(item, value.imports), seen)

    if isinstance(x, dict):
      return {part(k): part(v) for k, v in x.items()}
    if isinstance(x, list | tuple):
      return type(x)(map(part, x))
    return x


def _written(value: Any, shown: Mapping[Name, str]) -> str:
  """Writes a value as Python would; the order in a dictionary says nothing."""

  def text(x: Any) -> str:
    return _written(x, shown)

  if isinstance(value, Macro):
    return f"%{value.name}"
  if isinstance(value, Called):
    scope = f"{value.scope}/" if value.scope else ""
    return f"@{scope}{shown[value.name]}{'()' if value.evaluate else ''}"
  if isinstance(value, dict):
    items = sorted((text(k), text(v)) for k, v in value.items())
    return f"{{{', '.join(f'{k}: {v}' for k, v in items)}}}"
  if isinstance(value, list):
    return f"[{', '.join(map(text, value))}]"
  if isinstance(value, tuple):
    comma = "," if len(value) == 1 else ""
    return f"({', '.join(map(text, value))}{comma})"
  return repr(value)
