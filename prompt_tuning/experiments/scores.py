"""Scores: from records to what the places of a sheet's table say."""

from collections.abc import Mapping, Sequence
import dataclasses

from prompt_tuning.experiments import records
from prompt_tuning.experiments.sheets import Cell, Sheet

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
  """Returns the record of a cell, if it counts."""
  filed = known.get(cell.settings)
  return filed.record if filed and filed.record.counts else None


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


def _entries(
  sheet: Sheet,
  known: Mapping[records.Settings, records.Filed],
  axes: Sequence[str],
  over: Sequence[str],
  num_tasks: int | None = None,
) -> dict[tuple[str | int, ...], Entry]:
  """Groups the cells of a sheet.

  Args:
    sheet: The sheet.
    known: The records.
    axes: A combination of their values is a place.
    over: Axes to average over, of tasks. What differs in others, such as a
      seed, is a repetition, and counts once all tasks are there.
    num_tasks: How many that are; by default, those of the place.

  Returns:
    Place -> entry.
  """
  # Place -> repetition -> tasks -> score.
  groups: dict[tuple, dict[tuple, dict[tuple, float | None]]] = {}
  failed: dict[tuple, int] = {}
  for cell in sheet.cells():
    point = cell.point
    place = tuple(point[axis] for axis in axes)
    task = tuple(point[axis] for axis in over)
    repeat = tuple(x for axis, x in point.items() if axis not in (*axes, *over))
    record = finished(cell, known)
    groups.setdefault(place, {}).setdefault(repeat, {})[task] = (
      score(sheet, record) if record else None
    )
    filed = known.get(cell.settings)
    failed[place] = failed.get(place, 0) + bool(
      filed and filed.record.status == "failed"
    )
  entries = {}
  for place, repeats in groups.items():
    needed = num_tasks or len(set().union(*repeats.values()))
    done = [
      {k: x for k, x in tasks.items() if x is not None}
      for tasks in repeats.values()
    ]
    means = [records.mean_of(x) for x in done if len(x) == needed]
    entries[place] = Entry(records.summarize(means), failed[place])
  return entries


def of_sheet(
  sheet: Sheet, known: Mapping[records.Settings, records.Filed]
) -> Scores:
  """Computes the scores of a sheet from its records.

  With `mean_over`, a seed counts once all of its tasks are there.
  """
  layout = sheet.layout
  over = [layout.mean_over] if layout.mean_over else []
  found = _entries(sheet, known, [*layout.rows, layout.columns], over)
  entries = {(place[:-1], place[-1]): x for place, x in found.items()}
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
  """Row -> the mean over all columns, which are tasks, of each seed."""
  layout = sheet.layout
  columns = {cell.point[layout.columns] for cell in sheet.cells()}
  return _entries(sheet, known, layout.rows, [layout.columns], len(columns))


def of_ensemble(
  sheet: Sheet, known: Mapping[records.Settings, records.Filed]
) -> dict[str | int, tuple[float | None, float | None, float | None]]:
  """Computes average, best and ensemble for each task.

  Returns:
    Task -> these. None where the prompts, or the ensemble, are not all there.
  """
  alone: dict[str | int, list[float | None]] = {}
  together: dict[str | int, float | None] = {}
  for cell in sheet.cells():
    task = cell.point[sheet.layout.rows[0]]
    record = finished(cell, known)
    value = score(sheet, record) if record else None
    if "seed" in cell.point:
      alone.setdefault(task, []).append(value)
    else:
      together[task] = value
  result = {}
  for task in dict.fromkeys([*alone, *together]):
    prompts = [x for x in alone.get(task, []) if x is not None]
    mean, best = None, None
    if prompts and len(prompts) == len(alone[task]):
      mean, best = sum(prompts) / len(prompts), max(prompts)
    result[task] = (mean, best, together.get(task))
  return result
