"""Checks of a configuration, before anything is read or compiled."""

from collections.abc import (
  Callable,
  Collection,
  Iterable,
  Iterator,
  Mapping,
  Sequence,
)
import difflib
import functools
import importlib
import inspect
import os
import re
import types
import typing
from typing import Any

from absl import logging

from t5x.configuration import reading, resolution
from t5x.configuration.reading import Macro, Reference
from t5x.configuration.resolution import Bindings, Setting

# Annotations from these packages take more values than `isinstance` knows.
_LENIENT = {
  "jax",
  "jaxlib",
  "jaxtyping",
  "numpy",
  "typing",
  "typing_extensions",
}


def check_complete(
  gin_files: Sequence[str], given: Collection[str], paths: Sequence[str]
) -> None:
  """Checks that every macro of a command has a value.

  Args:
    gin_files: The files of the command.
    given: Names that the command binds.
    paths: Folders to look in.

  Raises:
    ValueError: if a macro has none. The message names a kind of gin file to
      add where no such file is given, and flags otherwise.
  """
  if missing := reading.lacking_values(gin_files, paths) - set(given):
    raise ValueError(" ".join(_remedies(missing, gin_files, paths)))


def _remedies(
  missing: set[str], gin_files: Sequence[str], paths: Sequence[str]
) -> Iterator[str]:
  given = {
    os.path.basename(os.path.dirname(x)) for x in _tree(gin_files, paths)
  }
  for kind, files in reading.files_by_kind(paths).items():
    # Recipes and runs give nothing that another kind does not.
    if kind in {*given, "recipes", "runs"}:
      continue
    values = {}
    for file in files:
      macros = reading.macros([f"gin/{kind}/{file}.gin"], paths)
      defined = missing & set(macros)
      values[file] = {x for x in defined if macros[x].text != reading.REQUIRED}
    if found := set().union(*values.values()):
      missing = missing - found
      choices = ", ".join(file for file in files if values[file])
      yield (
        f"A file of gin/{kind} gives {', '.join(sorted(found))}: add "
        f"--gin_file=gin/{kind}/NAME.gin, where NAME is one of {choices}."
      )
  if missing:
    flags = " ".join(f"--gin.{name}=..." for name in sorted(missing))
    yield (
      f"The gin files require {', '.join(sorted(missing))}. Give each a value: "
      f"{flags}"
    )


def _tree(gin_files: Iterable[str], paths: Sequence[str]) -> Iterator[str]:
  for gin_file in gin_files:
    yield gin_file
    yield from _tree(reading.includes(gin_file, paths), paths)


def check_macros(gin_bindings: Sequence[str], macros: Collection[str]) -> None:
  """Checks that the macros that a command binds exist.

  Args:
    gin_bindings: The bindings of the command.
    macros: The macros that its files define.

  Raises:
    ValueError: if a binding is not valid gin syntax, or a macro is neither
      defined by a file nor used by another binding. The message names macros
      that are spelled alike.
  """
  # Text of several lines may define and use macros by itself.
  texts = [x for x in gin_bindings if "\n" not in x.strip()]
  bindings = [x for text in texts for x in reading.from_text(text)]
  values = [leaf for x in bindings for leaf in reading.leaves(x.value)]
  used = {x.name for x in values if isinstance(x, Macro)}
  for x in bindings:
    if x.parameter or x.scope or x.label in {*used, *macros}:
      continue
    # The files' macros are in capitals; a user may forget that.
    near = difflib.get_close_matches(x.label.upper(), sorted(macros), n=3)
    raise ValueError(
      f"No gin file defines {x.label}, so '{x.label} = {x.text}' would change "
      "nothing." + _suggestion(near)
    )


def _suggestion(near: Collection[str]) -> str:
  return f" Did you mean {' or '.join(near)}?" if near else ""


def unused(
  bindings: Bindings, function: str, texts: Iterable[str]
) -> Iterator[str]:
  """Yields the bindings that have no effect, whatever their value.

  Args:
    bindings: The whole configuration.
    function: The program's function.
    texts: The bindings in question, which are a part of it.

  Yields:
    Left sides, such as "train/utils.DatasetConfig.seed".
  """

  def settings(of: Bindings) -> list[tuple[str, str]]:
    return [(x.name, x.text) for x in resolution.resolve(of, function)]

  before = settings(bindings)
  for text in texts:
    for x in reading.from_text(text):
      other = bindings.with_bindings([f"{x.label} = 'another value'"])
      if settings(other) == before:
        yield x.label


