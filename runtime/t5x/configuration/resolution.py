"""The settings of a gin configuration, independent of how they are written.

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
    files: All gin files, including those that they include.
    macros: Name -> definition, with the macro's last comment.
    parameters: (scope, function) -> parameter -> binding.
    taken_away: The macros that had a value before a later file required one.
  """

  def __init__(
    self,
    gin_files: Iterable[str] = (),
    texts: Iterable[str] = (),
    paths: Sequence[str] = (".",),
    start: "Bindings | None" = None,
  ):
    """Reads files, then texts, which win.

    Args:
      gin_files: The files, in order.
      texts: Gin text without includes, such as the bindings of a command.
      paths: Folders for the files and for those that they include.
      start: Bindings that come before these.

    Raises:
      ValueError: if a file is missing, or something is not valid gin syntax.
    """
    self.files = [*start.files] if start else []
    self.macros: dict[str, Binding] = {}
    self.taken_away: set[str] = set()
    self.parameters: dict[tuple[str, Name], dict[str, Binding]] = {}
    self._known: dict[str, Name] = {}
    self._all = [*start._all] if start else []
    for gin_file in gin_files:
      self._all += self._with_includes(gin_file, paths)
    for text in texts:
      self._all += reading.from_text(text)
    for x in self._all:
      for ref in _references(x.value):
        self.known(ref.name)
      if x.parameter:
        key = x.scope, self.known(x.target)
        self.parameters.setdefault(key, {})[x.parameter] = x
      else:
        if not x.comment and x.label in self.macros:
          x = dataclasses.replace(x, comment=self.macros[x.label].comment)
        before = self.macros.get(x.label) or x
        if x.text == reading.REQUIRED and before.text != reading.REQUIRED:
          self.taken_away.add(x.label)
        self.macros[x.label] = x

  def _with_includes(
    self, gin_file: str, paths: Sequence[str], over: Sequence[str] = ()
  ) -> Iterator[Binding]:
    if gin_file in over:
      raise ValueError(f"{gin_file} includes itself: remove that include.")
    self.files.append(gin_file)
    for x in reading.from_file(gin_file, paths):
      if isinstance(x, Binding):
        yield x
      else:
        yield from self._with_includes(x, paths, [*over, gin_file])

  @property
  def defined(self) -> set[str]:
    """The macros that have a value."""
    return {k for k, x in self.macros.items() if x.text != reading.REQUIRED}

  @property
  def lacking(self) -> set[str]:
    """The macros that are used or required and have no value."""
    used = {
      leaf.name
      for x in self._all
      for leaf in reading.leaves(x.value)
      if isinstance(leaf, Macro) and leaf.name.isidentifier()  # No constant.
    }
    return (used | set(self.macros)) - self.defined

  def known(self, name: Name) -> Name:
    """Completes a name from a binding without imports, if a file imports it."""
    if name.module:
      self._known[f"{name.module}.{name.path}"] = name
      self._known[name.spelled] = name
      return name
    if name.spelled in self._known:
      return self._known[name.spelled]
    ending = f".{name.spelled}"
    found = {x for full, x in self._known.items() if full.endswith(ending)}
    return found.pop() if len(found) == 1 else name

  def root(self, function: str) -> Name | None:
    """Returns the name of a program's function, whatever its module."""
    for _, name in self.parameters:
      if name.path.rpartition(".")[2] == function:
        return name
    return None

  def value(self, value: Any, seen: tuple[str, ...] = ()) -> Any:
    """Returns a binding's value with macros replaced and names completed."""

    def leaf(x: Any) -> Any:
      # Leaves gin.REQUIRED alone, as well as a macro that refers to itself.
      if isinstance(x, Macro) and x.name in self.macros and x.name not in seen:
        return self.value(self.macros[x.name].value, (*seen, x.name))
      if isinstance(x, Reference):
        return dataclasses.replace(x, name=self.known(x.name))
      return x

    return reading.mapped(leaf, value)


@dataclasses.dataclass(frozen=True)
class Setting:
  """A parameter that a configuration gives a value.

  Attributes:
    name: Its full name, such as "train/t5x.DatasetConfig.batch_size"; for
      parameters of the program's function, such as "train.eval_period".
    function: The function or class; None for a macro.
    parameter: The parameter's name.
    value: The value, with macros replaced; a `Reference` if gin makes it.
    macro: The macro that gives the value, if one does.
  """

  name: str
  function: Name | None
  parameter: str
  value: Any
  macro: str | None

  @property
  def text(self) -> str:
    """The value as Python writes it."""
    return repr(self.value)


def resolve(
  bindings: Bindings, function: str, without: Collection[str] = ()
) -> list[Setting]:
  """Resolves a configuration.

  Args:
    bindings: The configuration.
    function: The program's function, such as "train". Bindings that it does
      not reach are left out. If gin does not bind it, the macros are the
      settings.
    without: Parameters to leave out, with the bindings that only these reach.

  Returns:
    The settings, by name.
  """
  root = bindings.root(function)
  found: list[tuple[str, Name | None, Binding, Any]] = []
  if root is None:
    for x in bindings.macros.values():
      if x.label.lower() not in without:
        found.append(("", None, x, bindings.value(x.value)))
  parameters = bindings.parameters
  reached: set[tuple[str, Name]] = set()
  # References are followed from the program's function.
  open_ = [] if root is None else [("", root)]
  while open_:
    scope, owner = open_.pop()
    # The innermost enclosing scope that binds parameters.
    while scope and (scope, owner) not in parameters:
      scope = scope.rpartition("/")[0]
    if (scope, owner) in reached:
      continue
    reached.add((scope, owner))
    open_ += [
      (scope, x)
      for _, x in parameters
      if x.module == owner.module and x.path.startswith(f"{owner.path}.")
    ]
    parts = scope.split("/") if scope else []
    configured: dict[str, Binding] = {}
    for i in range(len(parts) + 1):
      configured |= parameters.get(("/".join(parts[:i]), owner), {})
    for parameter, x in configured.items():
      if parameter not in without:
        value = bindings.value(x.value)
        found.append((scope, owner, x, value))
        open_ += [(y.scope or scope, y.name) for y in _references(value)]
  functions = {owner for _, owner, _, _ in found if owner is not None}
  functions |= {ref.name for *_, value in found for ref in _references(value)}
  counts = collections.Counter(map(str, functions))
  # Names have the package, or the module where that would be ambiguous.
  names = {
    x: str(x) if counts[str(x)] == 1 else f"{x.module}.{x.path}"
    for x in functions
  }
  if root is not None:
    names[root] = root.path

  def renamed(x: Any) -> Any:
    if not isinstance(x, Reference):
      return x
    name = dataclasses.replace(x.name, spelled=names[x.name])
    return dataclasses.replace(x, name=name)

  def setting(scope: str, owner: Name | None, x: Binding, value: Any):
    macro = x.value.name if isinstance(x.value, Macro) else None
    value = reading.mapped(renamed, value)
    if owner is None:
      return Setting(x.label, None, x.label, value, x.label)
    name = f"{scope}/{names[owner]}.{x.parameter}".removeprefix("/")
    return Setting(name, owner, x.parameter, value, macro)

  return sorted((setting(*x) for x in found), key=lambda x: x.name)


def _references(value: Any) -> list[Reference]:
  return [x for x in reading.leaves(value) if isinstance(x, Reference)]
