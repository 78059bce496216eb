"""Tables: from results to rows of texts, and to lines of CSV."""

from collections.abc import Iterator, Mapping
import statistics
from typing import Any

from prompt_tuning.experiments import records
from prompt_tuning.experiments.entries import NONE, Row
from prompt_tuning.experiments.papers import Paper
from prompt_tuning.experiments.results import Results
from prompt_tuning.experiments.sheets import Sheet
from prompt_tuning.text_tables import Table

# How a number of a paper is known.
HOW = {
  "printed": "printed",
  "figure": "read off the figure",
  "elsewhere": "printed there",
}
CSV_HEADER = ("source", "sheet", "row", "column", "mean", "std", "n")
_MAJORITY = "Most frequent answer"


def of_results(results: Results) -> Table:
  """Writes results as their layout says."""
  kinds = {"ensemble": of_ensemble, "tasks": of_tasks, "scores": of_scores}
  return kinds[results.sheet.layout.kind](results)


def short_count(count: float) -> str:
  """Writes 76961152 as 77M."""
  rounded = float(f"{count:.3g}")
  for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
    if rounded >= unit:
      return f"{rounded / unit:.3g}{letter}"
  return f"{count:g}"


def of_scores(results: Results) -> Table:
  """Writes the scores of a sheet: mean ± standard deviation (n)."""
  layout = results.sheet.layout
  header = [
    _name(layout.rows),
    *(_heading(results, x) for x in results.columns),
  ]
  rows = [
    [
      results.row_label(row),
      *(str(results.entries.get((row, x), NONE)) for x in results.columns),
    ]
    for row in results.rows
  ]
  if layout.mean_column:
    header.append("Mean")
    for text, entry in zip(rows, results.means.values(), strict=True):
      text.append(str(entry))
  if layout.parameters:
    header[1:1] = ["Trainable", "Share"]
    for text, row in zip(rows, results.rows, strict=True):
      count, total = results.trainable(row) or (None, 0)
      if count is None:
        text[1:1] = [NONE, NONE]
      else:
        text[1:1] = [f"{count:,}", f"{100 * count / max(total, 1):.3g}%"]
  before = [""] * 2 if layout.parameters else []
  rows[:0] = _majority_rows(results, before)
  rows += _gap_rows(results, before)
  return Table(header, rows)


def _name(axes: list[str]) -> str:
  """Returns the heading of the rows over some axes."""
  return " and ".join(axes).capitalize().replace("_", " ")


def _heading(results: Results, column) -> str:
  """What a column is called; with the model's parameters if those are x."""
  label = results.column_label(column)
  if results.sheet.layout.figure != "lines" or results.columns_are_numbers:
    return label
  size = results.xs.get(column)
  return label if size is None else f"{label}, {short_count(size)}"


def _majority_rows(results: Results, before: list[str]) -> Iterator[list[str]]:
  """What the most frequent answers score, if that is known of all columns."""
  known = [results.majority(x) for x in results.columns]
  values = [x for x in known if x is not None]
  if len(values) == len(known):
    if results.sheet.layout.mean_column:
      values.append(statistics.fmean(values))
    yield [_MAJORITY, *before, *(f"{x:.1f}" for x in values)]


def _gap_rows(results: Results, before: list[str]) -> Iterator[list[str]]:
  """By how much one row is above another, where the layout asks for it."""
  for rows in results.pairs:
    if gap := results.gap(*rows):
      texts = [_gap_text(gap, x) for x in results.columns]
      after = [""] * results.sheet.layout.mean_column
      yield [_gap_name(results, rows), *before, *texts, *after]


def _gap_name(results: Results, rows: tuple[Row, Row]) -> str:
  places = [*zip(results.sheet.layout.rows, *rows, strict=True)]
  label = results.sheet.label
  [gap] = [f"{label(x, a)} - {label(x, b)}" for x, a, b in places if a != b]
  shared = [label(axis, a) for axis, a, b in places if a == b]
  return ", ".join([f"Gap: {gap}", *shared])


def _gap_text(gap: Mapping[Any, records.Summary], key: Any) -> str:
  if key not in gap:
    return NONE
  mean, std, n = gap[key].mean, gap[key].std, gap[key].n
  spread = "" if std is None else f" ± {std:.1f}"
  return f"{mean:+.1f}{spread} ({n})"


