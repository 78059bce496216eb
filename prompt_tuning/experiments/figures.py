"""Figures: ours in one panel, the paper's in the next, on one scale.

Colours are Okabe and Ito's, which colour-blind readers tell apart; markers and
line styles differ too. The same records make the same bytes of SVG.
"""

from collections.abc import Mapping, Sequence
import io
from typing import Any

import matplotlib
from matplotlib import image, ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from prompt_tuning.experiments import records, scores, tables
from prompt_tuning.experiments.sheets import Paper, Sheet

_COLORS = (
  "#0072B2",
  "#D55E00",
  "#009E73",
  "#CC79A7",
  "#E69F00",
  "#56B4E9",
  "#000000",
)
_MARKERS = "os^DvPX"
_STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
_MAJORITY_LABEL = "Most frequent answer"
_MAJORITY: Any = {"color": "#777777", "linestyle": "--", "linewidth": 1}
_SETTINGS: Any = {"svg.hashsalt": "prompt_tuning", "font.size": 9}
_PANEL_INCHES = (4.2, 3.4)
_DPI = 150


def _style(index: int) -> dict[str, Any]:
  return {
    "color": _COLORS[index % len(_COLORS)],
    "marker": _MARKERS[index % len(_MARKERS)],
    "markersize": 5,
  }


def _line(index: int) -> dict[str, Any]:
  return _style(index) | {"linestyle": _STYLES[index % len(_STYLES)]}


def render(figure: Figure) -> dict[str, bytes]:
  """Returns the files of a figure: suffix -> content."""
  files = {}
  for suffix, metadata in (
    ("svg", {"Date": None, "Creator": None}),
    ("png", {"Software": None}),
  ):
    out = io.BytesIO()
    with matplotlib.rc_context(_SETTINGS):
      figure.savefig(
        out, format=suffix, metadata=metadata, dpi=_DPI, bbox_inches="tight"
      )
    files[suffix] = out.getvalue()
  return files


def of_sheet(
  sheet: Sheet,
  known: Mapping[records.Settings, records.Filed],
  beside: Sheet | None = None,
) -> Figure | None:
  """Draws a sheet as its layout says.

  Args:
    sheet: The sheet.
    known: The records.
    beside: The sheet of full size, whose records and paper's numbers make the
      second panel. The sheet's own paper's numbers do otherwise.

  Returns:
    The figure, or None if the sheet asks for none.
  """
  if sheet.layout.figure is None:
    return None
  draw = {
    "lines": _draw_lines,
    "dots": _draw_dots,
    "parameters": _draw_parameters,
  }[sheet.layout.figure]
  paper = (beside or sheet).paper
  has_second = paper is not None and bool(paper.x)
  with matplotlib.rc_context(_SETTINGS):
    width, height = _PANEL_INCHES
    figure = Figure(
      (width * (2 if has_second else 1.4), height), layout="constrained"
    )
    panels = figure.subplots(
      1, 2 if has_second else 1, sharey=True, squeeze=False
    )[0]
    # A row has the same colour in both panels.
    styles = _row_styles(sheet, paper)
    draw(panels[0], sheet, known, styles)
    panels[0].set_ylabel(sheet.layout.y_label)
    panels[0].set_title(f"Ours: {sheet.title}", fontsize=9)
    if has_second and paper is not None:
      _draw_paper(panels[1], paper, styles)
      if beside is not None:
        _draw_lines(panels[1], beside, known, styles, prefix="Ours: ")
      panels[1].set_title(f"The paper: {paper.source}", fontsize=9)
    title = " and ".join(sheet.layout.rows).capitalize()
    for panel in panels:
      is_ordered = sheet.layout.figure != "dots"
      panel.grid(
        axis="both" if is_ordered else "y", color="#DDDDDD", linewidth=0.6
      )
      panel.set_axisbelow(True)
      panel.spines[["top", "right"]].set_visible(False)
      handles, labels = panel.get_legend_handles_labels()
      if handles:
        panel.legend(
          handles,
          labels,
          fontsize=7.5,
          frameon=False,
          loc="upper center",
          bbox_to_anchor=(0.5, -0.28 if is_ordered else -0.1),
          title=title,
          title_fontsize=7.5,
          ncols=2,
        )
  return figure


def _row_styles(sheet: Sheet, paper: Paper | None) -> dict[str, int]:
  names = ["/".join(map(str, row)) for row in scores.of_sheet(sheet, {}).rows]
  for row in paper.rows if paper else ():
    names.append(row.row or row.label)
  return {name: i for i, name in enumerate(dict.fromkeys(names))}


def _draw_lines(
  panel: Axes,
  sheet: Sheet,
  known: Mapping[records.Settings, records.Filed],
  styles: Mapping[str, int],
  prefix: str = "",
) -> None:
  """Mean and a band of one standard deviation over the columns' x."""
  found = scores.of_sheet(sheet, known)
  for row in found.rows:
    points = [
      (x, entry.summary)
      for column in found.columns
      if (entry := found.entries.get((row, column))) and entry.summary
      if (x := scores.model_size(sheet, column, known)) is not None
    ]
    if not points:
      continue
    style = _line(styles["/".join(map(str, row))])
    xs = [x for x, _ in points]
    means = [summary.mean for _, summary in points]
    stds = [summary.std or 0.0 for _, summary in points]
    panel.plot(xs, means, label=prefix + tables.row_label(sheet, row), **style)
    _band(
      panel,
      xs,
      [m - s for m, s in zip(means, stds, strict=True)],
      [m + s for m, s in zip(means, stds, strict=True)],
      style,
    )
  axis = sheet.layout.columns
  names = {
    x: sheet.label(axis, column)
    for column in found.columns
    if (x := scores.model_size(sheet, column, known)) is not None
  }
  majority = scores.majority(sheet, found.columns[0])
  if names and majority is not None:
    panel.axhline(majority, label=_MAJORITY_LABEL, **_MAJORITY)
  if names:
    _size_axis(panel, sheet.layout.x_label, names)


