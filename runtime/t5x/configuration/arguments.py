"""Checks of values against the annotations of parameters.

gin and Python pass on any value: without this check, `"20"` as a length causes
a traceback where the length is used. Pydantic's types limit numbers:
`PositiveInt`, or `Annotated[float, pydantic.Field(ge=0, lt=1)]`.
"""

from collections.abc import (
  Callable,
  Collection,
  Iterable,
  Iterator,
  Mapping,
  Sequence,
)
import functools
import inspect
import numbers
import operator
import re
import types
import typing
from typing import Annotated, Any, ParamSpec, TypeVar

from t5x.configuration.reading import Macro, Reference

# Annotations from these packages accept more values than `isinstance` does.
_LENIENT = ("jax", "numpy", "typing")
_UNIONS = (typing.Union, types.UnionType)
_NUMBERS = {int: numbers.Integral, float: numbers.Real}
# Attribute of a limit -> the comparison that must hold, and its words.
_LIMITS = {
  "gt": (operator.gt, "above"),
  "ge": (operator.ge, "of at least"),
  "lt": (operator.lt, "below"),
  "le": (operator.le, "of at most"),
  "min_length": (lambda x, least: len(x) >= least, "of length at least"),
}
_P = ParamSpec("_P")
_R = TypeVar("_R")


def checked(function: Callable[_P, _R]) -> Callable[_P, _R]:
  """Has a function check its arguments first.

  Returns:
    The same function; it raises ValueError for a value that does not fit the
    annotation of its parameter.
  """
  signature = inspect.signature(function)

  @functools.wraps(function)
  def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
    check(function, signature.bind(*args, **kwargs).arguments)
    return function(*args, **kwargs)

  return call


def check(owner: Any, values: Mapping[str, Any]) -> None:
  """Checks arguments.

  Args:
    owner: The function or dataclass that has the annotations.
    values: Parameter -> value.

  Raises:
    ValueError: if values do not fit; the message names each of them.
  """
  hints = typing.get_type_hints(owner, include_extras=True)
  pairs = (
    (values[name], hints[name], name) for name in values if name in hints
  )
  if wrong := [_misfit(*x) for x in pairs if not fits(*x[:2])]:
    raise ValueError(" ".join(wrong))


def check_pattern(name: str, pattern: str) -> None:
  """Raises ValueError if an argument is not a regular expression."""
  try:
    re.compile(pattern)
  except re.error as e:
    raise ValueError(
      f"Expected {name} to be a regular expression, got {pattern!r}: {e}."
    ) from e


def _misfit(value: Any, hint: Any, name: str) -> str:
  """Returns a message about a value that does not fit, or about its item."""
  for choice in typing.get_args(hint) if _origin(hint) in _UNIONS else [hint]:
    kind, arguments = _origin(choice), typing.get_args(choice)
    if _is_listed(value, kind) and len(arguments) == 1:
      for i, x in enumerate(value):
        if not fits(x, arguments[0]):
          return _misfit(x, arguments[0], f"{name}[{i}]")
  text = repr(value)
  text = text if len(text) <= 80 else f"{text[:80]}..."
  return f"Expected {name} to be {describe(hint)}, got {text}."


def describe(hint: Any) -> str:
  """Returns an annotation as text, such as "Sequence[str] | None"."""
  kind, arguments = _origin(hint), typing.get_args(hint)
  if kind is Annotated:
    words = [f"{text} {limit}" for _, text, limit in _limits(arguments[1:])]
    return f"{describe(arguments[0])} {' and '.join(words)}".strip()
  if kind in _UNIONS:
    return " | ".join(map(describe, arguments))
  if hint in (None, types.NoneType, Ellipsis):
    return "..." if hint is Ellipsis else "None"
  if isinstance(kind, type) and issubclass(kind, Collection) and arguments:
    return f"{kind.__name__}[{', '.join(map(describe, arguments))}]"
  if isinstance(hint, type) and not arguments:
    return hint.__name__
  # The text without module names.
  return re.sub(r"[A-Za-z_]\w*\.", "", inspect.formatannotation(hint))


def fits(value: Any, hint: Any) -> bool:
  """Returns whether a value may fit an annotation.

  References fit, as do all values for annotations that are unknown here.
  """
  kind, arguments = _origin(hint), typing.get_args(hint)
  if isinstance(value, Reference | Macro):
    return True
  if kind is Annotated:
    of_type, *limits = arguments
    return fits(value, of_type) and all(
      holds(value, limit) for holds, _, limit in _limits(limits)
    )
  if kind in _UNIONS:
    return any(fits(value, x) for x in arguments)
  if kind is typing.Literal:
    return value in arguments
  if not isinstance(kind, type):
    return True
  if kind in _NUMBERS:
    return isinstance(value, _NUMBERS[kind]) and not isinstance(value, bool)
  if isinstance(value, dict) and issubclass(kind, Mapping):
    return all(_all_fit(pair, arguments) for pair in value.items())
  if _is_listed(value, kind):
    return _all_fit(list(value), arguments)
  if kind.__module__.startswith(_LENIENT):
    return True
  # A string is a sequence, but no caller means it as one.
  is_text = isinstance(value, str) and issubclass(kind, Iterable)
  return isinstance(value, kind) and (kind is str or not is_text)


def _limits(
  metadata: Iterable[Any],
) -> Iterator[tuple[Callable[[Any, Any], bool], str, Any]]:
  """Yields the limits of a number: a comparison, its words and the limit."""
  for x in metadata:
    # Pydantic's `Field` has a list of limits.
    for part in getattr(x, "metadata", [x]):
      for name, (holds, words) in _LIMITS.items():
        if (limit := getattr(part, name, None)) is not None:
          yield holds, words, limit


def _origin(hint: Any) -> Any:
  return typing.get_origin(hint) or hint


def _is_listed(value: Any, kind: Any) -> bool:
  """Returns whether a value lists its items as a collection of `kind` would.

  gin takes a list for a tuple, and a tuple for a list. A table's column counts
  as a list.
  """
  is_collection = isinstance(kind, type) and issubclass(kind, Collection)
  if not is_collection or issubclass(kind, str | Mapping):
    return False
  if isinstance(value, list | tuple):
    return True
  is_column = isinstance(value, Collection) and hasattr(value, "__getitem__")
  return (
    issubclass(kind, Sequence)
    and is_column
    and not isinstance(value, str | Mapping)
  )


def _all_fit(values: Sequence[Any], hints: tuple[Any, ...]) -> bool:
  if len(hints) == 1 or hints[-1:] == (Ellipsis,):
    hints = hints[:1] * len(values)
  return not hints or (
    len(hints) == len(values) and all(map(fits, values, hints))
  )
