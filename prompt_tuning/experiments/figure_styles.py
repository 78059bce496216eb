"""Colours, markers and line styles: a method's are the same in every figure.

Colours are Okabe and Ito's, which colour-blind readers tell apart; markers and
line styles differ too. Variants of one method, such as lengths of a prompt, are
shades of its colour; beside other methods they keep its marker.
"""

from collections.abc import Mapping
import dataclasses
import pathlib
import tomllib
from typing import Any

from matplotlib import colors
import numpy as np

_TABLE: dict[str, Any] = tomllib.loads(
  pathlib.Path(__file__).with_suffix(".toml").read_text()
)
_METHODS, _SPARE = _TABLE["methods"], _TABLE["spare"]
_MARKERS, _LINES = _TABLE["markers"], _TABLE["lines"]
# How far variants go towards white, and towards black.
_LIGHTEST, _DARKEST = 0.55, -0.55


@dataclasses.dataclass(frozen=True)
class Style:
  """The look of a row in a figure.

  Attributes:
    color: Such as "#0072B2".
    marker: A marker of matplotlib.
    linestyle: A line style from `figure_styles.toml`.
  """

  color: str
  marker: str
  linestyle: Any

  @property
  def dot(self) -> dict[str, Any]:
    """Arguments of `Axes.errorbar`."""
    return {"color": self.color, "marker": self.marker, "markersize": 5}

  @property
  def line(self) -> dict[str, Any]:
    """Arguments of `Axes.plot`."""
    line = self.linestyle
    line = line if isinstance(line, str) else tuple(line)
    return {**self.dot, "linestyle": line}

  @property
  def band(self) -> dict[str, Any]:
    """Arguments of `Axes.fill_between`."""
    return {"color": self.color, "alpha": 0.15, "linewidth": 0}


def styles(methods: Mapping[str, str]) -> dict[str, Style]:
  """Chooses the styles of a figure.

  Args:
    methods: Name of a row -> the name of its method.

  Returns:
    Name of a row -> style. A method itself has its own colour; its variants
    have shades of it.
  """
  families: dict[str, list[str]] = {}
  for name, method in methods.items():
    known = [x for x in _METHODS if method.startswith(x)]
    family = max(known, key=len, default=method)
    families.setdefault(family, []).append(name)
  unknown = [family for family in families if family not in _METHODS]
  spare = {x: _SPARE[i % len(_SPARE)] for i, x in enumerate(unknown)}
  found: dict[str, Style] = {}
  for family, names in families.items():
    color, marker, line = (_METHODS | spare)[family]
    own = Style(color, marker, line)
    variants = [name for name in names if name != family]
    if len(names) == 1:
      found[names[0]] = own
      continue
    has_own = len(variants) < len(names)
    lightest = _DARKEST / 2 if has_own else _LIGHTEST
    mixes = np.linspace(lightest, _DARKEST, len(variants))
    others = [x for x in _MARKERS if x != marker] if has_own else _MARKERS
    if len(families) > 1:
      others = marker
    if has_own:
      found[family] = own
    for i, (name, mix) in enumerate(zip(variants, mixes.tolist(), strict=True)):
      # Mixed with white, or with black if it is negative.
      kept, white = 1 - abs(mix), max(mix, 0)
      red, green, blue = (x * kept + white for x in colors.to_rgb(color))
      found[name] = Style(
        colors.to_hex((red, green, blue)),
        others[i % len(others)],
        _LINES[(i + has_own) % len(_LINES)],
      )
  return {name: found[name] for name in methods}
