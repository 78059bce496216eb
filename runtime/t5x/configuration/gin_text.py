"""Gin files as text: where they lie, and their statements.

By gin's own parser; nothing that the files import is imported, and nothing is
registered.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import difflib
import functools
import os
import tokenize
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
    tokenize.TokenError: if a bracket or a string has no end.
  """
  return tuple(config_parser.ConfigParser(text, _Delegate()))


def includes(text: str) -> list[str]:
  """Returns the files that gin text includes, in order."""
  return [
    x.filename
    for x in statements(text)
    if isinstance(x, config_parser.IncludeStatement)
  ]


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
    ValueError: if one lies in none of them, or is no gin.
  """
  for gin_file in gin_files:
    path = find(gin_file, paths)
    text = _text(path, os.stat(path).st_mtime_ns)
    try:
      statements(text)
    except SyntaxError as e:
      line = (e.text or "").strip()
      raise ValueError(
        f"{path}, line {e.lineno}: {line} is no gin. Strings are quoted."
      ) from e
    except tokenize.TokenError as e:
      raise ValueError(f"{path} is no gin: {e.args[0]}.") from e
    yield text
    yield from texts(includes(text), paths)


def macros_of(gin_files: Iterable[str], paths: Sequence[str]) -> set[str]:
  """Returns the names of the macros that gin files and their includes define.

  Args:
    gin_files: In order.
    paths: Folders to look in.

  Raises:
    ValueError: if a file lies in none of them, or is no gin.
  """
  return {x.selector for x in _bindings(gin_files, paths) if not x.arg_name}


def used_macros(gin_files: Iterable[str], paths: Sequence[str]) -> set[str]:
  """Returns the names of the macros that gin files and their includes use.

  Args:
    gin_files: In order.
    paths: Folders to look in.

  Raises:
    ValueError: if a file lies in none of them, or is no gin.
  """
  return {
    name for x in _bindings(gin_files, paths) for name in _macros_in(x.value)
  }


def _bindings(
  gin_files: Iterable[str], paths: Sequence[str]
) -> Iterator[config_parser.BindingStatement]:
  for text in texts(gin_files, paths):
    for x in statements(text):
      if isinstance(x, config_parser.BindingStatement):
        yield x


def _macros_in(value: Any) -> Iterator[str]:
  if isinstance(value, Macro):
    if value.name.isidentifier():  # With a dot, it is a constant.
      yield value.name
  elif isinstance(value, Mapping):
    yield from _macros_in([*value, *value.values()])
  elif isinstance(value, list | tuple):
    for x in value:
      yield from _macros_in(x)