def check_used(bindings: Bindings, function: str, texts: Iterable[str]) -> None:
  """Warns of a command's bindings that have no effect.

  Python code may call a function that gin does not reach, but never in a
  scope. A scope that nothing uses is therefore an error.

  Args:
    bindings: The whole configuration.
    function: The program's function.
    texts: The bindings of the command.

  Raises:
    ValueError: if a binding is in a scope that nothing uses; the message names
      the scopes that exist.
  """
  settings = resolution.resolve(bindings, function)
  for label in unused(bindings, function, texts):
    scope, slash, rest = label.rpartition("/")
    selector, dot, _ = rest.rpartition(".")
    target = bindings.known(reading.Name("", selector, selector))
    own = [x for x in settings if dot and x.function == target]
    scopes = {x.name.rpartition("/")[0] for x in own or settings}
    exists = any(f"{x}/".startswith(f"{scope}/") for x in scopes)
    if slash and dot and target.module and not exists:
      scopes = sorted(scopes - {""})
      near = difflib.get_close_matches(scope, scopes) or scopes
      raise ValueError(
        f"Nothing uses {selector} in the scope {scope!r}, so {label!r} would "
        "change nothing." + _suggestion(near)
      )
    logging.warning("Nothing uses %s here: binding it has no effect.", label)


def check_types(settings: Sequence[Setting], function: Any) -> None:
  """Checks values against the annotations of parameters.

  gin passes on any value: without this check, `"20"` as a length shows as a
  traceback where the length is used.

  Args:
    settings: The resolved configuration.
    function: The program's function, which gin files find on `__main__`.

  Raises:
    ValueError: if values are of the wrong type; the message names each.
  """
  wrong: dict[str, str] = {}
  for x in settings:
    hint = _annotation(x, function)
    if hint is not None and not _fits(x.value, hint):
      where = f" ({x.name})" if x.macro else ""
      text = f"{x.macro or x.name}={x.text}{where}: expected {_written(hint)}"
      wrong.setdefault(x.macro or x.name, text)
  if wrong:
    is_quoted = any(
      "'" in x and "expected str" not in x for x in wrong.values()
    )
    raise ValueError(
      f"{'; '.join(wrong.values())}."
      + (" Numbers and @references take no quotes." if is_quoted else "")
    )


def _annotation(setting: Setting, function: Any) -> Any:
  """Returns the annotation of a setting's parameter, or None."""
  if setting.function is None or not setting.function.module:
    return None
  target = function
  if setting.function.module != "__main__":
    try:
      target = importlib.import_module(setting.function.module)
      for part in setting.function.path.split("."):
        target = getattr(target, part)
    except (ImportError, AttributeError):
      return None  # gin says so itself.
  return _annotations(target).get(setting.parameter)


@functools.lru_cache(maxsize=512)
def _annotations(target: Any) -> dict[str, Any]:
  """Returns parameter -> annotation, of a function or of a class's fields."""
  # The __init__ of a dataclass is generated; its class has the annotations.
  if (
    inspect.isclass(target)
    and "__init__" in vars(target)
    and not hasattr(target, "__dataclass_fields__")
  ):
    target = target.__init__
  try:
    return typing.get_type_hints(target)
  except (NameError, TypeError, AttributeError):
    return {}


def _fits(value: Any, hint: Any) -> bool:
  """Returns whether a value may be right for an annotation.

  References fit, and so do values for annotations that are unknown here.
  """
  if isinstance(value, Reference | Macro):
    return True
  kind, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
  if kind is typing.Annotated:
    return _fits(value, arguments[0])
  if kind in (typing.Union, types.UnionType):
    return any(_fits(value, x) for x in arguments)
  if kind is typing.Literal:
    return value in arguments
  if kind in (None, types.NoneType):
    return value is None
  if kind is Callable:
    return False
  if not isinstance(kind, type):
    return True
  if kind in (int, float):
    numbers = (int,) if kind is int else (int, float)
    return isinstance(value, numbers) and not isinstance(value, bool)
  is_sequence = issubclass(kind, Collection) and not issubclass(
    kind, str | Mapping
  )
  if isinstance(value, list | tuple | set | frozenset) and is_sequence:
    return _all_fit(value, arguments)
  if isinstance(value, dict) and issubclass(kind, Mapping):
    hints = arguments or (Any, Any)
    return all(_all_fit(pair, hints) for pair in value.items())
  if kind.__module__.partition(".")[0] in _LENIENT or kind is object:
    return True
  if isinstance(value, str) and is_sequence:
    return False  # A string is a sequence, but never meant as one.
  return isinstance(value, kind)


def _all_fit(values: Any, arguments: tuple[Any, ...]) -> bool:
  """Returns whether the items of a list or tuple fit; gin takes either."""
  if not arguments:
    return True
  if len(arguments) == 1 or arguments[-1] is Ellipsis:
    return all(_fits(x, arguments[0]) for x in values)
  return len(values) == len(arguments) and all(map(_fits, values, arguments))


def _written(hint: Any) -> str:
  """Returns an annotation without modules, such as "Sequence[str] | None"."""
  return re.sub(r"[A-Za-z_]\w*\.", "", inspect.formatannotation(hint))
