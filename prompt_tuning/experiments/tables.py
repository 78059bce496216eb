"""Tables of texts, and lines of CSV, from the frames of results."""

from collections.abc import Collection, Iterable, Iterator
import itertools
import math
import statistics
from typing import Any

import pandas as pd

from prompt_tuning.experiments.results import (
  NO_SEED,
  Place,
  Results,
  View,
  row_key,
)
from prompt_tuning.experiments.sheets import Paper, Sheet
from prompt_tuning.experiments.text_tables import Table

# How a number of a paper is known.
HOW = {
  "printed": "printed",
  "figure": "read off the figure",
  "elsewhere": "printed there",
}
CSV_HEADER = ("source", "sheet", "row", "column", "mean", "std", "n")
# A place with no score.
NONE = "-"
_MAJORITY = "Most frequent answer"


def table(results: Results, at_end: bool = False) -> Table:
  """Writes results as their layout says.

  Args:
    results: Of a sheet.
    at_end: Whether a run's last evaluation counts, not its best. For scores.
  """
  kind = results.sheet.layout.kind
  if kind == "ensemble":
    return _ensemble_table(results)
  if kind == "tasks":
    return _probe_table(results)
  view = results.grouped(at_end=True) if at_end else results.view
  return _score_table(results, view)


def short_count(count: float) -> str:
  """Writes 76961152 as 77M."""
  rounded = float(f"{count:.3g}")
  for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
    if rounded >= unit:
      return f"{rounded / unit:.3g}{letter}"
  return f"{count:g}"


def _score_table(results: Results, view: View) -> Table:
  """Writes the scores of a sheet: mean ± standard deviation (n)."""
  layout = results.sheet.layout
  rows = _score_rows(results, view)
  header = [
    heading(view.axes),
    *map(results.column_label, view.columns),
  ]
  if layout.figure == "lines" and not results.columns_are_numbers:
    for i, x in enumerate(view.columns, 1):  # With the model's parameters.
      if (size := results.xs.get(x)) is not None:
        header[i] += f", {short_count(size)}"
  known = [results.majority(x) for x in view.columns]
  majorities = [x for x in known if x is not None]
  if layout.mean_column:
    header.append("Mean")
    means = map(_place_text, view.means.values())
    for texts, mean in itertools.zip_longest(rows, means, fillvalue=""):
      texts.append(mean)
    majorities += [statistics.fmean(majorities)] if majorities else []
  has_majorities = len(majorities) == len(header) - 1
  if layout.costs:
    header[1:1] = ["Step, ms", "Peak memory, MB"]
    costs = [_cost_texts(view, row) for row in view.rows]
    for texts, cost in itertools.zip_longest(rows, costs, fillvalue=["", ""]):
      texts[1:1] = cost
  if layout.parameters:
    header[1:1] = ["Trainable", "Share"]
    shares = map(_share_texts, map(view.trainable, view.rows))
    for texts, share in itertools.zip_longest(rows, shares, fillvalue=["", ""]):
      texts[1:1] = share
  if has_majorities:
    blank = [""] * (len(header) - 1 - len(majorities))
    rows.insert(0, [_MAJORITY, *blank, *(f"{x:.1f}" for x in majorities)])
  return Table(header, rows)


def _score_rows(results: Results, view: View) -> list[list[str]]:
  """Writes the rows of a table, then the gaps that the layout asks for."""
  rows = [
    [
      results.label(view.axes, row),
      *(_place_text(view.places.get((key, x))) for x in view.columns),
    ]
    for key, row in view.rows.items()
  ]
  label = results.sheet.label
  for upper, lower in view.pairs(results.sheet.layout.gaps):
    if gap := view.gap(upper, lower):
      both = [*zip(view.axes, view.rows[upper], view.rows[lower], strict=True)]
      [name] = [f"{label(x, a)} - {label(x, b)}" for x, a, b in both if a != b]
      shared = [label(axis, a) for axis, a, b in both if a == b]
      texts = [
        _score_text(*gap[x], sign="+") if x in gap else NONE
        for x in view.columns
      ]
      rows.append([", ".join([f"Gap: {name}", *shared]), *texts])
  return rows


def _place_text(place: Place | None) -> str:
  if place is not None and place.scores:
    return _score_text(place.mean, place.std, len(place.scores))
  return "failed" if place is not None and place.failed else NONE


def _score_text(mean: float, std: float, n: int, sign: str = "") -> str:
  """Writes mean ± standard deviation (n)."""
  spread = "" if math.isnan(std) else f" ± {std:.1f}"
  return f"{mean:{sign}.1f}{spread} ({n})"


def _share_texts(counts: tuple[int, int] | None) -> list[str]:
  """Writes how many parameters train, and their share."""
  if counts is None:
    return [NONE, NONE]
  count, total = counts
  return [f"{count:,}", f"{100 * count / max(total, 1):.3g}%"]


def _cost_texts(view: View, row: str) -> list[str]:
  """Writes the time of a step of a row's runs, and their peak memory."""
  step = 1_000 * view.median(row, "step_seconds")
  size = view.median(row, "bytes") / 1e6
  return [
    NONE if math.isnan(step) else f"{step:,.1f}",
    NONE if math.isnan(size) else f"{size:,.0f}",
  ]


