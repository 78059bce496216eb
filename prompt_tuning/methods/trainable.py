"""The choice of the parameters that train."""

from collections.abc import Iterable, Sequence
import dataclasses
import re
from typing import Any

from prompt_tuning import injections


@dataclasses.dataclass(frozen=True)
class MatchesAny:
  """A filter for parameters whose whole path matches a regular expression.

  Attributes:
    patterns: The regular expressions, of which at least one must match. They,
      and the paths, may leave out the slash with which flax starts a path.
  """

  patterns: tuple[str, ...]

  def __post_init__(self):
    for pattern in self.patterns:
      injections.check_pattern("each pattern (TRAINABLE)", pattern)

  def __call__(self, path: str, parameter: Any) -> bool:
    del parameter
    bare = path.removeprefix("/")
    return any(
      re.fullmatch(pattern, x)
      for pattern in self.patterns
      for x in (bare, f"/{bare}")
    )

  def unmatched(self, paths: Iterable[str]) -> list[str]:
    """Returns the patterns that match none of the paths."""
    paths = list(paths)
    return [
      pattern
      for pattern in self.patterns
      if not any(MatchesAny((pattern,))(path, None) for path in paths)
    ]


def matches_any(patterns: Sequence[str]) -> MatchesAny:
  """Returns a filter for `flax.traverse_util.ModelParamTraversal`.

  Args:
    patterns: See `MatchesAny`.

  Raises:
    ValueError: if `patterns` is one string, not a sequence of them.
  """
  if isinstance(patterns, str):
    raise ValueError(
      f"Expected a sequence of patterns, got the string {patterns!r}. "
      f"Write [{patterns!r}]."
    )
  return MatchesAny(tuple(patterns))
