"""Figures: ours in one panel, the paper's in the next, on one scale.

The same records make the same bytes of SVG.
"""

from collections.abc import Callable, Mapping, Sequence
import io
import math
from typing import Any

import matplotlib
from matplotlib import image, ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from prompt_tuning.experiments import figure_styles, tables
from prompt_tuning.experiments.figure_styles import Style
from prompt_tuning.experiments.papers import Paper
from prompt_tuning.experiments.results import Results, Row

_MAJORITY_LABEL = "Most frequent answer"
_MAJORITY: Any = {"color": "#777777", "linestyle": "--", "linewidth": 1}
_SETTINGS: Any = {"svg.hashsalt": "prompt_tuning", "font.size": 9}
_PANEL_INCHES = (4.2, 3.4)
_DPI = 150
# Numbers that span more than this are drawn on a logarithmic axis.
_LOG_SPAN = 10
_MODEL_SIZE = "Parameters of the T5 1.1 model"

_Styles = Mapping[str, Style]


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


def of_results(results: Results) -> Figure | None:
  """Draws results as their layout says.

  Args:
    results: Of a sheet. The results of its sheet of full size, or the paper's
      numbers, make the second panel.

  Returns:
    The figure, or None if the sheet asks for none.
  """
  layout = results.sheet.layout
  if layout.figure is None:
    return None
  draw: Callable[[Axes, Results, _Styles], None] = {
    "lines": _draw_lines,
    "dots": _draw_dots,
    "parameters": _draw_parameters,
  }[layout.figure]
  paper = results.paper if results.paper and results.paper.x else None
  styles = _styles(results, paper)
  width, height = _PANEL_INCHES
  count = 1 + (paper is not None)
  with matplotlib.rc_context(_SETTINGS):
    figure = Figure(
      (width * (1.4 if count == 1 else count), height), layout="constrained"
    )
    panels = figure.subplots(1, count, squeeze=False, sharey=True)[0]
    draw(panels[0], results, styles)
    panels[0].set_ylabel(layout.y_label)
    panels[0].set_title(f"Ours: {results.sheet.title}", fontsize=9)
    if paper is not None:
      beside = results.beside
      if beside and beside.some:
        _draw_lines(panels[1], beside, styles, "Ours: ")
      _draw_paper(panels[1], paper, styles)
      panels[1].set_title(f"The paper: {paper.source}", fontsize=9)
    if layout.figure == "lines":
      _set_window(panels[0])
    for panel in panels:
      _finish(panel, results, is_ordered=layout.figure != "dots")
  return figure


def _finish(panel: Axes, results: Results, is_ordered: bool) -> None:
  """Adds the grid and the legend."""
  panel.grid(axis="both" if is_ordered else "y", color="#DDDDDD", linewidth=0.6)
  panel.set_axisbelow(True)
  panel.spines[["top", "right"]].set_visible(False)
  if panel.get_legend_handles_labels()[1]:
    rows = results.sheet.layout.rows
    panel.legend(
      fontsize=7.5,
      frameon=False,
      loc="upper center",
      bbox_to_anchor=(0.5, -0.28 if is_ordered else -0.1),
      title=" and ".join(rows).capitalize().replace("_", " "),
      title_fontsize=7.5,
      ncols=2,
    )


def _key(row: Row) -> str:
  return "/".join(map(str, row))


def _styles(results: Results, paper: Paper | None) -> dict[str, Style]:
  """Row, ours or the paper's -> style."""
  methods: dict[str, str] = {}
  for some in filter(None, (results, results.beside)):
    for run in some.views:
      methods.setdefault(_key(some.row_of(run.cell)), run.cell.method)
  for row in paper.rows if paper else ():
    if row.how != "elsewhere":
      name = row.row or row.label
      # Where the rows are no methods, they are variants of ours.
      is_method = "method" in results.sheet.layout.rows
      one = results.runs[0].cell.method
      methods.setdefault(name, name if is_method else one)
  return figure_styles.of_rows(methods)