def heading(axes: list[str]) -> str:
  """Returns the heading of the rows over some axes."""
  return " and ".join(axes).capitalize().replace("_", " ")


def _ensembles(results: Results) -> pd.DataFrame:
  """Returns average, best and ensemble of each task's prompts.

  Values are NaN if prompts, or the ensemble, are missing.
  """
  frame = results.view.frame.astype({"score": float})
  is_ensemble = frame["seed"] == NO_SEED
  prompts = frame[~is_ensemble].groupby("row", sort=False)["score"]
  complete = prompts.count() == prompts.size()
  ensembles = frame[is_ensemble].groupby("row", sort=False)["score"]
  found = {
    "average": prompts.mean().where(complete),
    "best": prompts.max().where(complete),
    "ensemble": ensembles.first(),
  }
  return pd.DataFrame(found).reindex(list(results.view.rows))


def _ensemble_table(results: Results) -> Table:
  """Writes average, best and ensemble as the paper's Table 3 does."""
  found = _ensembles(results).rename(index=results.row_labels())
  if len(found) and not found.isna().any(axis=None):
    found.loc["Mean"] = found.mean()
  rows = [
    [task, *(NONE if math.isnan(x) else f"{x:.1f}" for x in row)]
    for (task, *row) in found.itertuples()
  ]
  return Table(["Task", "Average", "Best", "Ensemble"], rows)


def _probe_table(results: Results) -> Table:
  """Writes a row for each run, a column for each task it was evaluated on."""
  sheet, axes = results.sheet, results.sheet.layout.rows
  found = {
    results.label(axes, [point[axis] for axis in axes]): {
      sheet.label("task", task): score
      for task, score in (record.scores if record else {}).items()
    }
    for point, run, record in results.looks()
    if record or run.failed
  }
  tasks = list(dict.fromkeys(task for row in found.values() for task in row))
  majorities = _majorities(sheet, tasks)
  rows = {"Guessing": majorities, **found} if majorities else found
  return Table(
    [heading(axes), *tasks],
    [
      [name, *(f"{row[x]:.1f}" if x in row else NONE for x in tasks)]
      if row
      else [name, *["failed"] * len(tasks)]
      for name, row in rows.items()
    ],
  )


def table_by_task(results: Results) -> Table:
  """Writes a table of means over tasks with a column for each task instead."""
  view = results.by_task
  rows = _score_rows(results, view)
  if majorities := _majorities(results.sheet, view.columns):
    texts = [
      f"{majorities[x]:.1f}" if x in majorities else "" for x in view.columns
    ]
    rows.insert(0, [_MAJORITY, *texts])
  return Table([heading(view.axes), *map(str, view.columns)], rows)


def _majorities(sheet: Sheet, labels: Collection[Any]) -> dict[str, float]:
  """Returns label -> score of the most frequent answer, of tasks if known."""
  return {
    label: value.majority
    for task, value in sheet.values.get("task", {}).items()
    if (label := sheet.label("task", task)) in labels
    and value.majority is not None
  }


def paper_table(paper: Paper) -> Table:
  """Writes the paper's numbers, each row with its source."""
  rows = []
  for row in paper.rows:
    texts = (f"{x:.1f}" if isinstance(x, float) else str(x) for x in row.values)
    source = f"{row.source}, {HOW[row.how]}"
    rows.append([row.label, *(x or NONE for x in texts), source])
  return Table(["", *paper.columns, "Source"], rows)


def csv_text(every: Iterable[Results]) -> str:
  """Writes the scores of sheets, and the paper's beside them, as CSV."""
  lines: list[list[object]] = []
  for results in every:
    name = results.sheet.name
    lines += [["ours", name, *numbers] for numbers in _own_numbers(results)]
    if paper := results.sheet.paper:
      lines += [
        [f"{row.source} ({row.how})", name, row.label, column, value, "", ""]
        for row in paper.rows
        for column, value in zip(paper.columns, row.numbers(), strict=True)
        if value is not None
      ]
  # As objects, so that integers and empty cells are kept.
  frame = pd.DataFrame(lines, columns=CSV_HEADER, dtype=object)
  return frame.to_csv(index=False, lineterminator="\n")


def _own_numbers(results: Results) -> Iterator[tuple]:
  """Yields row, column, mean, standard deviation and number of seeds."""
  kind, axes = results.sheet.layout.kind, results.sheet.layout.rows
  if kind == "ensemble":
    for task, row in _ensembles(results).iterrows():
      for name, value in row.dropna().items():
        yield task, name, value, "", ""
  elif kind == "tasks":
    for point, _, record in results.looks():
      row = row_key(point[axis] for axis in axes)
      for task, value in (record.scores if record else {}).items():
        yield row, task, value, "", 1
  else:
    for (row, column), x in results.view.places.items():
      if x.scores:
        spread = "" if math.isnan(x.std) else x.std
        yield row, column, x.mean, spread, len(x.scores)
