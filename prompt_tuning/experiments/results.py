"""Results: a sheet with its records, and what the two say together."""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import itertools
import statistics

from prompt_tuning.experiments import entries, layouts, records
from prompt_tuning.experiments.archive import Archive
from prompt_tuning.experiments.cells import Cell
from prompt_tuning.experiments.entries import Entry, Row
from prompt_tuning.experiments.layouts import AxisValue
from prompt_tuning.experiments.papers import Paper
from prompt_tuning.experiments.sheets import Sheet

# Ends the names of tasks whose inputs say which they are, and of mixtures.
_PREFIXED = "_prefixed"


@dataclasses.dataclass(frozen=True)
class Run:
  """A cell and its record.

  Attributes:
    cell: The cell.
    stored: Its record, if there is one.
  """

  cell: Cell
  stored: records.StoredRecord | None

  @property
  def record(self) -> records.RunRecord | None:
    """The record, if it has results."""
    record = self.stored.record if self.stored else None
    return record if record and record.counts and record.scores else None

  @property
  def failed(self) -> bool:
    return self.stored is not None and self.stored.record.status == "failed"

  def after(self, steps: int) -> "Run":
    """Returns the run as it was after some of its steps, a point of its own."""
    point = {**self.cell.point, layouts.STEPS: steps}
    stored = self.stored
    if stored and stored.record.counts:
      record = stored.record.after(steps)
      stored = dataclasses.replace(stored, record=record) if record else None
    return Run(dataclasses.replace(self.cell, point=point), stored)

  def at_its_end(self) -> "Run":
    """Returns the run with the scores of its last evaluation, not the best."""
    if self.stored is None:
      return self
    record = self.stored.record.at_its_end()
    return Run(self.cell, dataclasses.replace(self.stored, record=record))


@dataclasses.dataclass(frozen=True)
class Point:
  """A point of a line: where it lies on the x axis, and its scores."""

  x: float
  summary: records.Summary


def _others(point: Mapping[str, AxisValue], axes: Sequence[str]) -> Row:
  """A cell's values of other axes: which repetition it is."""
  return tuple(x for axis, x in point.items() if axis not in axes)