def _band(panel: Axes, xs, low, high, style) -> None:
  panel.fill_between(
    xs, low, high, color=style["color"], alpha=0.15, linewidth=0
  )


def _size_axis(
  panel: Axes, label: str, names: Mapping[float, str] | None = None
) -> None:
  """Makes a logarithmic axis of numbers of parameters, marked where named."""
  panel.set_xscale("log")
  panel.set_xlabel(label)
  if names:
    marks = [f"{name}\n{tables.short_count(x)}" for x, name in names.items()]
    panel.set_xticks(list(names), marks)
    panel.xaxis.set_minor_locator(ticker.NullLocator())
  else:
    panel.xaxis.set_major_formatter(lambda x, position: tables.short_count(x))
    panel.xaxis.set_minor_formatter(ticker.NullFormatter())


def _draw_paper(panel: Axes, paper: Paper, styles: Mapping[str, int]) -> None:
  for row in paper.rows:
    if row.how == "elsewhere":  # In the table.
      continue
    style = _line(styles[row.row or row.label])
    points = [
      (x, y)
      for x, y in zip(paper.x, row.numbers(), strict=True)
      if y is not None
    ]
    panel.plot(*zip(*points, strict=True), label=row.label, **style)
    if row.band:
      low, high = zip(*row.band, strict=True)
      _band(panel, paper.x, low, high, style)
  _size_axis(
    panel,
    "Parameters of the T5 1.1 model",
    dict(zip(paper.x, paper.columns, strict=True)),
  )


def _draw_dots(
  panel: Axes,
  sheet: Sheet,
  known: Mapping[records.Settings, records.Filed],
  styles: Mapping[str, int],
) -> None:
  """A dot and a bar of one standard deviation for each row, by column."""
  found = scores.of_sheet(sheet, known)
  count = len(found.rows)
  for i, row in enumerate(found.rows):
    points = [
      (column + (i - (count - 1) / 2) * 0.6 / count, entry.summary)
      for column, name in enumerate(found.columns)
      if (entry := found.entries.get((row, name))) and entry.summary
    ]
    if points:
      panel.errorbar(
        [x for x, _ in points],
        [summary.mean for _, summary in points],
        yerr=[summary.std or 0.0 for _, summary in points],
        label=tables.row_label(sheet, row),
        linestyle="none",
        capsize=2,
        **_style(styles["/".join(map(str, row))]),
      )
  for column, name in enumerate(found.columns):
    majority = scores.majority(sheet, name)
    if majority is not None:
      panel.hlines(
        majority,
        column - 0.4,
        column + 0.4,
        label="" if column else _MAJORITY_LABEL,
        **_MAJORITY,
      )
  labels: Sequence[str] = [
    sheet.label(sheet.layout.columns, x) for x in found.columns
  ]
  panel.set_xticks(range(len(labels)), labels)
  panel.set_xlim(-0.5, len(labels) - 0.5)
  panel.set_ylim(bottom=min(0.0, panel.get_ylim()[0]))


def _draw_parameters(
  panel: Axes,
  sheet: Sheet,
  known: Mapping[records.Settings, records.Filed],
  styles: Mapping[str, int],
) -> None:
  """The mean over tasks by how many parameters train; a line if none does."""
  for row, entry in scores.means(sheet, known).items():
    counts = scores.trainable(sheet, row, known)
    summary = entry.summary
    if counts is None or summary is None:
      continue
    style = _style(styles["/".join(map(str, row))])
    label = tables.row_label(sheet, row)
    if counts[0] == 0:
      panel.axhline(
        summary.mean, color=style["color"], linestyle="--", label=label
      )
      continue
    panel.errorbar(
      [counts[0]],
      [summary.mean],
      yerr=[summary.std or 0.0],
      label=label,
      linestyle="none",
      capsize=2,
      **style,
    )
  _size_axis(panel, sheet.layout.x_label)


def of_shares(
  title: str, names: Mapping[float, str], shares: Mapping[str, Sequence[float]]
) -> Figure:
  """Draws which share of a model trains, as the paper's Figure 4 does.

  Args:
    title: Of the figure.
    names: Parameters of a model -> its name.
    shares: Method -> a percentage for each model.
  """
  with matplotlib.rc_context(_SETTINGS):
    width, height = _PANEL_INCHES
    figure = Figure((width * 1.4, height * 1.2), layout="constrained")
    panel = figure.subplots()
    for i, (label, values) in enumerate(shares.items()):
      panel.plot(list(names), values, label=label, **_line(i))
    panel.set_yscale("log")
    panel.yaxis.set_major_formatter(lambda y, position: f"{y:g}%")
    panel.set_ylabel("Share that trains")
    panel.set_title(title, fontsize=9)
    panel.grid(color="#DDDDDD", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    _size_axis(panel, "Parameters of the T5 1.1 model", names)
    figure.legend(
      loc="outside lower center", fontsize=7.5, frameon=False, ncols=2
    )
  return figure


def same_pixels(png: bytes, other: bytes) -> bool:
  """Whether two PNG files show the same picture."""
  a, b = (image.imread(io.BytesIO(x), format="png") for x in (png, other))
  return np.array_equal(a, b)
