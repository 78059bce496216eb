"""Which parameters train, and how the prompt's axes are laid out."""

from collections.abc import Callable, Sequence
import re
from typing import Any

# Logical axis -> mesh axis: every device holds the whole prompt.
PROMPT_AXIS_RULES = (("prompt", None), ("prompt_embed", None))


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

  return filter_fn
