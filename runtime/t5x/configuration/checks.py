"""Checks of a configuration, before anything is read or compiled."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
import difflib
import inspect
import os
import pkgutil
import re
import types
import typing
from typing import Any

from absl import logging

from t5x.configuration import reading
from t5x.configuration.reading import Macro, Reference, suggestion
from t5x.configuration.resolution import Bindings, Setting, resolve

# Annotations from these packages take more values than `isinstance` knows.
_LENIENT = ("jax", "numpy", "typing")


def check_complete(
  bindings: Bindings, paths: Sequence[str], given: Collection[str] = ()
) -> None:
  """Checks that every macro of a command has a value.

  Args:
    bindings: The configuration.
    paths: Folders of gin files.
    given: Macros that get a value elsewhere.

  Raises:
    ValueError: if a macro has none. The message names a kind of gin file to
      add where no such file is given, and flags otherwise.
  """
  missing = bindings.lacking - set(given)
  kinds = {os.path.basename(os.path.dirname(x)) for x in bindings.files}
  remedies = []
  for kind, files in reading.files_by_kind(paths).items():
    # Recipes and runs give nothing that another kind does not.
    if not missing or kind in {*kinds, "recipes", "runs"}:
      continue
    names = [f"gin/{kind}/{file}.gin" for file in files]
    values = [missing & Bindings([x], paths=paths).defined for x in names]
    if found := set().union(*values):
      missing = missing - found
      choices = (file for file, x in zip(files, values, strict=True) if x)
      remedies.append(
        f"A file of gin/{kind} gives {', '.join(sorted(found))}: add "
        f"--gin_file=gin/{kind}/NAME.gin, where NAME is one of "
        f"{', '.join(choices)}."
      )
  if missing:
    flags = " ".join(f"--gin.{name}=..." for name in sorted(missing))
    remedies.append(
      f"The gin files require {', '.join(sorted(missing))}. Give each a value: "
      f"{flags}"
    )
  if remedies:
    raise ValueError(" ".join(remedies))


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
  known = {x.name for x in values if isinstance(x, Macro)}.union(macros)
  for x in bindings:
    if not (x.parameter or x.scope or x.label in known):
      # The files' macros are in capitals; a user may forget that.
      near = difflib.get_close_matches(x.label.upper(), sorted(macros))
      raise ValueError(
        f"No gin file defines {x.label}, so '{x.label} = {x.text}' would "
        f"change nothing.{suggestion(near)}"
      )


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
  before = resolve(bindings, function)
  for x in (x for text in texts for x in reading.from_text(text)):
    other = Bindings(texts=[f"{x.label} = 'another value'"], start=bindings)
    if resolve(other, function) == before:
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
  settings = resolve(bindings, function)
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
        f"change nothing.{suggestion(near)}"
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
    if (owner := x.function) is None or not owner.module:
      continue
    called = function
    try:
      if owner.module != "__main__":
        called = pkgutil.resolve_name(f"{owner.module}:{owner.path}")
      parameters = inspect.signature(called, eval_str=True).parameters
      hint = parameters[x.parameter].annotation
    except (ImportError, AttributeError, KeyError, NameError, TypeError):
      continue  # gin says so itself.
    if hint is not inspect.Parameter.empty and not _fits(x.value, hint):
      where = f" ({x.name})" if x.macro else ""
      # Without modules, such as "Sequence[str] | None".
      expected = re.sub(r"[A-Za-z_]\w*\.", "", inspect.formatannotation(hint))
      text = f"{x.macro or x.name}={x.text}{where}: expected {expected}"
      wrong.setdefault(x.macro or x.name, text)
  if wrong:
    is_quoted = any(
      "'" in x and "expected str" not in x for x in wrong.values()
    )
    raise ValueError(
      f"{'; '.join(wrong.values())}."
      + (" Numbers and @references take no quotes." if is_quoted else "")
    )


def _fits(value: Any, hint: Any) -> bool:
  """Returns whether a value may be right for an annotation.

  References fit, and so do values for annotations that are unknown here.
  """
  kind, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
  if isinstance(value, Reference | Macro):
    return True
  if kind in (typing.Union, types.UnionType):
    return any(_fits(value, x) for x in arguments)
  if kind is typing.Literal:
    return value in arguments
  if not isinstance(kind, type):
    return True
  if kind in (int, float):
    return isinstance(value, (int, kind)) and not isinstance(value, bool)
  if isinstance(value, dict) and issubclass(kind, Mapping):
    return all(_all_fit(pair, arguments) for pair in value.items())
  is_sequence = issubclass(kind, Collection) and kind is not str
  # gin takes a list for a tuple, and a tuple for a list.
  if isinstance(value, list | tuple) and is_sequence:
    return not issubclass(kind, Mapping) and _all_fit(value, arguments)
  if kind.__module__.startswith(_LENIENT):
    return True
  # A string is a sequence, but never meant as one.
  return isinstance(value, kind) and not (
    is_sequence and isinstance(value, str)
  )


def _all_fit(values: Sequence[Any], hints: tuple[Any, ...]) -> bool:
  if len(hints) == 1 or hints[-1:] == (Ellipsis,):
    hints = hints[:1] * len(values)
  return not hints or (
    len(hints) == len(values) and all(map(_fits, values, hints))
  )
