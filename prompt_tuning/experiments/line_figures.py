"""Figures of lines: score against size, length or steps, and bands of seeds."""

from collections.abc import Mapping, Sequence
import math
from typing import Any, Literal

import matplotlib
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from prompt_tuning.experiments import figure_styles, tables
from prompt_tuning.experiments.entries import Row
from prompt_tuning.experiments.figure_styles import Style
from prompt_tuning.experiments.papers import Paper
from prompt_tuning.experiments.results import Point, Results

MAJORITY_LABEL = "Most frequent answer"
MAJORITY: Any = {"color": "#777777", "linestyle": "--", "linewidth": 1}
SETTINGS: Any = {"svg.hashsalt": "prompt_tuning", "font.size": 9}
PANEL_INCHES = (4.2, 3.4)
# Numbers that span more than this are drawn on a logarithmic axis.
_LOG_SPAN = 10

Styles = Mapping[str, Style]


def by_task(results: Results) -> Figure:
  """Draws a panel of lines for each task, and the last one for their mean."""
  sheet, layout = results.sheet, results.sheet.layout
  axis = layout.mean_over or ""
  styles = styles_of(results, None)
  tasks = list(dict.fromkeys(run.cell.point[axis] for run in results.views))
  columns = min(3, len(tasks) + 1)
  rows = -(-(len(tasks) + 1) // columns)
  width, height = PANEL_INCHES
  with matplotlib.rc_context(SETTINGS):
    figure = Figure(
      (width * 0.8 * columns, height * 0.75 * rows), layout="constrained"
    )
    panels = figure.subplots(
      rows, columns, squeeze=False, sharex=True, sharey=True
    )
    drawn, left = panels.flat[: len(tasks) + 1], panels.flat[len(tasks) + 1 :]
    for task, panel in zip(tasks, drawn, strict=False):
      label = sheet.label(axis, task)
      for row in results.rows:
        points = results.line(row, label)
        _draw_line(panel, points, results.row_label(row), styles[key(row)])
      _finish(panel, results, sheet.value(axis, task).majority)
      panel.set_title(label, fontsize=9)
    draw(drawn[-1], results, styles)
    drawn[-1].set_title("Mean", fontsize=9)
    set_window(drawn[0])
    for panel in drawn:
      add_grid(panel)
      panel.label_outer()
    for panel in left:
      panel.set_visible(False)
    for row in panels:
      row[0].set_ylabel(layout.y_label)
    figure.suptitle(f"Ours: {sheet.title}", fontsize=9)
    named = {
      label: handle
      for panel in drawn
      for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
      list(named.values()),
      list(named),
      loc="outside lower center",
      fontsize=7.5,
      frameon=False,
      ncols=3,
    )
  return figure


def add_grid(panel: Axes, axis: Literal["both", "y"] = "both") -> None:
  """Adds a grid behind what is drawn, in the place of a frame."""
  panel.grid(axis=axis, color="#DDDDDD", linewidth=0.6)
  panel.set_axisbelow(True)
  panel.spines[["top", "right"]].set_visible(False)


def key(row: Row) -> str:
  """Names a row among styles."""
  return "/".join(map(str, row))


def styles_of(results: Results, paper: Paper | None) -> dict[str, Style]:
  """Row, ours or the paper's -> style."""
  methods: dict[str, str] = {}
  for some in filter(None, (results, results.beside)):
    for run in some.views:
      methods.setdefault(key(some.row_of(run.cell)), run.cell.method)
  for row in paper.rows if paper else ():
    if row.how != "elsewhere":
      name = row.row or row.label
      # Where the rows are no methods, they are variants of ours.
      is_method = "method" in results.sheet.layout.rows
      one = results.runs[0].cell.method
      methods.setdefault(name, name if is_method else one)
  return figure_styles.of_rows(methods)


def set_window(panel: Axes, values: Sequence[float] = ()) -> None:
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


def draw(
  panel: Axes, results: Results, styles: Styles, prefix: str = ""
) -> None:
  """Mean and a band of one standard deviation over the columns' x."""
  for row in results.rows:
    label = prefix + results.row_label(row)
    _draw_line(panel, results.line(row), label, styles[key(row)])
  majority = results.majority(results.columns[0]) if results.xs else None
  _finish(panel, results, majority)


def _draw_line(
  panel: Axes, points: Sequence[Point], label: str, style: Style
) -> None:
  if not points:
    return
  xs = [point.x for point in points]
  means = [point.summary.mean for point in points]
  stds = [point.summary.std or 0.0 for point in points]
  panel.plot(xs, means, label=label, **style.line)
  low = [m - s for m, s in zip(means, stds, strict=True)]
  high = [m + s for m, s in zip(means, stds, strict=True)]
  band(panel, xs, low, high, style)


def _finish(panel: Axes, results: Results, majority: float | None) -> None:
  """Adds the line of the most frequent answer, and the x axis."""
  names = {x: results.column_label(k) for k, x in results.xs.items()}
  if not names:
    return
  if majority is not None:
    panel.axhline(majority, label=MAJORITY_LABEL, **MAJORITY)
  layout = results.sheet.layout
  if results.columns_are_numbers:
    _number_axis(panel, layout.x_label or layout.columns.capitalize(), names)
  else:
    size_axis(panel, layout.x_label, names)


def band(
  panel: Axes,
  xs: Sequence[float],
  low: Sequence[float],
  high: Sequence[float],
  style: Style,
) -> None:
  """Draws what lies between two lines."""
  panel.fill_between(xs, low, high, color=style.color, alpha=0.15, linewidth=0)


def _number_axis(panel: Axes, label: str, names: Mapping[float, str]) -> None:
  """Makes an axis of numbers, marked where there are runs."""
  if min(names) > 0 and max(names) >= _LOG_SPAN * min(names):
    panel.set_xscale("log")
  panel.set_xlabel(label)
  panel.set_xticks(list(names), list(names.values()))
  panel.xaxis.set_minor_locator(ticker.NullLocator())


def size_axis(
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
