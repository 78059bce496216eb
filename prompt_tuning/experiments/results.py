"""The data frame of a sheet's runs, and the table that groups them.

Every number in a table or figure comes from one frame: a row for each run, with
its place in the table, its seed, and what the record says.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import functools
import itertools
import math
import statistics
from typing import Any

import pandas as pd

from prompt_tuning.experiments import records
from prompt_tuning.experiments.cells import AxisValue, Cell
from prompt_tuning.experiments.records import Archive
from prompt_tuning.experiments.sheets import SEED, STEPS, Paper, Sheet

# Values of the axes that make up a row of a table.
Row = tuple[AxisValue, ...]
# The column axis of tables by task: the task's label.
TASK_LABEL = "task label"
# Ends the names of tasks whose inputs name the task, and of mixtures.
_PREFIXED = "_prefixed"
# The seed of a run without one, such as that of a frozen model.
NO_SEED = ""


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


def row_key(values: Iterable[AxisValue]) -> str:
  """Returns the key of a row: its values, such as "prompt/20"."""
  return "/".join(map(str, values))


def deviation(scores: Iterable[float]) -> float:
  """Returns the sample standard deviation; NaN for a single score."""
  values = list(scores)
  if len(values) < 2:
    return math.nan
  mean = statistics.fmean(values)
  squares = math.fsum((x - mean) ** 2 for x in values)
  return math.sqrt(squares / (len(values) - 1))


@dataclasses.dataclass(frozen=True)
class Place:
  """A place of a table.

  Attributes:
    scores: Seed -> mean over tasks, in [0, 100], of seeds that have all tasks.
    failed: Whether a run has failed.
  """

  scores: Mapping[Any, float]
  failed: bool

  @property
  def mean(self) -> float:
    return statistics.fmean(self.scores.values()) if self.scores else math.nan

  @property
  def std(self) -> float:
    return deviation(self.scores.values())

  @property
  def bar(self) -> float:
    """The standard deviation to draw; none for a single score."""
    return 0.0 if math.isnan(self.std) else self.std


class View:
  """A frame of runs, grouped into the rows and columns of a table.

  Attributes:
    frame: The runs: their row, column, seed and task, and their
      properties. A failed or missing run has the score NaN.
    axes: Names of the axes whose combinations are rows.
    rows: Key -> the rows' values, in order.
    columns: The columns' values, in order.
    places: Key of a row and column -> place, if some cell belongs to it.
  """

  def __init__(
    self,
    runs: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]],
    axes: Sequence[str],
    columns: str,
    mean_over: str | None = None,
  ):
    """Groups runs.

    Args:
      runs: Axis -> value, and column of the frame -> value, of each run.
      axes: Names of the axes whose combinations are rows.
      columns: The axis of the columns.
      mean_over: The axis of tasks to average over, if any.
    """
    runs = list(runs)
    values = [tuple(point[axis] for axis in axes) for point, _ in runs]
    self.axes = list(axes)
    self.rows: dict[str, Row] = {row_key(x): x for x in values}
    self.frame: Any = pd.DataFrame(
      [
        {
          "row": row_key(row),
          "column": point[columns],
          "seed": point.get(SEED, NO_SEED),
          "task": point.get(mean_over or "", ""),
          **known,
        }
        for row, (point, known) in zip(values, runs, strict=True)
      ],
      dtype=object,  # So that 1 beside 0.5 stays an integer.
    )
    self.columns: list[AxisValue] = list(self.frame["column"].unique())
    self.places = self._places(["row", "column"], "task")

  def _places(
    self, by: Sequence[str], tasks: str, needed: int = 0
  ) -> dict[tuple, Place]:
    """Averages over tasks.

    Args:
      by: Columns whose values make up a place.
      tasks: The column to average over.
      needed: How many tasks a seed must have; by default, as many as its place.
    """
    found = {}
    for place, own in self.frame.groupby(list(by), sort=False):
      every = needed or own[tasks].nunique()
      done = own.dropna(subset="score").groupby("seed", sort=False)["score"]
      scores = {s: statistics.fmean(x) for s, x in done if len(x) == every}
      found[place] = Place(scores, own["failed"].any())
    return found

  @functools.cached_property
  def means(self) -> dict[str, Place]:
    """Key of a row -> the mean over all columns, which are tasks."""
    found = self._places(["row"], "column", len(self.columns))
    return {row: place for (row,), place in found.items()}

  def gap(
    self, upper: str, lower: str
  ) -> dict[AxisValue, tuple[float, float, int]]:
    """Returns how far one row is above another, in points.

    The gap compares the seeds that both rows have, or all seeds if they share
    none. Its deviation is that of the difference of two single runs.

    Returns:
      Mean, std and n for each column in which both rows have scores.
    """
    found = {}
    for column in self.columns:
      places = [self.places.get((row, column)) for row in (upper, lower)]
      above, below = (dict(x.scores) if x else {} for x in places)
      if shared := above.keys() & below.keys():
        above, below = ({k: x[k] for k in shared} for x in (above, below))
      if above and below:
        first, second = above.values(), below.values()
        found[column] = (
          statistics.fmean(first) - statistics.fmean(second),
          math.hypot(deviation(first), deviation(second)),
          min(len(above), len(below)),
        )
    return found

  def pairs(self, gaps: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Returns the pairs of rows that differ only in the values of a gap."""
    found = []
    for pair, (upper, lower) in itertools.product(
      gaps, itertools.permutations(self.rows, 2)
    ):
      values = zip(self.rows[upper], self.rows[lower], strict=True)
      if [x for x in values if x[0] != x[1]] == [pair]:
        found.append((upper, lower))
    return found

  def trainable(self, row: str) -> tuple[int, int] | None:
    """Returns how many parameters train in a row, and how many there are.

    None if no run has finished, or if the runs differ.
    """
    own = self.frame[self.frame["row"] == row].dropna(subset="total")
    counts = {*zip(own["trainable"], own["total"], strict=True)}
    return counts.pop() if len(counts) == 1 else None

  def median(self, row: str, column: str) -> float:
    """Returns the median of a column of the frame; NaN if none is known."""
    own = self.frame[self.frame["row"] == row]
    return float(own[column].astype(float).median())


