"""Tables: from records to rows, and rows as Markdown, CSV and LaTeX."""

from collections.abc import Iterable, Mapping, Sequence
import csv
import dataclasses
import io

from prompt_tuning import records
from prompt_tuning.sheets import Cell, Sheet

NONE = "-"
# How a number of a paper is known.
HOW = {
  "printed": "printed",
  "figure": "read off the figure",
  "elsewhere": "printed there",
}


@dataclasses.dataclass(frozen=True)
class Text:
  """A table of texts.

  Attributes:
    header: A text for each column.
    rows: As long as the header.
    left: How many columns are aligned to the left, the others to the right.
  """

  header: Sequence[str]
  rows: Sequence[Sequence[str]]
  left: int = 1

  def markdown(self) -> str:
    rule = ["---"] * self.left + ["---:"] * (len(self.header) - self.left)
    lines = [self.header, rule, *self.rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)

  def latex(self) -> str:
    """A tabular in the style of booktabs."""
    right = len(self.header) - self.left
    lines = [
      f"\\begin{{tabular}}{{{'l' * self.left}{'r' * right}}}",
      "\\toprule",
      _latex_row(self.header),
      "\\midrule",
      *map(_latex_row, self.rows),
      "\\bottomrule",
      "\\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _latex_row(row: Sequence[str]) -> str:
  return " & ".join(map(_latex, row)) + r" \\"


def _latex(text: str) -> str:
  for old, new in (
    *(("\\", r"\textbackslash{}"), ("~", r"$\sim$"), ("±", r"$\pm$")),
    *((x, f"\\{x}") for x in "&%_#"),
  ):
    text = text.replace(old, new)
  return text


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
  """Writes comma-separated values with Unix line ends."""
  out = io.StringIO()
  writer = csv.writer(out, lineterminator="\n")
  writer.writerow(header)
  writer.writerows(rows)
  return out.getvalue()


@dataclasses.dataclass(frozen=True)
class Entry:
  """What a place in a table has to say.

  Attributes:
    summary: Of the seeds that are there, or None.
    wanted: How many the sheet asks for.
    failed: How many runs failed.
  """

  summary: records.Summary | None
  wanted: int
  failed: int = 0

  def __str__(self) -> str:
    if self.summary is None:
      return "failed" if self.failed else NONE
    mean, std = self.summary.mean, self.summary.std
    text = f"{mean:.1f}" if std is None else f"{mean:.1f} ± {std:.1f}"
    return f"{text} ({self.summary.n})"


@dataclasses.dataclass(frozen=True)
class Scores:
  """The scores of a sheet.

  Attributes:
    rows: Values of the row axes.
    columns: Values of the column axis.
    entries: (row, column) -> entry; places that no cell belongs to are missing.
  """

  rows: Sequence[tuple[str | int, ...]]
  columns: Sequence[str | int]
  entries: Mapping[tuple[tuple[str | int, ...], str | int], Entry]


def finished(
  cell: Cell, known: Mapping[records.Settings, records.Filed]
) -> records.RunRecord | None:
  """Returns the record of a cell, if its run finished."""
  filed = known.get(cell.settings)
  if filed is None or filed.record.status not in ("finished", "stopped"):
    return None
  return filed.record


def score(sheet: Sheet, record: records.RunRecord) -> float:
  """Returns what counts of a record: the mean over its tasks, in [0, 100].

  Raises:
    ValueError: if it lacks the sheet's metric.
  """
  if sheet.layout.metric is None:
    return records.mean_of(record.scores)
  try:
    return records.mean_of(
      {
        task: metrics[sheet.layout.metric]
        for task, metrics in record.metrics.items()
      }
    )
  except KeyError as e:
    raise ValueError(
      f"{sheet.name}: a record has no metric {e}, only {record.metrics}."
    ) from e


def scores(
  sheet: Sheet, known: Mapping[records.Settings, records.Filed]
) -> Scores:
  """Computes the scores of a sheet from its records.

  With `mean_over`, a seed counts once all of its tasks are there.
  """
  layout = sheet.layout
  # Place -> what is repeated there, such as a seed -> tasks -> score.
  groups: dict[tuple, dict[tuple, dict[str | int, float | None]]] = {}
  failed: dict[tuple, int] = {}
  for cell in sheet.cells():
    row = tuple(cell.point[axis] for axis in layout.rows)
    place = (row, cell.point[layout.columns])
    repeat = tuple(
      value
      for axis, value in cell.point.items()
      if axis not in (*layout.rows, layout.columns, layout.mean_over)
    )
    task = cell.point.get(layout.mean_over or "", "")
    record = finished(cell, known)
    groups.setdefault(place, {}).setdefault(repeat, {})[task] = (
      score(sheet, record) if record else None
    )
    filed = known.get(cell.settings)
    failed[place] = failed.get(place, 0) + bool(
      filed and filed.record.status == "failed"
    )
  entries = {
    place: Entry(
      records.summarize(
        records.mean_of(whole)
        for tasks in repeats.values()
        if len(whole := {k: x for k, x in tasks.items() if x is not None})
        == len(tasks)
      ),
      len(repeats),
      failed[place],
    )
    for place, repeats in groups.items()
  }
  return Scores(
    rows=list(dict.fromkeys(row for row, _ in entries)),
    columns=list(dict.fromkeys(column for _, column in entries)),
    entries=entries,
  )


def majority(sheet: Sheet, column: str | int) -> float | None:
  """Returns what the most frequent answer scores in a column, where known."""
  axis = sheet.layout.mean_over
  if axis is None:
    return sheet.value(sheet.layout.columns, column).majority
  known = {x: sheet.value(axis, x).majority for x in sheet.grids[0][axis]}
  values = {k: x for k, x in known.items() if x is not None}
  return records.mean_of(values) if len(values) == len(known) else None


def gap(sheet: Sheet, found: Scores) -> dict[str | int, float]:
  """Column -> by how much one row's mean is above another's, in points."""
  if sheet.layout.gap is None:
    return {}
  upper, lower = ((name,) for name in sheet.layout.gap)
  gaps = {}
  for column in found.columns:
    over = found.entries.get((upper, column))
    under = found.entries.get((lower, column))
    if over and under and over.summary and under.summary:
      gaps[column] = over.summary.mean - under.summary.mean
  return gaps


def row_label(sheet: Sheet, row: Sequence[str | int]) -> str:
  """Returns what a row is called."""
  return ", ".join(
    sheet.label(axis, value)
    for axis, value in zip(sheet.layout.rows, row, strict=True)
  )


def trainable(
  sheet: Sheet,
  row: tuple[str | int, ...],
  known: Mapping[records.Settings, records.Filed],
) -> tuple[int, int] | None:
  """Returns how many parameters train in a row, and how many there are.

  None if no run has finished, or if they differ.
  """
  counts = {
    (record.parameters.get("trainable", 0), sum(record.parameters.values()))
    for cell in sheet.cells()
    if tuple(cell.point[axis] for axis in sheet.layout.rows) == row
    and (record := finished(cell, known))
  }
  return counts.pop() if len(counts) == 1 else None


def means(
  sheet: Sheet, known: Mapping[records.Settings, records.Filed]
) -> dict[tuple[str | int, ...], Entry]:
  """Row -> the mean over the columns, which are tasks, of each seed."""
  other = next(
    axis
    for axis in sheet.grids[0]
    if axis not in (*sheet.layout.rows, sheet.layout.columns)
  )
  layout = sheet.layout.model_copy(
    update={"columns": other, "mean_over": sheet.layout.columns}
  )
  found = scores(sheet.model_copy(update={"layout": layout}), known)
  return {row: entry for (row, _), entry in found.entries.items()}


def score_text(
  sheet: Sheet, known: Mapping[records.Settings, records.Filed]
) -> Text:
  """Writes the scores of a sheet: mean ± standard deviation (n)."""
  found = scores(sheet, known)
  axis = sheet.layout.columns
  header = [
    " and ".join(sheet.layout.rows).capitalize(),
    *(sheet.label(axis, x) for x in found.columns),
  ]
  rows = [
    [
      row_label(sheet, row),
      *(str(found.entries.get((row, x), NONE)) for x in found.columns),
    ]
    for row in found.rows
  ]
  if gaps := gap(sheet, found):
    upper, lower = (row_label(sheet, [x]) for x in sheet.layout.gap or ())
    texts = [f"{gaps[x]:+.1f}" if x in gaps else NONE for x in found.columns]
    rows.append([f"Gap: {upper} - {lower}", *texts])
  if sheet.layout.mean_column:
    header.append("Mean")
    for text, entry in zip(rows, means(sheet, known).values(), strict=True):
      text.append(str(entry))
  if sheet.layout.parameters:
    header[1:1] = ["Trainable", "Share"]
    for text, row in zip(rows, found.rows, strict=True):
      count, total = trainable(sheet, row, known) or (None, 0)
      if count is None:
        text[1:1] = [NONE, NONE]
      else:
        text[1:1] = [f"{count:,}", f"{100 * count / max(total, 1):.3g}%"]
  majorities = [majority(sheet, x) for x in found.columns]
  if None not in majorities:
    texts = [f"{x:.1f}" for x in majorities]
    before = [""] * 2 if sheet.layout.parameters else []
    after = [""] if sheet.layout.mean_column else []
    rows.insert(0, ["Most frequent answer", *before, *texts, *after])
  return Text(header, rows)


def ensemble_scores(
  sheet: Sheet, known: Mapping[records.Settings, records.Filed]
) -> dict[str | int, tuple[float | None, float | None, float | None]]:
  """Computes average, best and ensemble for each task; None where it lacks."""
  alone: dict[str | int, list[float]] = {}
  together: dict[str | int, float] = {}
  axis = sheet.layout.rows[0]
  for cell in sheet.cells():
    record = finished(cell, known)
    if record is None:
      continue
    if "seed" in cell.point:
      alone.setdefault(cell.point[axis], []).append(score(sheet, record))
    else:
      together[cell.point[axis]] = score(sheet, record)
  tasks = dict.fromkeys(cell.point[axis] for cell in sheet.cells())
  result = {}
  for task in tasks:
    prompts = alone.get(task)
    mean = records.summarize(prompts or [])
    result[task] = (
      mean.mean if mean else None,
      max(prompts) if prompts else None,
      together.get(task),
    )
  return result


def ensemble_text(
  sheet: Sheet, known: Mapping[records.Settings, records.Filed]
) -> Text:
  """Writes average, best and ensemble as the paper's Table 3 does."""
  found = ensemble_scores(sheet, known)
  rows = [
    [
      sheet.label(sheet.layout.rows[0], task),
      *(NONE if x is None else f"{x:.1f}" for x in values),
    ]
    for task, values in found.items()
  ]
  if found and all(None not in values for values in found.values()):
    columns = zip(*found.values(), strict=True)
    means = [sum(x for x in column if x) / len(found) for column in columns]
    rows.append(["Mean", *(f"{x:.1f}" for x in means)])
  return Text(["Task", "Average", "Best", "Ensemble"], rows)


def task_text(
  sheet: Sheet, known: Mapping[records.Settings, records.Filed]
) -> Text:
  """Writes a row for each run, a column for each task it was evaluated on."""
  found = {
    row_label(sheet, [cell.point[axis] for axis in sheet.layout.rows]): {
      sheet.label("task", task): score for task, score in record.scores.items()
    }
    for cell in sheet.cells()
    if (record := finished(cell, known))
  }
  tasks = list(dict.fromkeys(task for row in found.values() for task in row))
  majorities = _majorities(sheet)
  rows = {"Guessing": majorities, **found} if majorities else found
  return Text(
    [" and ".join(sheet.layout.rows).capitalize(), *tasks],
    [
      [name, *(f"{row[x]:.1f}" if x in row else NONE for x in tasks)]
      for name, row in rows.items()
    ],
  )


def by_task_text(
  sheet: Sheet, known: Mapping[records.Settings, records.Filed]
) -> Text:
  """Writes a table of means over tasks anew, with a column for each task.

  A run on a mixture of tasks, which are called *_prefixed, is split into them.
  """
  layout = sheet.layout
  own = scores(sheet, known)
  # Row and column of the sheet's own table -> task -> a score for each seed.
  values: dict[tuple, dict[str, list[float]]] = {
    (row, column): {}
    for row in own.rows
    for column in own.columns
    if (row, column) in own.entries
  }
  for cell in sheet.cells():
    if record := finished(cell, known):
      row = tuple(cell.point[axis] for axis in layout.rows)
      place = values[row, cell.point[layout.columns]]
      for task, value in record.scores.items():
        label = sheet.label("task", task.removesuffix("_prefixed"))
        place.setdefault(label, []).append(value)
  tasks = list(dict.fromkeys(task for row in values.values() for task in row))
  rows = [
    [
      f"{row_label(sheet, row)}, {sheet.label(layout.columns, column)}",
      *(
        str(Entry(records.summarize(found.get(x, [])), len(found)))
        for x in tasks
      ),
    ]
    for (row, column), found in values.items()
    if found
  ]
  if majorities := _majorities(sheet):
    texts = [f"{majorities[x]:.1f}" if x in majorities else "" for x in tasks]
    rows.insert(0, ["Most frequent answer", *texts])
  axes = (*layout.rows, layout.columns)
  return Text([" and ".join(axes).capitalize(), *tasks], rows)


def _majorities(sheet: Sheet) -> dict[str, float]:
  """Label of a task -> the score of its most frequent answer, where known."""
  return {
    sheet.label("task", task): value.majority
    for task, value in sheet.values.get("task", {}).items()
    if value.majority is not None
  }


def paper_text(sheet: Sheet) -> Text | None:
  """Writes the paper's numbers, each row with where it is from."""
  if sheet.paper is None:
    return None
  return Text(
    ["", *sheet.paper.columns, "Source"],
    [
      [
        row.label,
        *(
          f"{x:.1f}" if isinstance(x, float) else str(x) or NONE
          for x in row.values
        ),
        f"{row.source}, {HOW[row.how]}",
      ]
      for row in sheet.paper.rows
    ],
  )


def score_rows(
  sheet: Sheet, known: Mapping[records.Settings, records.Filed]
) -> list[list[object]]:
  """The scores, and the paper's, a line each, for CSV."""
  lines: list[list[object]] = []
  if sheet.layout.kind == "ensemble":
    for task, values in ensemble_scores(sheet, known).items():
      for name, value in zip(
        ("average", "best", "ensemble"), values, strict=True
      ):
        if value is not None:
          lines.append(["ours", sheet.name, task, name, value, "", ""])
  else:
    found = scores(sheet, known)
    for (row, column), entry in found.entries.items():
      if summary := entry.summary:
        std = "" if summary.std is None else summary.std
        name = "/".join(map(str, row))
        lines.append(
          ["ours", sheet.name, name, column, summary.mean, std, summary.n]
        )
  paper = sheet.paper
  for row in paper.rows if paper else ():
    columns = paper.columns if paper else ()
    for column, value in zip(columns, row.numbers(), strict=True):
      if value is not None:
        source = f"{row.source} ({row.how})"
        lines.append([source, sheet.name, row.label, column, value, "", ""])
  return lines


CSV_HEADER = ("source", "sheet", "row", "column", "mean", "std", "n")