class Results:
  """A sheet with its records.

  Attributes:
    sheet: The sheet.
    archive: All records.
    beside: The results of the sheet of full size, if this one is a miniature
      of it.
    runs: The sheet's cells, in order, with their records.
    views: What tables and figures show: the runs, or, where the layout asks for
      it, each run after several numbers of steps, by their best evaluations,
      or, `at_end`, by their last.
  """

  def __init__(
    self,
    sheet: Sheet,
    archive: Archive,
    beside: "Results | None" = None,
    at_end: bool = False,
  ):
    self.sheet = sheet
    self.archive = archive
    self.beside = beside
    self.runs = [Run(cell, archive.find(cell)) for cell in sheet.cells()]
    after = sheet.layout.after
    self.views = (
      [run.after(steps) for run in self.runs for steps in after]
      if after
      else self.runs
    )
    if at_end:
      self.views = [run.at_its_end() for run in self.views]

  def at_their_ends(self) -> "Results":
    """Returns the results by each run's last evaluation, not by its best."""
    return Results(self.sheet, self.archive, self.beside, at_end=True)

  @property
  def some(self) -> bool:
    """Whether there are any."""
    return any(run.record for run in self.runs)

  @property
  def paper(self) -> Paper | None:
    """The paper's numbers: those of the sheet of full size, if there is one."""
    return (self.beside or self).sheet.paper

  def row_of(self, cell: Cell) -> Row:
    """Returns the row that a cell belongs to."""
    return tuple(cell.point[axis] for axis in self.sheet.layout.rows)

  def row_label(self, row: Sequence[AxisValue]) -> str:
    """Returns what a row is called."""
    return ", ".join(
      self.sheet.label(axis, value)
      for axis, value in zip(self.sheet.layout.rows, row, strict=True)
    )

  def column_label(self, column: AxisValue) -> str:
    """Returns what a column is called."""
    return self.sheet.label(self.sheet.layout.columns, column)

  @functools.cached_property
  def rows(self) -> list[Row]:
    """Values of the row axes, in order."""
    return list(dict.fromkeys(self.row_of(run.cell) for run in self.views))

  @functools.cached_property
  def columns(self) -> list[AxisValue]:
    """Values of the column axis, in order."""
    axis = self.sheet.layout.columns
    return list(dict.fromkeys(run.cell.point[axis] for run in self.views))

  @functools.cached_property
  def entries(self) -> Mapping[tuple[Row, AxisValue], Entry]:
    """(row, column) -> entry; places that no cell belongs to are missing.

    With `mean_over`, a seed counts once all of its tasks are there.
    """
    layout = self.sheet.layout
    over = [layout.mean_over] if layout.mean_over else []
    found = self._grouped([*layout.rows, layout.columns], over)
    return {(place[:-1], place[-1]): entry for place, entry in found.items()}

  @functools.cached_property
  def means(self) -> Mapping[Row, Entry]:
    """Row -> the mean over all columns, which are tasks, of each seed."""
    layout = self.sheet.layout
    return self._grouped(layout.rows, [layout.columns], len(self.columns))

  def _grouped(
    self,
    axes: Sequence[str],
    over: Sequence[str],
    num_tasks: int | None = None,
  ) -> dict[Row, Entry]:
    """Groups the cells.

    Args:
      axes: A combination of their values is a place.
      over: Axes to average over, of tasks. What differs in others, such as a
        seed, is a repetition, and counts once all tasks are there.
      num_tasks: How many that are; by default, those of the place.

    Returns:
      Place -> entry.
    """
    # Place -> repetition -> tasks -> score.
    groups: dict[Row, dict[Row, dict[Row, float | None]]] = {}
    failed: dict[Row, int] = {}
    for run in self.views:
      point, record = run.cell.point, run.record
      place = tuple(point[axis] for axis in axes)
      task = tuple(point[axis] for axis in over)
      repeat = _others(point, [*axes, *over])
      groups.setdefault(place, {}).setdefault(repeat, {})[task] = (
        record.score if record else None
      )
      failed[place] = failed.get(place, 0) + run.failed
    found = {}
    for place, repeats in groups.items():
      needed = num_tasks or len(set().union(*repeats.values()))
      done = {
        repeat: {k: x for k, x in tasks.items() if x is not None}
        for repeat, tasks in repeats.items()
      }
      means = {
        k: statistics.fmean(x.values())
        for k, x in done.items()
        if len(x) == needed
      }
      found[place] = Entry(means, failed[place])
    return found

  @functools.cached_property
  def by_task(self) -> Mapping[tuple[Row, AxisValue], Mapping[str, Entry]]:
    """(row, column) -> label of a task -> entry, where `mean_over` is "task".

    A run on a mixture of tasks, which are called *_prefixed, is split into
    them.
    """
    sheet, layout = self.sheet, self.sheet.layout
    values: dict[tuple[Row, AxisValue], dict[str, dict[Row, float | None]]] = {
      (row, column): {}
      for row in self.rows
      for column in self.columns
      if (row, column) in self.entries
    }
    for run in self.views:
      point = run.cell.point
      place = values[self.row_of(run.cell), point[layout.columns]]
      scores = run.record.scores if run.record else {}
      # A failed run's is None; which tasks a mixture has, it does not say.
      own = str(point["task"]).removesuffix(_PREFIXED)
      if run.failed and own in sheet.values.get("task", {}):
        scores = {own: None}
      for task, value in scores.items():
        # A run on one task may have chosen a form of it, such as ..._sentinel.
        name = task if len(scores) > 1 else point["task"]
        label = sheet.label("task", str(name).removesuffix(_PREFIXED))
        repeat = _others(point, [*layout.rows, layout.columns, "task"])
        place.setdefault(label, {})[repeat] = value
    return {
      place: {k: entries.entry_of(x) for k, x in tasks.items()}
      for place, tasks in values.items()
    }

  @functools.cached_property
  def ensembles(
    self,
  ) -> Mapping[AxisValue, tuple[float | None, float | None, float | None]]:
    """Task -> average, best and ensemble of its prompts.

    None where the prompts, or the ensemble, are not all there.
    """
    alone: dict[AxisValue, list[float | None]] = {}
    together: dict[AxisValue, float | None] = {}
    for run in self.views:
      task = run.cell.point[self.sheet.layout.rows[0]]
      value = run.record.score if run.record else None
      if "seed" in run.cell.point:
        alone.setdefault(task, []).append(value)
      else:
        together[task] = value
    found = {}
    for task in dict.fromkeys([*alone, *together]):
      prompts = [x for x in alone.get(task, []) if x is not None]
      mean, best = None, None
      if prompts and len(prompts) == len(alone[task]):
        mean, best = sum(prompts) / len(prompts), max(prompts)
      found[task] = (mean, best, together.get(task))
    return found

  @functools.cached_property
  def columns_are_numbers(self) -> bool:
    """Whether the column axis is one of numbers, such as lengths."""
    return all(not isinstance(x, str) for x in self.columns)

  @functools.cached_property
  def xs(self) -> Mapping[AxisValue, float]:
    """Column -> where it lies on the x axis, as `cells.Value.x` says.

    A model without a record, whose size is not known, is missing.
    """
    return {
      column: x for column in self.columns if (x := self._x(column)) is not None
    }

  def _x(self, column: AxisValue) -> float | None:
    axis = self.sheet.layout.columns
    given = self.sheet.value(axis, column).x
    if given is not None:
      return given
    if self.columns_are_numbers:
      return float(column)
    for run in self.views:
      if run.record and run.cell.point[axis] == column:
        counts = run.record.parameters
        return counts.get("frozen") or counts.get("trainable")
    return None

  def line(self, row: Row, task: str | None = None) -> list[Point]:
    """Returns the points of a row that have both an x and scores, by x.

    Args:
      row: The row.
      task: The label of one, of the table by task.
    """
    found = []
    for column, x in self.xs.items():
      entry = self.entries.get((row, column))
      if task is not None:
        entry = self.by_task.get((row, column), {}).get(task)
      if entry and entry.summary:
        found.append(Point(x, entry.summary))
    return sorted(found, key=lambda point: point.x)

  def majority(self, column: AxisValue) -> float | None:
    """Returns what the most frequent answer scores in a column, where known."""
    sheet, axis = self.sheet, self.sheet.layout.mean_over
    if axis is None:
      return sheet.value(sheet.layout.columns, column).majority
    known = [sheet.value(axis, x).majority for x in sheet.grids[0][axis]]
    values = [x for x in known if x is not None]
    return statistics.fmean(values) if len(values) == len(known) else None

  @functools.cached_property
  def pairs(self) -> Sequence[tuple[Row, Row]]:
    """The rows that `gaps` compares, the upper and the lower."""
    return [
      (upper, lower)
      for pair in self.sheet.layout.gaps
      for upper, lower in itertools.permutations(self.rows, 2)
      if [x for x in zip(upper, lower, strict=True) if x[0] != x[1]] == [pair]
    ]

  def gap(self, upper: Row, lower: Row) -> Mapping[AxisValue, records.Summary]:
    """Column -> by how much one row is above another, in points."""
    gaps = {
      x: entries.gap(self.entries.get((upper, x)), self.entries.get((lower, x)))
      for x in self.columns
    }
    return {column: gap for column, gap in gaps.items() if gap is not None}

  def gap_by_task(
    self, upper: Row, lower: Row, column: AxisValue
  ) -> Mapping[str, records.Summary]:
    """Label of a task -> by how much one row is above another, in points."""
    above, below = (self.by_task.get((x, column), {}) for x in (upper, lower))
    return {
      task: gap
      for task in above
      if (gap := entries.gap(above.get(task), below.get(task))) is not None
    }

  def trainable(self, row: Row) -> tuple[int, int] | None:
    """Returns how many parameters train in a row, and how many there are.

    None if no run has finished, or if they differ.
    """
    counts = {
      (
        run.record.parameters.get("trainable", 0),
        sum(run.record.parameters.values()),
      )
      for run in self.views
      if run.record and self.row_of(run.cell) == row
    }
    return counts.pop() if len(counts) == 1 else None
