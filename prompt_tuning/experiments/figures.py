"""Figures with our results in one panel and the paper's in the next.

The panels have one scale. The same records make the same bytes of SVG.
"""

from collections.abc import Mapping, Sequence
import io
import math
from typing import Any, Literal

import matplotlib
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from prompt_tuning.experiments import figure_styles, tables
from prompt_tuning.experiments.cells import AxisValue
from prompt_tuning.experiments.figure_styles import Style
from prompt_tuning.experiments.results import Results
from prompt_tuning.experiments.sheets import Paper

_DPI = 150
_SETTINGS: Any = {"svg.hashsalt": "prompt_tuning", "font.size": 9}
_WIDTH, _HEIGHT = 4.2, 3.4  # Of a panel, in inches.
_MODEL_SIZE = "Parameters of the T5 1.1 model"
_MAJORITY: Any = {
  "color": "#777777",
  "linestyle": "--",
  "linewidth": 1,
  "label": "Most frequent answer",
}
_FRONT: Any = {
  "color": "#AAAAAA",
  "linewidth": 1,
  "zorder": 0,
  "label": "None better with fewer",
}
_LEGEND: Any = {"fontsize": 7.5, "frameon": False}
_BELOW: Any = {"loc": "outside lower center", **_LEGEND}
# Numbers that span more than this are drawn on a logarithmic axis.
_LOG_SPAN = 10

_Styles = Mapping[str, Style]
# x, mean and standard deviation.
_Points = Sequence[tuple[float, float, float]]


def render(figure: Figure) -> dict[str, bytes]:
  """Returns the files of a figure: suffix -> content."""
  files = {}
  # They would differ from day to day, or between versions.
  left_out = {"svg": ["Date", "Creator"], "png": ["Software"]}
  for suffix, names in left_out.items():
    out = io.BytesIO()
    saving = {"metadata": dict.fromkeys(names), "bbox_inches": "tight"}
    with matplotlib.rc_context(_SETTINGS):
      figure.savefig(out, format=suffix, dpi=_DPI, **saving)
    files[suffix] = out.getvalue()
  return files


def draw(results: Results) -> Figure | None:
  """Draws results as their layout says.

  Args:
    results: The results of a sheet. Those of its sheet of full size, or the
      paper's numbers, make the second panel.

  Returns:
    The figure, or None if the sheet asks for no figure.
  """
  layout = results.sheet.layout
  if layout.figure is None:
    return None
  with matplotlib.rc_context(_SETTINGS):
    return _by_task(results) if layout.panels else _beside_paper(results)


def _beside_paper(results: Results) -> Figure:
  """Draws a panel of our results, and one of the paper's if there are any."""
  layout = results.sheet.layout
  paper = results.paper if results.paper and results.paper.x else None
  styles = _row_styles(results, paper)
  count = 1 + (paper is not None)
  width = _WIDTH * (1.4 if count == 1 else count)
  figure = Figure((width, _HEIGHT), layout="constrained")
  panels = figure.subplots(1, count, squeeze=False, sharey=True)[0]
  draw_ours = {"dots": _draw_dots, "parameters": _draw_parameters}
  kind = layout.figure or "lines"
  draw_ours.get(kind, _draw_lines)(panels[0], results, styles)
  panels[0].set_ylabel(layout.y_label)
  panels[0].set_title(f"Ours: {results.sheet.title}", fontsize=9)
  if paper is not None:
    if results.beside and results.beside.exist:
      _draw_lines(panels[1], results.beside, styles, "Ours: ")
    _draw_paper(panels[1], paper, styles)
    panels[1].set_title(f"The paper: {paper.source}", fontsize=9)
  if layout.figure == "lines":
    _set_window(panels[0])
  is_ordered = layout.figure != "dots"
  for panel in panels:
    _add_grid(panel, "both" if is_ordered else "y")
    is_labelled = is_ordered or panel.get_xlabel()
    if panel.get_legend_handles_labels()[1]:
      panel.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.28 if is_labelled else -0.1),
        title=tables.heading(layout.rows),
        title_fontsize=7.5,
        ncols=2,
        **_LEGEND,
      )
  return figure


