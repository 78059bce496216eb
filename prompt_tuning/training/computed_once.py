"""Properties that are computed once, whichever thread asks first."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

_T = TypeVar("_T")


class computed_once(Generic[_T]):  # noqa: N801  As `property` is written.
  """A property of an object that has a `lock`, an RLock.

  `functools.cached_property` has a lock for all objects until Python 3.11, and
  none since.
  """

  def __init__(self, compute: Callable[[Any], _T]):
    self._compute = compute
    self.__doc__ = compute.__doc__

  def __set_name__(self, owner: type, name: str) -> None:
    self._name = name

  @overload
  def __get__(self, instance: None, owner: type) -> "computed_once[_T]": ...

  @overload
  def __get__(self, instance: object, owner: type | None = None) -> _T: ...

  def __get__(self, instance: Any, owner: type | None = None) -> Any:
    if instance is None:  # Of the class, as `help` asks.
      return self
    with instance.lock:
      if self._name not in instance.__dict__:
        instance.__dict__[self._name] = self._compute(instance)
      return instance.__dict__[self._name]