def of_ensemble(results: Results) -> Table:
  """Writes average, best and ensemble as the paper's Table 3 does."""
  found = results.ensembles
  rows = [
    [
      results.row_label([task]),
      *(NONE if x is None else f"{x:.1f}" for x in values),
    ]
    for task, values in found.items()
  ]
  if found and all(None not in values for values in found.values()):
    columns = zip(*found.values(), strict=True)
    means = [sum(x for x in column if x) / len(found) for column in columns]
    rows.append(["Mean", *(f"{x:.1f}" for x in means)])
  return Table(["Task", "Average", "Best", "Ensemble"], rows)


def of_tasks(results: Results) -> Table:
  """Writes a row for each run, a column for each task it was evaluated on."""
  sheet = results.sheet
  found = {
    results.row_label(results.row_of(run.cell)): {
      sheet.label("task", task): score
      for task, score in run.record.scores.items()
    }
    for run in results.views
    if run.record
  }
  tasks = list(dict.fromkeys(task for row in found.values() for task in row))
  majorities = _majorities(sheet)
  rows = {"Guessing": majorities, **found} if majorities else found
  return Table(
    [_name(sheet.layout.rows), *tasks],
    [
      [name, *(f"{row[x]:.1f}" if x in row else NONE for x in tasks)]
      for name, row in rows.items()
    ],
  )


def by_task(results: Results) -> Table:
  """Writes a table of means over tasks anew, with a column for each task."""
  layout, found = results.sheet.layout, results.by_task
  tasks = list(dict.fromkeys(task for row in found.values() for task in row))
  rows = [
    [
      f"{results.row_label(row)}, {results.column_label(column)}",
      *(str(entries.get(x, NONE)) for x in tasks),
    ]
    for (row, column), entries in found.items()
    if entries
  ]
  if majorities := _majorities(results.sheet):
    texts = [f"{majorities[x]:.1f}" if x in majorities else "" for x in tasks]
    rows.insert(0, [_MAJORITY, *texts])
  for pair in results.pairs:
    for column in results.columns:
      if gap := results.gap_by_task(*pair, column):
        name = f"{_gap_name(results, pair)}, {results.column_label(column)}"
        rows.append([name, *(_gap_text(gap, x) for x in tasks)])
  return Table([_name([*layout.rows, layout.columns]), *tasks], rows)


def _majorities(sheet: Sheet) -> dict[str, float]:
  """Label of a task -> the score of its most frequent answer, where known."""
  return {
    sheet.label("task", task): value.majority
    for task, value in sheet.values.get("task", {}).items()
    if value.majority is not None
  }


def of_paper(paper: Paper) -> Table:
  """Writes the paper's numbers, each row with where it is from."""
  return Table(
    ["", *paper.columns, "Source"],
    [
      [
        row.label,
        *(
          f"{x:.1f}" if isinstance(x, float) else str(x) or NONE
          for x in row.values
        ),
        f"{row.source}, {HOW[row.how]}",
      ]
      for row in paper.rows
    ],
  )


def csv_rows(results: Results) -> Iterator[list[object]]:
  """Yields the scores, and the paper's of the sheet, a line each."""
  name = results.sheet.name
  for row, column, mean, std, n in _own_numbers(results):
    yield ["ours", name, row, column, mean, "" if std is None else std, n]
  paper = results.sheet.paper
  for row in paper.rows if paper else ():
    columns = paper.columns if paper else ()
    for column, value in zip(columns, row.numbers(), strict=True):
      if value is not None:
        source = f"{row.source} ({row.how})"
        yield [source, name, row.label, column, value, "", ""]


def _own_numbers(results: Results) -> Iterator[tuple]:
  """Yields row, column, mean, standard deviation and number of seeds."""
  kind = results.sheet.layout.kind
  if kind == "ensemble":
    for task, values in results.ensembles.items():
      names = ("average", "best", "ensemble")
      for name, value in zip(names, values, strict=True):
        if value is not None:
          yield task, name, value, None, ""
  elif kind == "tasks":
    for run in results.views:
      for task, value in (run.record.scores if run.record else {}).items():
        row = "/".join(map(str, results.row_of(run.cell)))
        yield row, task, value, None, 1
  else:
    for (row, column), entry in results.entries.items():
      if summary := entry.summary:
        name = "/".join(map(str, row))
        yield name, column, summary.mean, summary.std, summary.n
