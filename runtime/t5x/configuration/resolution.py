"""The settings of a gin configuration, whatever words express them.

Two configurations that configure the same functions alike are equal here,
whatever their files, macros and import aliases are called: values replace
macros, names of modules replace import aliases, and bindings that the program
does not reach are left out.
"""

import collections
from collections.abc import Collection, Iterable, Iterator, Sequence
import dataclasses
from typing import Any

from t5x.configuration import reading
from t5x.configuration.reading import Binding, Macro, Name, Reference


class Bindings:
  """The last values that gin files and flags bind.

  Attributes:
    macros: Name -> definition.
    parameters: (scope, function) -> parameter -> binding.
  """

  def __init__(
    self,
    gin_files: Iterable[str] = (),
    texts: Iterable[str] = (),
    paths: Sequence[str] = (".",),
  ):
    """Reads files, then texts, which win.

    Args:
      gin_files: The files, in order.
      texts: Gin text without includes, such as the bindings of a command.
      paths: Folders for the files and for those that they include.

    Raises:
      ValueError: if a file is missing, or something is not valid gin syntax.
    """
    self.macros: dict[str, Binding] = {}
    self.parameters: dict[tuple[str, Name], dict[str, Binding]] = {}
    self._known: dict[str, Name] = {}
    self._add(reading.from_files(gin_files, paths))
    for text in texts:
      self._add(reading.from_text(text))

  def with_bindings(self, texts: Iterable[str]) -> "Bindings":
    """Returns a copy to which other bindings are added, which win."""
    new = Bindings()
    new.macros = dict(self.macros)
    new.parameters = {key: dict(x) for key, x in self.parameters.items()}
    new._known = dict(self._known)
    for text in texts:
      new._add(reading.from_text(text))
    return new

  def _add(self, bindings: Iterable[Binding]) -> None:
    for x in bindings:
      for leaf in reading.leaves(x.value):
        if isinstance(leaf, Reference):
          self.known(leaf.name)
      if x.parameter:
        key = x.scope, self.known(x.target)
        self.parameters.setdefault(key, {})[x.parameter] = x
      else:
        self.macros[x.label] = x

  def known(self, name: Name) -> Name:
    """Completes a name of a binding without imports, if a file imports it."""
    if name.module:
      self._known[f"{name.module}.{name.path}"] = name
      self._known[name.spelled] = name
      return name
    if name.spelled in self._known:
      return self._known[name.spelled]
    ending = f".{name.spelled}"
    found = {x for full, x in self._known.items() if full.endswith(ending)}
    return found.pop() if len(found) == 1 else name

  def configured(self, scope: str, function: Name) -> dict[str, Binding]:
    """Returns a function's parameters where a scope is active."""
    parts = scope.split("/") if scope else []
    found: dict[str, Binding] = {}
    for i in range(len(parts) + 1):
      found |= self.parameters.get(("/".join(parts[:i]), function), {})
    return found

  def innermost(self, scope: str, function: Name) -> str:
    """Returns the part of a scope that decides a function's parameters."""
    while scope and (scope, function) not in self.parameters:
      scope = scope.rpartition("/")[0]
    return scope

  def methods(self, cls: Name) -> set[Name]:
    """Returns the configured methods of a class."""
    return {
      x
      for _, x in self.parameters
      if x.module == cls.module and x.path.startswith(f"{cls.path}.")
    }

  def root(self, function: str) -> Name | None:
    """Returns the name of a program's function, whatever its module."""
    for _, name in self.parameters:
      if name.path.rpartition(".")[2] == function:
        return name
    return None

  def value(self, binding: Binding) -> Any:
    """Returns a binding's value without macros and with complete names."""
    return self._resolved(binding.value, ())

  def _resolved(self, x: Any, seen: tuple[str, ...]) -> Any:
    if isinstance(x, Macro):
      # gin.REQUIRED, say, or one that is defined by itself.
      if x.name in seen or x.name not in self.macros:
        return x
      return self._resolved(self.macros[x.name].value, (*seen, x.name))
    if isinstance(x, Reference):
      return dataclasses.replace(x, name=self.known(x.name))
    if isinstance(x, dict):
      return {
        self._resolved(k, seen): self._resolved(v, seen) for k, v in x.items()
      }
    if isinstance(x, list | tuple):
      return type(x)(self._resolved(item, seen) for item in x)
    return x


@dataclasses.dataclass(frozen=True)
class Setting:
  """A parameter that a configuration gives a value.

  Attributes:
    name: Its full name, such as "train/t5x.DatasetConfig.batch_size"; for
      parameters of the program's function, such as "train.eval_period".
    function: The function or class; None for a macro.
    parameter: The parameter's name.
    value: The value, macros replaced; a `Reference` if gin makes the value.
    text: The value as Python writes it.
    macro: The macro that gives the value, if one does.
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
    function: The program's function, such as "train". Bindings that it does
      not reach are left out. If gin does not bind it, the macros are the
      settings.
    without: Parameters to leave out, with the bindings that only they reach.

  Returns:
    The settings, by name.
  """
  root = bindings.root(function)
  if root is None:
    found = [
      ("", None, name, bindings.value(x), name)
      for name, x in bindings.macros.items()
      if name.lower() not in without
    ]
  else:
    found = list(_reached(bindings, root, without))
  functions = {x[1] for x in found if x[1] is not None}
  functions |= {ref.name for x in found for ref in _references(x[3])}
  names = _unique_names(functions)
  if root is not None:
    names[root] = root.path
  settings = []
  for scope, owner, parameter, value, macro in found:
    name = f"{names[owner]}.{parameter}" if owner else parameter
    name = f"{scope}/{name}" if scope else name
    text = reading.written(value, names)
    settings.append(Setting(name, owner, parameter, value, text, macro))
  return sorted(settings, key=lambda x: x.name)


def _reached(
  bindings: Bindings, root: Name, without: Collection[str]
) -> Iterator[tuple[str, Name, str, Any, str | None]]:
  """Follows references from the program's function.

  Args:
    bindings: The configuration.
    root: The program's function.
    without: Parameters to leave out.

  Yields:
    (scope, function, parameter, value, macro).
  """
  reached: set[tuple[str, Name]] = set()
  open_ = [("", root)]
  while open_:
    scope, function = open_.pop()
    scope = bindings.innermost(scope, function)
    if (scope, function) in reached:
      continue
    reached.add((scope, function))
    open_.extend((scope, method) for method in bindings.methods(function))
    for parameter, x in bindings.configured(scope, function).items():
      if parameter not in without:
        value = bindings.value(x)
        macro = x.value.name if isinstance(x.value, Macro) else None
        yield scope, function, parameter, value, macro
        open_.extend((y.scope or scope, y.name) for y in _references(value))


def _references(value: Any) -> Iterator[Reference]:
  return (x for x in reading.leaves(value) if isinstance(x, Reference))


def _unique_names(names: Iterable[Name]) -> dict[Name, str]:
  """Names functions by package, and by module where that is ambiguous."""
  names = list(names)
  counts = collections.Counter(map(str, names))
  return {
    name: str(name) if counts[str(name)] == 1 else f"{name.module}.{name.path}"
    for name in names
  }
