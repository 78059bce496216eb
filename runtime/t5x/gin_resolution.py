"""What a gin configuration says, without the words that it says it in.

Two configurations that configure the same functions alike are equal here,
whatever their files, macros and import aliases are called: macros are replaced
by what they stand for, names of imports by where they come from, and what the
program does not reach is left out. Nothing that the files import is imported
and nothing is registered with gin, so this takes milliseconds.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
import dataclasses
import difflib
import functools
import os
from typing import Any

from gin import config_parser


@dataclasses.dataclass(frozen=True)
class Reference:
  """`@scope/selector` or `@scope/selector()`."""

  scope: str
  selector: str
  evaluate: bool


@dataclasses.dataclass(frozen=True)
class Macro:
  """`%name`."""

  name: str


class _Delegate(config_parser.ParserDelegate):
  """Keeps references as they are written."""

  def configurable_reference(  # pyright: ignore[reportIncompatibleMethodOverride]
    self, scoped_configurable_name, evaluate
  ):
    scope, _, selector = scoped_configurable_name.rpartition("/")
    return Reference(scope, selector, evaluate)

  def macro(  # pyright: ignore[reportIncompatibleMethodOverride]
    self, macro_name
  ):
    return Macro(macro_name)


@functools.lru_cache(maxsize=256)
def statements(text: str) -> tuple[Any, ...]:
  """Parses gin text into the statements of gin's own parser.

  Raises:
    SyntaxError: if it is no gin.
  """
  return tuple(config_parser.ConfigParser(text, _Delegate()))


def find(gin_file: str, paths: Sequence[str]) -> str:
  """Returns where a gin file lies.

  Args:
    gin_file: As a flag or an include names it.
    paths: Folders to look in, in order.

  Raises:
    ValueError: if it lies in none of them.
  """
  candidates = [os.path.join(path, gin_file) for path in paths]
  for candidate in candidates:
    if os.path.isfile(candidate):
      return candidate
  siblings = {
    os.path.join(os.path.dirname(gin_file), name)
    for candidate in candidates
    if os.path.isdir(os.path.dirname(candidate))
    for name in os.listdir(os.path.dirname(candidate))
    if name.endswith(".gin")
  }
  near = difflib.get_close_matches(gin_file, sorted(siblings), cutoff=0.4)
  raise ValueError(
    f"No gin file {gin_file} in {', '.join(paths)}."
    + (f" Did you mean {' or '.join(near)}?" if near else "")
    + " Folders are added with --gin_search_paths."
  )


@functools.lru_cache(maxsize=256)
def _text(path: str, modified_ns: int) -> str:
  del modified_ns  # Of the file: another text is another entry of the cache.
  with open(path, encoding="utf-8") as f:
    return f.read()


def texts(gin_files: Iterable[str], paths: Sequence[str]) -> Iterator[str]:
  """Reads gin files; each is followed by those that it includes.

  Args:
    gin_files: In order.
    paths: Folders to look in.

  Raises:
    ValueError: if one lies in none of them.
    SyntaxError: if one is no gin.
  """
  for gin_file in gin_files:
    path = find(gin_file, paths)
    text = _text(path, os.stat(path).st_mtime_ns)
    yield text
    includes = [
      x.filename
      for x in statements(text)
      if isinstance(x, config_parser.IncludeStatement)
    ]
    yield from texts(includes, paths)


def macros_of(gin_files: Iterable[str], paths: Sequence[str]) -> set[str]:
  """Returns the names of the macros that gin files and their includes define.

  Args:
    gin_files: In order.
    paths: Folders to look in.

  Raises:
    ValueError: if a file lies in none of them, or is no gin.
  """
  return {
    x.selector
    for text in texts(gin_files, paths)
    for x in statements(text)
    if isinstance(x, config_parser.BindingStatement) and not x.arg_name
  }


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
    names: Name -> where it comes from.
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
    self.parameters: dict[tuple[str, str], dict[str, _Value]] = {}
    self.names: dict[str, Name] = {}
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
    new.names = dict(self.names)
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
        if not x.arg_name:
          name = f"{x.scope}/{x.selector}" if x.scope else x.selector
          self.macros[name] = value
          continue
        key = x.scope, str(self.name(x.selector, imports))
        self.parameters.setdefault(key, {})[x.arg_name] = value

  def name(self, selector: str, imports: _Imports) -> Name:
    """Says what a selector means, in a file or in a binding without imports."""
    name = _name(selector, imports)
    if name.module:
      self._selectors[f"{name.module}.{name.path}"] = name
      self._selectors[selector] = name
    else:
      name = self._selectors.get(selector) or self._ending(selector) or name
    known = self.names.setdefault(str(name), name)
    if known == name:
      return name
    # Two of a package that are called alike are told apart by their modules.
    name = Name("", f"{name.module}.{name.path}" if name.module else name.path)
    return self.names.setdefault(str(name), name)

  def _ending(self, selector: str) -> Name | None:
    """The one known name that ends like this, if there is one."""
    found = {
      name
      for full, name in self._selectors.items()
      if full.endswith(f".{selector}")
    }
    return found.pop() if len(found) == 1 else None

  def of(self, scope: str, name: str) -> dict[str, _Value]:
    """The parameters of a function where a scope is active."""
    parts = scope.split("/") if scope else []
    found: dict[str, _Value] = {}
    for i in range(len(parts) + 1):
      found |= self.parameters.get(("/".join(parts[:i]), name), {})
    return found

  def innermost(self, scope: str, name: str) -> str:
    """The part of a scope on which a function's parameters depend."""
    while scope and (scope, name) not in self.parameters:
      scope = scope.rpartition("/")[0]
    return scope

  def methods(self, name: str) -> set[str]:
    """The configured methods of a class."""
    return {x for _, x in self.parameters if x.startswith(f"{name}.")}

  def root(self, function: str) -> str | None:
    """The name of a program's function, whatever its module is called here."""
    for _, name in self.parameters:
      if name.rpartition(".")[2] == function:
        return name
    return None


