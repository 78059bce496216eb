"""The data frame of a sheet's runs, and the table that it is grouped into.

Every number in a table or figure comes from one frame: a row for each run, the
sheet's axes as its index, what the record says as its columns.
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
from prompt_tuning.experiments.archive import Archive
from prompt_tuning.experiments.cells import AxisValue, Cell
from prompt_tuning.experiments.sheets import SEED, STEPS, Paper, Sheet

# Values of the axes that make up a row of a table.
Row = tuple[AxisValue, ...]
# The column axis of tables by task: the task's label.
TASK_LABEL = "task label"
# Ends the names of tasks whose inputs name the task, and of mixtures.
_PREFIXED = "_prefixed"
# The value of an axis that a grid lacks, such as the seed of a frozen model.
_NO_VALUE = ""


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


def _frame(
  rows: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]],
) -> pd.DataFrame:
  """Makes a frame of (axis -> value, column -> value), one for each row."""
  points, values = zip(*rows, strict=True)
  axes = dict.fromkeys([*itertools.chain(*points), SEED])
  index = pd.MultiIndex.from_arrays(
    # As objects, so that 1 beside 0.5 stays an integer.
    [
      pd.Index([x.get(a, _NO_VALUE) for x in points], dtype=object)
      for a in axes
    ],
    names=list(axes),
  )
  return pd.DataFrame(list(values), index=index)


def _summary(scores: pd.Series, places: Sequence[str]) -> pd.DataFrame:
  """Returns mean, sample standard deviation and n of each place's seeds.

  Args:
    scores: In [0, 100], indexed by `places` and the seed; NaN where missing.
    places: Names of index levels.
  """
  groups = scores.groupby(level=list(places), sort=False)
  return pd.DataFrame(
    {"mean": groups.agg(_mean), "std": groups.agg(_std), "n": groups.count()}
  )


def _mean(scores: pd.Series) -> float:
  """Returns the mean, correctly rounded; NaN for no score."""
  values = scores.dropna()
  return math.fsum(values) / len(values) if len(values) else math.nan


def _std(scores: pd.Series) -> float:
  """Returns the sample standard deviation; NaN for a single score."""
  values = scores.dropna()
  if len(values) < 2:
    return math.nan
  mean = _mean(values)
  squares = math.fsum((x - mean) ** 2 for x in values)
  return math.sqrt(squares / (len(values) - 1))


def _keys(index: pd.Index, axes: Sequence[str]) -> list[Row]:
  """Returns the values of some axes at each place of an index."""
  levels = [index.get_level_values(axis) for axis in axes]
  return list(zip(*levels, strict=True)) if levels else [()] * len(index)


class View:
  """A frame of runs, grouped into the rows and columns of a table.

  Attributes:
    frame: The runs. A failed or missing run has no score.
    axes: Names of the axes whose combinations are rows.
    columns_axis: Name of the axis of the columns.
    run_rows: The row of each run.
    rows: The rows' values, in order.
    columns: The columns' values, in order.
    seeds: Score of each row, column and seed: the mean over tasks; NaN until
      the seed has all of them.
    summary: Mean, std and n over seeds, and the number of failed runs, for each
      row and column that some cell belongs to.
    places: The same, (*row, column) -> summary.
  """

  def __init__(
    self,
    frame: pd.DataFrame,
    axes: Sequence[str],
    columns: str,
    mean_over: str | None = None,
  ):
    self.frame, self.axes, self.columns_axis = frame, list(axes), columns
    places = [*axes, columns]
    self.run_rows = _keys(frame.index, axes)
    self.rows: list[Row] = list(dict.fromkeys(self.run_rows))
    self.columns: list[AxisValue] = list(
      frame.index.get_level_values(columns).unique()
    )
    self.seeds = self._over_tasks(places, mean_over)
    failed = frame["failed"].groupby(level=places, sort=False).sum()
    self.summary = _summary(self.seeds, places).assign(failed=failed)
    keys = _keys(self.summary.index, places)
    found = self.summary.to_dict("records")
    self.places = dict(zip(keys, found, strict=True))

  def _over_tasks(
    self, places: Sequence[str], tasks: str | None, needed: int | None = None
  ) -> pd.Series:
    """Averages over tasks: a score for each place and seed.

    Args:
      places: Axes of the places.
      tasks: The axis to average over, if any.
      needed: How many tasks a seed must have; by default, as many as its place.
    """
    by = list(dict.fromkeys([*places, SEED]))
    groups: Any = self.frame["score"].groupby(level=by, sort=False)
    means, done = groups.agg(_mean), groups.count()
    if tasks is None:
      return means
    if needed is not None:
      return means.where(done == needed)
    points: Any = self.frame.index.to_frame(index=False)
    every = points.groupby(list(places))[tasks].nunique()
    own_places = means.index.droplevel([x for x in by if x not in places])
    expected = own_places.map(every)
    return means.where(done.to_numpy() == expected.to_numpy())

  @functools.cached_property
  def means(self) -> dict[Row, dict[str, float]]:
    """Each row's summary of the mean over all columns, which are tasks."""
    scores = self._over_tasks(self.axes, self.columns_axis, len(self.columns))
    failed = self.frame["failed"].groupby(level=self.axes, sort=False).sum()
    found = _summary(scores, self.axes).assign(failed=failed)
    return dict(zip(self.rows, found.to_dict("index").values(), strict=True))

  def gap(self, upper: Row, lower: Row) -> pd.DataFrame:
    """Returns by how much one row is above another, in points.

    A gap is between the seeds that both have, or between all if they share
    none. Its deviation is that of the difference of two single runs.

    Returns:
      Mean, std and n for each column in which both rows have scores.
    """
    found = {}
    for column in self.columns:
      scores = [self._scores(row, column) for row in (upper, lower)]
      both = pd.concat(scores, axis=1, sort=False)
      shared = both.dropna()
      above, below = (x for _, x in (both if shared.empty else shared).items())
      if n := min(above.count(), below.count()):
        std = math.hypot(_std(above), _std(below))
        found[column] = (_mean(above) - _mean(below), std, n)
    return pd.DataFrame.from_dict(
      found, orient="index", columns=["mean", "std", "n"]
    )

  def _scores(self, row: Row, column: AxisValue) -> pd.Series:
    """Returns the scores of a place, by seed."""
    axes = [*self.axes, self.columns_axis]
    keys = _keys(self.seeds.index, axes)
    scores = self.seeds[[key == (*row, column) for key in keys]].dropna()
    return scores.set_axis(scores.index.get_level_values(SEED))

  def points(self, axes: Sequence[str], key: Row) -> pd.DataFrame:
    """Returns the places with scores that have some values, to be drawn.

    Args:
      axes: All axes of rows and columns but one.
      key: Their values.

    Returns:
      Mean and std, 0 for a single score, by the value of the other axis.
    """
    own = self.summary[[x == key for x in _keys(self.summary.index, axes)]]
    scores = own[["mean", "std"]].dropna(subset="mean").fillna(0.0)
    return scores.droplevel(list(axes))

  def pairs(self, gaps: Iterable[tuple[str, str]]) -> list[tuple[Row, Row]]:
    """Returns the pairs of rows that differ in just the values of a gap."""
    return [
      (upper, lower)
      for pair in gaps
      for upper, lower in itertools.permutations(self.rows, 2)
      if [x for x in zip(upper, lower, strict=True) if x[0] != x[1]] == [pair]
    ]

  def trainable(self, row: Row) -> tuple[int, int] | None:
    """Returns how many parameters train in a row, and how many there are.

    None if no run has finished, or if the runs differ.
    """
    own = self.frame[[x == row for x in self.run_rows]]
    counts = own[["trainable", "total"]].dropna().drop_duplicates()
    if len(counts) != 1:
      return None
    return int(counts["trainable"].iloc[0]), int(counts["total"].iloc[0])