def _by_task(results: Results) -> Figure:
  """Draws a panel of lines for each task, and the last one for their mean."""
  sheet, layout = results.sheet, results.sheet.layout
  styles = _row_styles(results, None)
  tasks = results.view.frame["task"].unique()
  count = len(tasks) + 1
  columns = min(3, count)
  rows = -(-count // columns)
  size = (_WIDTH * 0.8 * columns, _HEIGHT * 0.75 * rows)
  figure = Figure(size, layout="constrained")
  panels = figure.subplots(
    rows, columns, squeeze=False, sharex=True, sharey=True
  )
  drawn = panels.flat[:count]
  for task, panel in zip(tasks, drawn, strict=False):
    _draw_lines(panel, results, styles, task=task)
    panel.set_title(sheet.label(layout.mean_over or "", task), fontsize=9)
  _draw_lines(drawn[-1], results, styles)
  drawn[-1].set_title("Mean", fontsize=9)
  _set_window(drawn[0])
  for panel in drawn:
    _add_grid(panel)
    panel.label_outer()
  for panel in panels.flat[count:]:
    panel.set_visible(False)
  for row in panels:
    row[0].set_ylabel(layout.y_label)
  figure.suptitle(f"Ours: {sheet.title}", fontsize=9)
  named = {
    label: handle
    for panel in drawn
    for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
  }
  figure.legend(list(named.values()), list(named), ncols=3, **_BELOW)
  return figure


def draw_shares(
  sizes: Mapping[int, str],
  shares: Mapping[str, tuple[str, Sequence[float]]],
  title: str,
) -> Figure:
  """Draws which share of a model trains, as the paper's Figure 4 does.

  Args:
    sizes: Number of parameters of each model -> its label.
    shares: Method -> its label, and the share of each model in percent.
    title: Of the figure.
  """
  styles = figure_styles.styles({x: x for x in shares})
  with matplotlib.rc_context(_SETTINGS):
    figure = Figure((_WIDTH * 1.4, _HEIGHT * 1.2), layout="constrained")
    panel = figure.subplots()
    for method, (label, values) in shares.items():
      panel.plot(list(sizes), values, label=label, **styles[method].line)
    panel.set_yscale("log")
    panel.yaxis.set_major_formatter(lambda y, position: f"{y:g}%")
    panel.set_ylabel("Share that trains")
    panel.set_title(title, fontsize=9)
    _add_grid(panel)
    _size_axis(panel, _MODEL_SIZE, sizes)
    figure.legend(ncols=2, **_BELOW)
  return figure


def _row_styles(results: Results, paper: Paper | None) -> dict[str, Style]:
  """Returns the style of each row, ours or the paper's."""
  methods: dict[str, str] = {}
  for some in filter(None, (results, results.beside)):
    frame = some.view.frame
    for row, method in zip(frame["row"], frame["style"], strict=True):
      methods.setdefault(row, method)
  for row in paper.rows if paper else ():
    if row.how != "elsewhere":
      name = row.row or row.label
      # Where the rows are no methods, they are variants of ours.
      is_method = "method" in results.sheet.layout.rows
      one = results.runs[0].cell.method
      methods.setdefault(name, name if is_method else one)
  return figure_styles.styles(methods)


def _draw_lines(
  panel: Axes,
  results: Results,
  styles: _Styles,
  prefix: str = "",
  task: AxisValue | None = None,
) -> None:
  """Draws means, and a band of one standard deviation, over the columns' x.

  Args:
    panel: Gets the x axis too, and the line of the most frequent answer.
    results: Of a sheet.
    styles: Of the rows.
    prefix: Of the rows' labels.
    task: The task that is drawn; by default the mean over tasks.
  """
  sheet, layout, label = results.sheet, results.sheet.layout, None
  if task is not None:
    label = sheet.label(layout.mean_over or "", task)
  for row, name in results.row_labels().items():
    if points := results.line(row, label):
      xs, means, stds = map(list, zip(*points, strict=True))
      panel.plot(xs, means, label=prefix + name, **styles[row].line)
      band = np.subtract(means, stds), np.add(means, stds)
      panel.fill_between(xs, *band, **styles[row].band)
  names = {x: results.column_label(k) for k, x in results.xs.items()}
  if not names:
    return
  majority = results.majority(results.view.columns[0])
  if task is not None:
    majority = sheet.value(layout.mean_over or "", task).majority
  if majority is not None:
    panel.axhline(majority, **_MAJORITY)
  if not results.columns_are_numbers:
    _size_axis(panel, layout.x_label, names)
    return
  if min(names) > 0 and max(names) >= _LOG_SPAN * min(names):
    panel.set_xscale("log")
  panel.set_xlabel(layout.x_label or layout.columns.capitalize())
  panel.set_xticks(list(names), list(names.values()))
  panel.xaxis.set_minor_locator(ticker.NullLocator())


def _draw_paper(panel: Axes, paper: Paper, styles: _Styles) -> None:
  for row in paper.rows:
    if row.how == "elsewhere":  # In the table.
      continue
    style = styles[row.row or row.label]
    numbers = dict(zip(paper.x, row.numbers(), strict=True))
    known = {x: y for x, y in numbers.items() if y is not None}
    panel.plot(list(known), list(known.values()), label=row.label, **style.line)
    if row.band:
      low, high = zip(*row.band, strict=True)
      panel.fill_between(paper.x, low, high, **style.band)
  _size_axis(panel, _MODEL_SIZE, dict(zip(paper.x, paper.columns, strict=True)))


def _draw_dots(panel: Axes, results: Results, styles: _Styles) -> None:
  """Draws a dot and a bar of one standard deviation, by column and row."""
  view, columns = results.view, results.view.columns
  shown: list[float] = []
  others: list[float] = []
  frozen = []
  for i, (row, label) in enumerate(results.row_labels().items()):
    shift = (i - (len(view.rows) - 1) / 2) * 0.6 / len(view.rows)
    xs = {column: x + shift for x, column in enumerate(columns)}
    points = results.line(row, xs=xs)
    _draw_dots_of(panel, points, label, styles[row])
    bars = [y for _, mean, bar in points for y in (mean - bar, mean + bar)]
    if (view.trainable(row) or (1,))[0] == 0:
      frozen += [(x, mean, styles[row].color) for x, mean, _ in points]
      others += bars
    else:
      shown += bars
  shown = shown or others  # No row trains where all evaluate trained prompts.
  known = ((i, results.majority(x)) for i, x in enumerate(columns))
  majorities = {i: score for i, score in known if score is not None}
  if majorities:
    shown += majorities.values()
    panel.hlines(
      list(majorities.values()),
      [column - 0.4 for column in majorities],
      [column + 0.4 for column in majorities],
      **_MAJORITY,
    )
  _set_window(panel, shown)
  bottom = panel.get_ylim()[0]
  for x, score, color in frozen:
    if score < bottom:  # An invalid answer must not stretch the axis.
      panel.annotate(
        f"{score:.0f}",
        (x, bottom),
        (0, 11),
        textcoords="offset points",
        arrowprops={"arrowstyle": "->", "color": color},
        color=color,
        ha="center",
        fontsize=7.5,
      )
  panel.set_xlabel(results.sheet.layout.x_label)
  panel.set_xticks(range(len(columns)), [*map(results.column_label, columns)])
  panel.set_xlim(-0.5, len(columns) - 0.5)


def _draw_dots_of(
  panel: Axes, points: _Points, label: str, style: Style
) -> None:
  """Draws points without a line between them."""
  if points:
    xs, means, stds = map(list, zip(*points, strict=True))
    dot = {"linestyle": "none", "capsize": 2, **style.dot}
    panel.errorbar(xs, means, yerr=stds, label=label, **dot)


def _draw_parameters(panel: Axes, results: Results, styles: _Styles) -> None:
  """Draws means over tasks by how many parameters train; a line for none.

  A line joins the methods that no other one beats with fewer parameters.
  """
  view, shown, points = results.view, [], []
  for row, label in results.row_labels().items():
    counts, place = view.trainable(row), view.means[row]
    if counts is None or not place.scores:
      continue
    mean, std, style = place.mean, place.bar, styles[row]
    if counts[0] == 0:
      label = f"{label}, {mean:.1f}"
      panel.axhline(mean, color=style.color, linestyle=":", label=label)
      continue
    shown += [mean - std, mean + std]
    points.append((counts[0], mean))
    _draw_dots_of(panel, [(counts[0], mean, std)], label, style)
  front = [
    (n, x) for n, x in points if x == max(b for a, b in points if a <= n)
  ]
  panel.plot(*zip(*sorted(front), strict=True), **_FRONT)
  majorities = [results.majority(x) for x in view.columns]
  known = [x for x in majorities if x is not None]
  if len(known) == len(majorities):
    shown.append(sum(known) / len(known))
    panel.axhline(shown[-1], **_MAJORITY)
  _set_window(panel, shown)
  if points:  # A logarithmic axis of nothing cannot be drawn.
    _size_axis(panel, results.sheet.layout.x_label)


def _add_grid(panel: Axes, axis: Literal["both", "y"] = "both") -> None:
  """Adds a grid behind the data, in the place of a frame."""
  panel.grid(axis=axis, color="#DDDDDD", linewidth=0.6)
  panel.set_axisbelow(True)
  panel.spines[["top", "right"]].set_visible(False)


def _set_window(panel: Axes, values: Sequence[float] = ()) -> None:
  """Ends a score axis at tens.

  It starts at 0, unless a score is below that, or all are so high that half of
  the axis would be empty.

  Args:
    panel: With the drawn scores.
    values: The scores to show; by default, all that the panel has.
  """
  low, high = panel.get_ylim()
  if values:
    margin = 0.04 * (max(values) - min(values)) + 1
    low, high = min(values) - margin, max(values) + margin
  bottom = 10 * math.floor(low / 10)
  lines = [line for x in panel.figure.axes for line in x.lines]
  drawn = values or [y for line in lines for y in np.asarray(line.get_ydata())]
  if bottom <= 10 and min(drawn, default=0) >= 0:
    bottom = 0
  # A marker at 100 is drawn whole.
  top = min(101, 10 * math.ceil(high / 10))
  panel.set_ylim(bottom, top)


def _size_axis(
  panel: Axes, label: str, names: Mapping[Any, str] | None = None
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