def _set_window(panel: Axes, values: Sequence[float] = ()) -> None:
  """Ends a score axis at tens.

  It begins at 0 unless all that it has to show is well above: half of it would
  be empty then.

  Args:
    panel: With what it has to show.
    values: What it has to show, in the place of all that was drawn.
  """
  low, high = panel.get_ylim()
  if values:
    margin = 0.04 * (max(values) - min(values)) + 1
    low, high = min(values) - margin, max(values) + margin
  bottom = 10 * math.floor(low / 10)
  # A marker at 100 is drawn whole.
  top = min(101, 10 * math.ceil(high / 10))
  panel.set_ylim(0 if bottom <= 10 else bottom, top)


def _draw_lines(
  panel: Axes, results: Results, styles: _Styles, prefix: str = ""
) -> None:
  """Mean and a band of one standard deviation over the columns' x."""
  for row in results.rows:
    points = results.line(row)
    if not points:
      continue
    style = styles[_key(row)]
    xs = [point.x for point in points]
    means = [point.summary.mean for point in points]
    stds = [point.summary.std or 0.0 for point in points]
    label = prefix + results.row_label(row)
    panel.plot(xs, means, label=label, **style.line)
    low = [m - s for m, s in zip(means, stds, strict=True)]
    high = [m + s for m, s in zip(means, stds, strict=True)]
    _band(panel, xs, low, high, style)
  names = {x: results.column_label(k) for k, x in results.xs.items()}
  if not names:
    return
  majority = results.majority(results.columns[0])
  if majority is not None:
    panel.axhline(majority, label=_MAJORITY_LABEL, **_MAJORITY)
  layout = results.sheet.layout
  if results.columns_are_numbers:
    _number_axis(panel, layout.x_label or layout.columns.capitalize(), names)
  else:
    _size_axis(panel, layout.x_label, names)


def _band(
  panel: Axes,
  xs: Sequence[float],
  low: Sequence[float],
  high: Sequence[float],
  style: Style,
) -> None:
  panel.fill_between(xs, low, high, color=style.color, alpha=0.15, linewidth=0)


def _number_axis(panel: Axes, label: str, names: Mapping[float, str]) -> None:
  """Makes an axis of numbers, marked where there are runs."""
  if min(names) > 0 and max(names) >= _LOG_SPAN * min(names):
    panel.set_xscale("log")
  panel.set_xlabel(label)
  panel.set_xticks(list(names), list(names.values()))
  panel.xaxis.set_minor_locator(ticker.NullLocator())


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


def _draw_paper(panel: Axes, paper: Paper, styles: _Styles) -> None:
  for row in paper.rows:
    if row.how == "elsewhere":  # In the table.
      continue
    style = styles[row.row or row.label]
    points = [
      (x, y)
      for x, y in zip(paper.x, row.numbers(), strict=True)
      if y is not None
    ]
    panel.plot(*zip(*points, strict=True), label=row.label, **style.line)
    if row.band:
      low, high = zip(*row.band, strict=True)
      _band(panel, paper.x, low, high, style)
  _size_axis(panel, _MODEL_SIZE, dict(zip(paper.x, paper.columns, strict=True)))


def _draw_dots(panel: Axes, results: Results, styles: _Styles) -> None:
  """A dot and a bar of one standard deviation for each row, by column."""
  count, columns = len(results.rows), results.columns
  shown, frozen = [], []
  for i, row in enumerate(results.rows):
    points = [
      (column + (i - (count - 1) / 2) * 0.6 / count, entry.summary)
      for column, name in enumerate(columns)
      if (entry := results.entries.get((row, name))) and entry.summary
    ]
    if not points:
      continue
    style = styles[_key(row)]
    means = [summary.mean for _, summary in points]
    stds = [summary.std or 0.0 for _, summary in points]
    panel.errorbar(
      [x for x, _ in points],
      means,
      yerr=stds,
      label=results.row_label(row),
      linestyle="none",
      capsize=2,
      **style.dot,
    )
    if _trains_nothing(results, row):
      frozen += [(x, summary.mean, style) for x, summary in points]
    else:
      shown += [m - s for m, s in zip(means, stds, strict=True)]
      shown += [m + s for m, s in zip(means, stds, strict=True)]
  for column, name in enumerate(columns):
    majority = results.majority(name)
    if majority is not None:
      shown.append(majority)
      panel.hlines(
        majority,
        column - 0.4,
        column + 0.4,
        label="" if column else _MAJORITY_LABEL,
        **_MAJORITY,
      )
  _set_window(panel, shown)
  for x, score, style in frozen:
    _mark_below(panel, x, score, style)
  panel.set_xticks(range(len(columns)), [*map(results.column_label, columns)])
  panel.set_xlim(-0.5, len(columns) - 0.5)


