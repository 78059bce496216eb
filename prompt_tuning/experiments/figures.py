"""Figures: ours in one panel, the paper's in the next, on one scale.

The same records make the same bytes of SVG.
"""

from collections.abc import Callable, Mapping, Sequence
import io

import matplotlib
from matplotlib import image
from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from prompt_tuning.experiments import figure_styles, line_figures
from prompt_tuning.experiments.entries import Row
from prompt_tuning.experiments.figure_styles import Style
from prompt_tuning.experiments.papers import Paper
from prompt_tuning.experiments.results import Results

_DPI = 150
_MODEL_SIZE = "Parameters of the T5 1.1 model"


def render(figure: Figure) -> dict[str, bytes]:
  """Returns the files of a figure: suffix -> content."""
  files = {}
  for suffix, metadata in (
    ("svg", {"Date": None, "Creator": None}),
    ("png", {"Software": None}),
  ):
    out = io.BytesIO()
    with matplotlib.rc_context(line_figures.SETTINGS):
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
  if layout.panels:
    return line_figures.by_task(results)
  draw: Callable[[Axes, Results, line_figures.Styles], None] = {
    "lines": line_figures.draw,
    "dots": _draw_dots,
    "parameters": _draw_parameters,
  }[layout.figure]
  paper = results.paper if results.paper and results.paper.x else None
  styles = line_figures.styles_of(results, paper)
  width, height = line_figures.PANEL_INCHES
  count = 1 + (paper is not None)
  with matplotlib.rc_context(line_figures.SETTINGS):
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
        line_figures.draw(panels[1], beside, styles, "Ours: ")
      _draw_paper(panels[1], paper, styles)
      panels[1].set_title(f"The paper: {paper.source}", fontsize=9)
    if layout.figure == "lines":
      line_figures.set_window(panels[0])
    for panel in panels:
      _finish(panel, results, is_ordered=layout.figure != "dots")
  return figure


def _finish(panel: Axes, results: Results, is_ordered: bool) -> None:
  """Adds the grid and the legend."""
  line_figures.add_grid(panel, "both" if is_ordered else "y")
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


def _draw_paper(panel: Axes, paper: Paper, styles: line_figures.Styles) -> None:
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
      line_figures.band(panel, paper.x, low, high, style)
  line_figures.size_axis(
    panel, _MODEL_SIZE, dict(zip(paper.x, paper.columns, strict=True))
  )


def _draw_dots(
  panel: Axes, results: Results, styles: line_figures.Styles
) -> None:
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
    style = styles[line_figures.key(row)]
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
  majorities = {
    column: score
    for column, name in enumerate(columns)
    if (score := results.majority(name)) is not None
  }
  if majorities:
    shown += majorities.values()
    panel.hlines(
      list(majorities.values()),
      [column - 0.4 for column in majorities],
      [column + 0.4 for column in majorities],
      label=line_figures.MAJORITY_LABEL,
      **line_figures.MAJORITY,
    )
  line_figures.set_window(panel, shown)
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


def _draw_parameters(
  panel: Axes, results: Results, styles: line_figures.Styles
) -> None:
  """The mean over tasks by how many parameters train; a line if none does."""
  shown = []
  for row, entry in results.means.items():
    counts, summary = results.trainable(row), entry.summary
    if counts is None or summary is None:
      continue
    style, label = styles[line_figures.key(row)], results.row_label(row)
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
    panel.axhline(
      shown[-1], label=line_figures.MAJORITY_LABEL, **line_figures.MAJORITY
    )
  line_figures.set_window(panel, shown)
  line_figures.size_axis(panel, results.sheet.layout.x_label)


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
  with matplotlib.rc_context(line_figures.SETTINGS):
    width, height = line_figures.PANEL_INCHES
    figure = Figure((width * 1.4, height * 1.2), layout="constrained")
    panel = figure.subplots()
    for method, values in shares.items():
      label = labels[method]
      panel.plot(list(names), values, label=label, **styles[method].line)
    panel.set_yscale("log")
    panel.yaxis.set_major_formatter(lambda y, position: f"{y:g}%")
    panel.set_ylabel("Share that trains")
    panel.set_title(title, fontsize=9)
    line_figures.add_grid(panel)
    line_figures.size_axis(panel, _MODEL_SIZE, names)
    figure.legend(
      loc="outside lower center", fontsize=7.5, frameon=False, ncols=2
    )
  return figure


def same_pixels(png: bytes, other: bytes) -> bool:
  """Whether two PNG files show the same picture."""
  a, b = (image.imread(io.BytesIO(x), format="png") for x in (png, other))
  return np.array_equal(a, b)
