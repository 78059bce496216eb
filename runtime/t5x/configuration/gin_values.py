"""Whether what a configuration gives fits what its functions take.

gin passes on any value; that `"20"` is no length shows where it is used, with a
traceback. The annotations of parameters say it beforehand.
"""

import collections.abc
from collections.abc import Sequence
import functools
import importlib
import inspect
import types
import typing
from typing import Any

from t5x.configuration import gin_resolution

# Their annotations of numbers and types take more than `isinstance` knows.
_LENIENT = (
  "jax",
  "jaxlib",
  "jaxtyping",
  "numpy",
  "typing",
  "typing_extensions",
)
_MANY = (list, tuple, set, frozenset)


def check(settings: Sequence[gin_resolution.Setting], function: Any) -> None:
  """Checks the values of a configuration.

  Args:
    settings: The configuration, resolved.
    function: The program's, which `__main__` has.

  Raises:
    ValueError: if values are of the wrong type; the message names each.
  """
  wrong: dict[str, str] = {}
  for setting in settings:
    hint = _annotation(setting, function)
    if hint is not None and not _fits(setting.value, hint):
      name = setting.macro or setting.name
      where = f" ({setting.name})" if setting.macro else ""
      wrong.setdefault(
        name, f"{name}={setting.text}{where}: expected {_words(hint)}"
      )
  if wrong:
    quoted = any("'" in x and "expected str" not in x for x in wrong.values())
    raise ValueError(
      f"{'; '.join(wrong.values())}."
      + (" Numbers and @references take no quotes." if quoted else "")
    )


def _annotation(setting: gin_resolution.Setting, function: Any) -> Any:
  """The annotation of a setting's parameter; None if there is none."""
  if setting.function is None or not setting.function.module:
    return None
  if setting.function.module == "__main__":
    return _annotations(function).get(setting.parameter)
  try:
    target = importlib.import_module(setting.function.module)
    for part in setting.function.path.split("."):
      target = getattr(target, part)
  except (ImportError, AttributeError):
    return None  # gin says so itself.
  return _annotations(target).get(setting.parameter)


@functools.lru_cache(maxsize=512)
def _annotations(target: Any) -> dict[str, Any]:
  """Parameter -> annotation, of a function or of a class's fields."""
  function = target
  if inspect.isclass(target) and "__init__" in vars(target):
    function = target.__init__
    # That of a dataclass is generated; its class has what was written.
    if hasattr(target, "__dataclass_fields__"):
      function = target
  try:
    return typing.get_type_hints(function)
  except (NameError, TypeError, AttributeError):
    return {}


def _fits(value: Any, hint: Any) -> bool:
  """Whether a value may be given where an annotation stands.

  Only what is surely wrong is: a reference, or an annotation that this does not
  know, fits.
  """
  if isinstance(value, gin_resolution.Called | gin_resolution.Macro):
    return True
  origin, arguments = typing.get_origin(hint), typing.get_args(hint)
  if origin is typing.Annotated:
    return _fits(value, arguments[0])
  if origin in (typing.Union, types.UnionType):
    return any(_fits(value, x) for x in arguments)
  if origin is typing.Literal:
    return value in arguments
  if hint is None or hint is types.NoneType:
    return value is None
  if origin is collections.abc.Callable or hint is collections.abc.Callable:
    return False
  kind = origin or hint
  if not isinstance(kind, type):
    return True
  if kind in (int, float):
    numbers = (int,) if kind is int else (int, float)
    return isinstance(value, numbers) and not isinstance(value, bool)
  if isinstance(value, _MANY) and _is_collection(kind):
    return _all_fit(value, arguments)
  if isinstance(value, dict) and issubclass(kind, collections.abc.Mapping):
    return all(
      _fits(x, hint)
      for pair in value.items()
      for x, hint in zip(pair, arguments or (Any, Any), strict=False)
    )
  if kind.__module__.partition(".")[0] in _LENIENT or kind is object:
    return True
  # A text is a sequence, but never meant as one.
  if isinstance(value, str) and _is_collection(kind):
    return False
  return isinstance(value, kind)


def _is_collection(kind: type) -> bool:
  return issubclass(kind, collections.abc.Collection) and not issubclass(
    kind, str | collections.abc.Mapping
  )


def _all_fit(values: Any, arguments: tuple[Any, ...]) -> bool:
  """Whether the items of a list or tuple fit; gin writes either for both."""
  if not arguments:
    return True
  if len(arguments) == 1 or arguments[-1] is Ellipsis:
    return all(_fits(x, arguments[0]) for x in values)
  return len(values) == len(arguments) and all(
    _fits(x, hint) for x, hint in zip(values, arguments, strict=True)
  )


def _words(hint: Any) -> str:
  """An annotation for people: "int or None"."""
  origin, arguments = typing.get_origin(hint), typing.get_args(hint)
  if origin is typing.Annotated:
    return _words(arguments[0])
  if origin in (typing.Union, types.UnionType):
    return " or ".join(map(_words, arguments))
  if hint is None or hint is types.NoneType:
    return "None"
  if origin is typing.Literal:
    return " or ".join(map(repr, arguments))
  if origin is collections.abc.Callable or hint is collections.abc.Callable:
    return "an @reference to a function"
  if isinstance(origin, type):
    inner = ", ".join("..." if x is Ellipsis else _words(x) for x in arguments)
    return f"{origin.__name__}[{inner}]"
  if isinstance(hint, type):
    if hint.__module__ == "builtins":
      return hint.__name__
    return f"an @reference to {hint.__name__}"
  return str(hint)
