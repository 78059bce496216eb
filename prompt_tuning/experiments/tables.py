"""Tables: from records to rows, and rows as Markdown, CSV and LaTeX."""

from collections.abc import Iterable, Mapping, Sequence
import csv
import dataclasses
import io

from prompt_tuning.experiments import records, scores
from prompt_tuning.experiments.sheets import Sheet

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


def short_count(count: float) -> str:
  """Writes 76961152 as 77M."""
  for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
    if count >= unit:
      return f"{count / unit:.3g}{letter}"
  return f"{count:g}"


def row_label(sheet: Sheet, row: Sequence[str | int]) -> str:
  """Returns what a row is called."""
  return ", ".join(
    sheet.label(axis, value)
    for axis, value in zip(sheet.layout.rows, row, strict=True)
  )


def _column_label(
  sheet: Sheet,
  column: str | int,
  known: Mapping[records.Settings, records.Filed],
) -> str:
  """What a column is called; with the model's parameters if those are x."""
  label = sheet.label(sheet.layout.columns, column)
  size = None
  if sheet.layout.figure == "lines":
    size = scores.model_size(sheet, column, known)
  return label if size is None else f"{label}, {short_count(size)}"


def score_text(
  sheet: Sheet, known: Mapping[records.Settings, records.Filed]
) -> Text:
  """Writes the scores of a sheet: mean ± standard deviation (n)."""
  found = scores.of_sheet(sheet, known)
  header = [
    " and ".join(sheet.layout.rows).capitalize(),
    *(_column_label(sheet, x, known) for x in found.columns),
  ]
  rows = [
    [
      row_label(sheet, row),
      *(str(found.entries.get((row, x), scores.NONE)) for x in found.columns),
    ]
    for row in found.rows
  ]
  if sheet.layout.mean_column:
    header.append("Mean")
    for text, entry in zip(
      rows, scores.means(sheet, known).values(), strict=True
    ):
      text.append(str(entry))
  if sheet.layout.parameters:
    header[1:1] = ["Trainable", "Share"]
    for text, row in zip(rows, found.rows, strict=True):
      count, total = scores.trainable(sheet, row, known) or (None, 0)
      if count is None:
        text[1:1] = [scores.NONE, scores.NONE]
      else:
        text[1:1] = [f"{count:,}", f"{100 * count / max(total, 1):.3g}%"]
  before = [""] * 2 if sheet.layout.parameters else []
  columns = {x: scores.majority(sheet, x) for x in found.columns}
  majorities = {k: x for k, x in columns.items() if x is not None}
  if len(majorities) == len(columns):
    values = list(majorities.values())
    if sheet.layout.mean_column:
      values.append(records.mean_of(majorities))
    texts = [f"{x:.1f}" for x in values]
    rows.insert(0, ["Most frequent answer", *before, *texts])
  if gaps := scores.gap(sheet, found):
    upper, lower = (row_label(sheet, [x]) for x in sheet.layout.gap or ())
    texts = [
      f"{gaps[x]:+.1f}" if x in gaps else scores.NONE for x in found.columns
    ]
    after = [""] * sheet.layout.mean_column
    rows.append([f"Gap: {upper} - {lower}", *before, *texts, *after])
  return Text(header, rows)


def ensemble_text(
  sheet: Sheet, known: Mapping[records.Settings, records.Filed]
) -> Text:
  """Writes average, best and ensemble as the paper's Table 3 does."""
  found = scores.of_ensemble(sheet, known)
  rows = [
    [
      sheet.label(sheet.layout.rows[0], task),
      *(scores.NONE if x is None else f"{x:.1f}" for x in values),
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
    if (record := scores.finished(cell, known))
  }
  tasks = list(dict.fromkeys(task for row in found.values() for task in row))
  majorities = _majorities(sheet)
  rows = {"Guessing": majorities, **found} if majorities else found
  return Text(
    [" and ".join(sheet.layout.rows).capitalize(), *tasks],
    [
      [name, *(f"{row[x]:.1f}" if x in row else scores.NONE for x in tasks)]
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
  own = scores.of_sheet(sheet, known)
  # Row and column of the sheet's own table -> task -> a score for each seed.
  values: dict[tuple, dict[str, list[float]]] = {
    (row, column): {}
    for row in own.rows
    for column in own.columns
    if (row, column) in own.entries
  }
  for cell in sheet.cells():
    if record := scores.finished(cell, known):
      row = tuple(cell.point[axis] for axis in layout.rows)
      place = values[row, cell.point[layout.columns]]
      for task, value in record.scores.items():
        # A run on one task may have chosen a form of it, such as ..._sentinel.
        name = task if len(record.scores) > 1 else cell.point["task"]
        label = sheet.label("task", str(name).removesuffix("_prefixed"))
        place.setdefault(label, []).append(value)
  tasks = list(dict.fromkeys(task for row in values.values() for task in row))
  rows = [
    [
      f"{row_label(sheet, row)}, {sheet.label(layout.columns, column)}",
      *(str(scores.Entry(records.summarize(found.get(x, [])))) for x in tasks),
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
          f"{x:.1f}" if isinstance(x, float) else str(x) or scores.NONE
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
    for task, values in scores.of_ensemble(sheet, known).items():
      for name, value in zip(
        ("average", "best", "ensemble"), values, strict=True
      ):
        if value is not None:
          lines.append(["ours", sheet.name, task, name, value, "", ""])
  elif sheet.layout.kind == "tasks":
    for cell in sheet.cells():
      if record := scores.finished(cell, known):
        row = "/".join(str(cell.point[axis]) for axis in sheet.layout.rows)
        for task, value in record.scores.items():
          lines.append(["ours", sheet.name, row, task, value, "", 1])
  else:
    found = scores.of_sheet(sheet, known)
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
