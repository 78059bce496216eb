"""Which parameters train."""

from collections.abc import Callable, Sequence
import re
from typing import Any


def matches_any(patterns: Sequence[str]) -> Callable[[str, Any], bool]:
  """Returns a filter for `flax.traverse_util.ModelParamTraversal`.

  Args:
    patterns: Regular expressions. One of them must match the whole path of a
      parameter, for example "encoder/prompt/prompt".

  Returns:
    `filter_fn(path, parameter) -> bool`. The slash with which flax starts a
    path may be left out of the patterns, and of the paths.

  Raises:
    ValueError: if `patterns` is one string, not a sequence of them.
  """
  if isinstance(patterns, str):
    raise ValueError(
      f"Expected a sequence of patterns, got the string {patterns!r}. "
      f"Write [{patterns!r}]."
    )
  compiled = [re.compile(pattern) for pattern in patterns]

  def filter_fn(path: str, parameter: Any) -> bool:
    del parameter
    bare = path.removeprefix("/")
    return any(
      pattern.fullmatch(candidate)
      for pattern in compiled
      for candidate in (bare, f"/{bare}")
    )

  # So that an error of the optimizer can say what matched nothing.
  filter_fn.__qualname__ = f"matches_any({list(patterns)})"
  return filter_fn