def _trains_nothing(results: Results, row: Row) -> bool:
  counts = results.trainable(row)
  return counts is not None and counts[0] == 0


def _mark_below(panel: Axes, x: float, score: float, style: Style) -> None:
  """Points down at a score that lies below the axis, and writes it there.

  A frozen model that answers with no label at all would push what is compared
  into the upper part of the axis.
  """
  bottom = panel.get_ylim()[0]
  if score >= bottom:
    return
  panel.annotate(
    f"{score:.0f}",
    (x, bottom),
    (0, 11),
    textcoords="offset points",
    arrowprops={"arrowstyle": "->", "color": style.color},
    color=style.color,
    ha="center",
    fontsize=7.5,
  )


def _draw_parameters(panel: Axes, results: Results, styles: _Styles) -> None:
  """The mean over tasks by how many parameters train; a line if none does."""
  shown = []
  for row, entry in results.means.items():
    counts, summary = results.trainable(row), entry.summary
    if counts is None or summary is None:
      continue
    style, label = styles[_key(row)], results.row_label(row)
    if counts[0] == 0:
      label = f"{label}, {summary.mean:.1f}"
      panel.axhline(summary.mean, color=style.color, linestyle=":", label=label)
      continue
    std = summary.std or 0.0
    shown += [summary.mean - std, summary.mean + std]
    panel.errorbar(
      [counts[0]],
      [summary.mean],
      yerr=[std],
      label=label,
      linestyle="none",
      capsize=2,
      **style.dot,
    )
  majorities = [results.majority(x) for x in results.columns]
  known = [x for x in majorities if x is not None]
  if len(known) == len(majorities):
    shown.append(sum(known) / len(known))
    panel.axhline(shown[-1], label=_MAJORITY_LABEL, **_MAJORITY)
  _set_window(panel, shown)
  _size_axis(panel, results.sheet.layout.x_label)


def of_shares(
  title: str,
  names: Mapping[float, str],
  shares: Mapping[str, Sequence[float]],
  labels: Mapping[str, str],
) -> Figure:
  """Draws which share of a model trains, as the paper's Figure 4 does.

  Args:
    title: Of the figure.
    names: Parameters of a model -> its name.
    shares: Method -> a percentage for each model.
    labels: Method -> what it is called.
  """
  styles = figure_styles.of_rows({method: method for method in shares})
  with matplotlib.rc_context(_SETTINGS):
    width, height = _PANEL_INCHES
    figure = Figure((width * 1.4, height * 1.2), layout="constrained")
    panel = figure.subplots()
    for method, values in shares.items():
      label = labels[method]
      panel.plot(list(names), values, label=label, **styles[method].line)
    panel.set_yscale("log")
    panel.yaxis.set_major_formatter(lambda y, position: f"{y:g}%")
    panel.set_ylabel("Share that trains")
    panel.set_title(title, fontsize=9)
    panel.grid(color="#DDDDDD", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    _size_axis(panel, _MODEL_SIZE, names)
    figure.legend(
      loc="outside lower center", fontsize=7.5, frameon=False, ncols=2
    )
  return figure


def same_pixels(png: bytes, other: bytes) -> bool:
  """Whether two PNG files show the same picture."""
  a, b = (image.imread(io.BytesIO(x), format="png") for x in (png, other))
  return np.array_equal(a, b)