class Results:
  """A sheet with its records.

  Attributes:
    sheet: The sheet.
    archive: All records.
    beside: The results of the sheet of full size, if this one is a miniature
      of it.
    runs: The sheet's cells, in order, with their records.
  """

  def __init__(
    self, sheet: Sheet, archive: Archive, beside: "Results | None" = None
  ):
    self.sheet = sheet
    self.archive = archive
    self.beside = beside
    self.runs = [Run(cell, archive.find(cell)) for cell in sheet.cells()]

  @property
  def exist(self) -> bool:
    """True if any run has results."""
    return any(run.record for run in self.runs)

  @property
  def paper(self) -> Paper | None:
    """The paper's numbers: those of the sheet of full size, if there is one."""
    return (self.beside or self).sheet.paper

  def _looks(
    self, at_end: bool = False
  ) -> Iterator[tuple[Mapping[str, AxisValue], Run, records.RunRecord | None]]:
    """Yields each run as the layout looks at it, with its point and record.

    Where the layout asks for it, that is after several numbers of steps.

    Args:
      at_end: Whether a run's last evaluation counts, not its best.
    """
    for run in self.runs:
      for steps in self.sheet.layout.after or [None]:
        point, record = run.cell.point, run.record
        if steps is not None:
          point = {**point, STEPS: steps}
          record = run.record.after(steps) if run.record else None
        if record and at_end:
          record = record.at_its_end()
        yield point, run, record if record and record.scores else None

  def _view(self, at_end: bool) -> View:
    layout = self.sheet.layout
    rows = []
    for point, run, record in self._looks(at_end):
      counts = record.parameters if record else {}
      values = {
        "score": record.score if record else math.nan,
        "failed": run.failed,
        "trainable": counts.get("trainable", 0) if record else math.nan,
        "total": sum(counts.values()) if record else math.nan,
        "size": counts.get("frozen") or counts.get("trainable") or math.nan,
        "style": run.cell.method,
      }
      rows.append((point, values))
    return View(_frame(rows), layout.rows, layout.columns, layout.mean_over)

  @functools.cached_property
  def view(self) -> View:
    """The table of the layout, by each run's best evaluation."""
    return self._view(at_end=False)

  @functools.cached_property
  def view_at_end(self) -> View:
    """The table of the layout, by each run's last evaluation."""
    return self._view(at_end=True)

  @functools.cached_property
  def by_task(self) -> View:
    """The table of a layout with `mean_over`, with a column for each task.

    A run on a mixture of tasks, which is called *_prefixed, is split into them.
    """
    sheet, layout = self.sheet, self.sheet.layout
    axes = [*layout.rows, layout.columns]
    rows = []
    for point, run, record in self._looks():
      scores: dict[str, float] = record.scores if record else {}
      # A failed run has no score. Its record does not say a mixture's tasks.
      own = str(point["task"]).removesuffix(_PREFIXED)
      if run.failed and own in sheet.values.get("task", {}):
        scores = {own: math.nan}
      for task, score in scores.items():
        # A run on one task may have chosen a form of it, such as ..._sentinel.
        name = task if len(scores) > 1 else point["task"]
        label = sheet.label("task", str(name).removesuffix(_PREFIXED))
        place = {k: x for k, x in point.items() if k in (*axes, SEED)}
        place[TASK_LABEL] = label
        rows.append((place, {"score": score, "failed": run.failed}))
    columns, order = self.view.columns, self.view.rows
    rows.sort(key=lambda x: columns.index(x[0][layout.columns]))
    rows.sort(key=lambda x: order.index(tuple(x[0][a] for a in layout.rows)))
    return View(_frame(rows), axes, TASK_LABEL)

  def label(self, axes: Sequence[str], values: Sequence[AxisValue]) -> str:
    """Returns the label of a combination of values, such as "LoRA, xs"."""
    return ", ".join(map(self.sheet.label, axes, values))

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
    axis = self.sheet.layout.columns
    sizes: Any = self.view.frame["size"].groupby(level=axis).first()
    found = {}
    for column in self.view.columns:
      x = self.sheet.value(axis, column).x
      if x is None:
        x = float(column) if self.columns_are_numbers else sizes[column]
      if not math.isnan(x):
        found[column] = x
    return found

  def line(self, row: Row, task: str | None = None) -> pd.DataFrame:
    """Returns x, mean and std of a row's points that have both, by x.

    Args:
      row: The row.
      task: The label of a task of `by_task`; by default, the mean over tasks.
    """
    if task is None:
      points = self.view.points(self.view.axes, row)
    else:
      axes = [*self.view.axes, TASK_LABEL]
      points = self.by_task.points(axes, (*row, task))
    xs = [self.xs.get(column, math.nan) for column in points.index]
    return points.assign(x=xs).dropna().sort_values("x")

  def majority(self, column: AxisValue) -> float | None:
    """Returns the score of the most frequent answer in a column, if known."""
    sheet, axis = self.sheet, self.sheet.layout.mean_over
    if axis is None:
      return sheet.value(sheet.layout.columns, column).majority
    known = [sheet.value(axis, x).majority for x in sheet.grids[0][axis]]
    values = [x for x in known if x is not None]
    return statistics.fmean(values) if len(values) == len(known) else None
