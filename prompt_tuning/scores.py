"""Scores: from records to what the places of a sheet's table say."""

from collections.abc import Mapping, Sequence
import dataclasses

from prompt_tuning import records
from prompt_tuning.sheets import Cell, Sheet

# A place with no score.
NONE = "-"


@dataclasses.dataclass(frozen=True)
class Entry:
  """What a place in a table has to say.

  Attributes:
    summary: Of the seeds that are there, or None.
    failed: How many runs failed.
  """

  summary: records.Summary | None
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


def of_sheet(
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
      failed[place],
    )
    for place, repeats in groups.items()
  }
  return Scores(
    rows=list(dict.fromkeys(row for row, _ in entries)),
    columns=list(dict.fromkeys(column for _, column in entries)),
    entries=entries,
  )


def model_size(
  sheet: Sheet,
  column: str | int,
  known: Mapping[records.Settings, records.Filed],
) -> float | None:
  """Returns a model's parameters: as the sheet says, or as the records do."""
  given = sheet.value(sheet.layout.columns, column).x
  if given is not None:
    return given
  for cell in sheet.cells():
    record = finished(cell, known)
    if record and cell.point[sheet.layout.columns] == column:
      counts = record.parameters
      return counts.get("frozen") or counts.get("trainable")
  return None


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
  found = of_sheet(sheet.model_copy(update={"layout": layout}), known)
  return {row: entry for (row, _), entry in found.entries.items()}


def of_ensemble(
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