@dataclasses.dataclass(frozen=True)
class Setting:
  """A parameter that a configuration gives a value.

  Attributes:
    name: Such as "train/t5x.DatasetConfig.batch_size". Parameters of the
      program's function are called after it alone: "train.eval_period".
    function: What has the parameter; None of a macro.
    parameter: Its name there.
    value: It, macros replaced; a `Reference` where gin makes the value.
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
    settings = []
    for name, value in sorted(bindings.macros.items()):
      if name.lower() in without:
        continue
      resolved = _Resolution(bindings, "").of(value)
      settings.append(
        Setting(name, None, name, resolved, _written(resolved), name)
      )
    return settings
  settings = []
  reached: set[tuple[str, str]] = set()
  open_ = [("", root)]
  while open_:
    scope, name = open_.pop()
    scope = bindings.innermost(scope, name)
    if (scope, name) in reached:
      continue
    reached.add((scope, name))
    open_.extend((scope, method) for method in bindings.methods(name))
    called = function if name == root else name
    prefix = f"{scope}/{called}" if scope else called
    for parameter, value in bindings.of(scope, name).items():
      if parameter in without:
        continue
      resolution = _Resolution(bindings, scope)
      resolved = resolution.of(value)
      settings.append(
        Setting(
          f"{prefix}.{parameter}",
          bindings.names[name],
          parameter,
          resolved,
          _written(resolved),
          value.value.name if isinstance(value.value, Macro) else None,
        )
      )
      open_.extend(resolution.references)
  return sorted(settings, key=lambda x: x.name)


class _Resolution:
  """Replaces macros by their values, and notes what is referred to."""

  def __init__(self, bindings: Bindings, scope: str):
    self._bindings = bindings
    self._scope = scope
    self.references: list[tuple[str, str]] = []

  def of(self, value: _Value, seen: tuple[str, ...] = ()) -> Any:
    """Returns a value without macros; references name what they mean."""
    x = value.value
    if isinstance(x, Macro):
      # Such as gin.REQUIRED, or one that is defined by itself.
      if x.name in seen or x.name not in self._bindings.macros:
        return x
      return self.of(self._bindings.macros[x.name], (*seen, x.name))
    if isinstance(x, Reference):
      name = str(self._bindings.name(x.selector, value.imports))
      self.references.append((x.scope or self._scope, name))
      return Reference(x.scope, name, x.evaluate)

    def part(item: Any) -> Any:
      return self.of(_Value(item, value.imports), seen)

    if isinstance(x, dict):
      return {part(k): part(v) for k, v in x.items()}
    if isinstance(x, list | tuple):
      return type(x)(map(part, x))
    return x


def _written(value: Any) -> str:
  """Writes a value as Python would; the order in a dictionary says nothing."""
  if isinstance(value, Macro):
    return f"%{value.name}"
  if isinstance(value, Reference):
    scope = f"{value.scope}/" if value.scope else ""
    return f"@{scope}{value.selector}{'()' if value.evaluate else ''}"
  if isinstance(value, dict):
    items = sorted((_written(k), _written(v)) for k, v in value.items())
    return f"{{{', '.join(f'{k}: {v}' for k, v in items)}}}"
  if isinstance(value, list):
    return f"[{', '.join(map(_written, value))}]"
  if isinstance(value, tuple):
    comma = "," if len(value) == 1 else ""
    return f"({', '.join(map(_written, value))}{comma})"
  return repr(value)