@dataclasses.dataclass(frozen=True)
class Results:
  """A sheet with its records.

  Attributes:
    sheet: The sheet.
    archive: All records.
    beside: The results of the sheet of full size, if this one is a miniature
      of it.
  """

  sheet: Sheet
  archive: Archive
  beside: "Results | None" = None

  @functools.cached_property
  def runs(self) -> list[Run]:
    """The sheet's cells, in order, with their records."""
    return [Run(cell, self.archive.find(cell)) for cell in self.sheet.cells()]

  @property
  def exist(self) -> bool:
    """True if any run has results that the layout shows."""
    return any(record for *_, record in self.looks())

  @property
  def paper(self) -> Paper | None:
    """The paper's numbers: those of the sheet of full size, if there is one."""
    return (self.beside or self).sheet.paper

  def looks(
    self, at_end: bool = False
  ) -> Iterator[tuple[Mapping[str, AxisValue], Run, records.RunRecord | None]]:
    """Yields each run as the layout looks at it, with its point and record.

    If the layout asks for it, each run is looked at after several numbers of
    steps.
    """
    for run in self.runs:
      for steps in self.sheet.layout.after or [None]:
        point, record = run.cell.point, run.record
        if steps is not None:
          point = {**point, STEPS: steps}
          record = run.record.after(steps) if run.record else None
        if record and (metric := self.sheet.layout.metric):
          record = record.only(metric)
          if not record.scores:
            raise ValueError(
              f"{run.cell.full_name}: no task of its record has the metric "
              f"{metric!r} of the layout"
            )
        if record and at_end:
          record = record.model_copy(update={"best": None})
        yield point, run, record if record and record.scores else None

  def grouped(self, at_end: bool = False) -> View:
    """Groups the runs as the layout says.

    Args:
      at_end: Whether a run's last evaluation counts, not its best.
    """
    layout = self.sheet.layout
    runs = []
    for point, run, record in self.looks(at_end):
      counts = record.parameters if record else {}
      known = {
        "score": record.score if record else math.nan,
        "failed": run.failed,
        "trainable": counts.get("trainable", 0),
        "total": sum(counts.values()) if record else math.nan,
        "size": counts.get("frozen") or counts.get("trainable") or math.nan,
        "step_seconds": (record and record.step_seconds) or math.nan,
        "bytes": (record and record.peak_memory_bytes) or math.nan,
        "style": run.cell.method,
      }
      runs.append((point, known))
    return View(runs, layout.rows, layout.columns, layout.mean_over)

  @functools.cached_property
  def view(self) -> View:
    """The table of the layout, by each run's best evaluation."""
    return self.grouped()

  @functools.cached_property
  def by_task(self) -> View:
    """The table of a layout with `mean_over`, with a column for each task.

    A run on a mixture of tasks, called `*_prefixed`, is split into them.
    """
    sheet, layout = self.sheet, self.sheet.layout
    runs = []
    for point, run, record in self.looks():
      scores: dict[str, float] = record.scores if record else {}
      # A failed run has no score. Its record does not say a mixture's tasks.
      own = str(point["task"]).removesuffix(_PREFIXED)
      if run.failed and own in sheet.values.get("task", {}):
        scores = {own: math.nan}
      for task, score in scores.items():
        # A run on one task may have chosen a form of it, such as ..._sentinel.
        name = task if len(scores) > 1 else point["task"]
        label = sheet.label("task", str(name).removesuffix(_PREFIXED))
        known = {"score": score, "failed": run.failed}
        runs.append(({**point, TASK_LABEL: label}, known))
    columns, order = self.view.columns, list(self.view.rows.values())
    runs.sort(key=lambda x: columns.index(x[0][layout.columns]))
    runs.sort(key=lambda x: order.index(tuple(x[0][a] for a in layout.rows)))
    return View(runs, [*layout.rows, layout.columns], TASK_LABEL)

  def label(self, axes: Sequence[str], values: Sequence[AxisValue]) -> str:
    """Returns the label of a combination of values, such as "LoRA, xs"."""
    return ", ".join(map(self.sheet.label, axes, values))

  def row_labels(self) -> dict[str, str]:
    """Returns the label of each row of `view`, by its key."""
    view = self.view
    return {key: self.label(view.axes, row) for key, row in view.rows.items()}

  def column_label(self, column: AxisValue) -> str:
    """Returns the label of a column."""
    return self.sheet.label(self.sheet.layout.columns, column)

  @property
  def columns_are_numbers(self) -> bool:
    """True if the column axis is one of numbers, such as lengths."""
    return all(not isinstance(x, str) for x in self.view.columns)

  @functools.cached_property
  def xs(self) -> Mapping[AxisValue, float]:
    """Column -> its position on the x axis, as `cells.Value.x` says.

    A model without a record, whose size is not known, is missing.
    """
    sizes = self.view.frame.groupby("column")["size"].first()
    found = {}
    for column in self.view.columns:
      x = self.sheet.value(self.sheet.layout.columns, column).x
      if x is None:
        x = float(column) if self.columns_are_numbers else sizes[column]
      if x is not None and not math.isnan(x):
        found[column] = x
    return found

  def line(
    self,
    row: str,
    task: str | None = None,
    xs: Mapping[AxisValue, float] | None = None,
  ) -> list[tuple[float, float, float]]:
    """Returns x, mean and std of a row's points, by x.

    Args:
      row: The key of the row.
      task: The label of a task of `by_task`; by default, the mean over tasks.
      xs: Column -> x; by default `xs`.
    """
    found = []
    for column, x in (self.xs if xs is None else xs).items():
      if task is None:
        place = self.view.places.get((row, column))
      else:
        key = row_key([*self.view.rows[row], column])
        place = self.by_task.places.get((key, task))
      if place and place.scores:
        found.append((x, place.mean, place.bar))
    return sorted(found)

  def majority(self, column: AxisValue) -> float | None:
    """Returns the score of the most frequent answer in a column, if known."""
    sheet, axis = self.sheet, self.sheet.layout.mean_over
    if axis is None:
      return sheet.value(sheet.layout.columns, column).majority
    known = [sheet.value(axis, x).majority for x in sheet.grids[0][axis]]
    values = [x for x in known if x is not None]
    return statistics.fmean(values) if len(values) == len(known) else None
