"""Layouts: the arrangement of a sheet's cells in a table and a figure."""

from collections.abc import Mapping, Sequence
import itertools
from typing import Literal

import pydantic

from prompt_tuning.experiments.toml_files import Strict

# A value of an axis: a number, or a name that [values] explains.
AxisValue = str | int | float
Grid = Mapping[str, Sequence[AxisValue]]
# The axis that `after` adds.
STEPS = "steps"
SEED = "seed"


class Layout(Strict):
  """The arrangement of cells in a table and a figure.

  Attributes:
    kind: "scores"; "ensemble": average, best and ensemble of the prompts; or
      "tasks": a run is a row, each of the tasks that it was evaluated on a
      column, called as the values of the axis `task` are.
    rows: Axes whose combinations are rows.
    columns: The axis of the columns.
    mean_over: The axis to average over, a mean of tasks, if any. A seed counts
      once it has all of them.
    gaps: Pairs of values of one row axis, by how much rows of the first are
      above those of the second.
    after: Numbers of steps, after which every run is looked at: the values of
      an axis `steps` that no grid has.
    mean_column: Whether to add the mean over the columns, which are tasks.
    parameters: Whether to show how many parameters train.
    figure: "lines" over the columns' x; "dots" for columns without an order;
      "parameters", the mean over the columns by how many train; or none.
    panels: Whether each task of `mean_over` has a panel of the figure of lines,
      before that of the mean.
    x_label: Of the figure.
    y_label: Of the figure.
  """

  kind: Literal["scores", "ensemble", "tasks"] = "scores"
  rows: list[str]
  columns: str
  mean_over: str | None = None
  gaps: list[tuple[str, str]] = pydantic.Field(default_factory=list)
  after: list[int] = pydantic.Field(default_factory=list)
  mean_column: bool = False
  parameters: bool = False
  figure: Literal["lines", "dots", "parameters"] | None = None
  panels: bool = False
  x_label: str = ""
  y_label: str = ""

  @property
  def axes(self) -> list[str]:
    """The axes that it names."""
    over = [self.mean_over] if self.mean_over else []
    return [*self.rows, self.columns, *over]


def check(layout: Layout, grids: Sequence[Grid]) -> None:
  """Checks that a layout names the axes of the grids, and shows all of them.

  Raises:
    ValueError: if it does not, or shows less than all runs, or `gaps` names no
      two rows, or there is nothing to make panels of.
  """
  if layout.after:
    if any(STEPS in grid for grid in grids):
      raise ValueError(f"after: a grid has an axis {STEPS} of its own")
    grids = [{**grid, STEPS: layout.after} for grid in grids]
  for grid in grids:
    for axis in layout.axes:
      if axis not in grid:
        raise ValueError(f"no axis {axis} in the grid over {list(grid)}")
  # A grid without an axis is of other runs than those with it.
  values: dict[str, set[AxisValue | None]] = {
    axis: {x for grid in grids for x in grid.get(axis, [None])}
    for axis in itertools.chain(*grids)
  }
  for axis, some in values.items():
    if axis in (*layout.axes, SEED) or len(some) == 1:
      continue
    if None in some:
      raise ValueError(
        f"a grid has an axis {axis} and another has none, but their runs may "
        "not be averaged: give every grid one, and name it in the layout"
      )
    raise ValueError(
      f"{axis} has {len(some)} values, but only those of a seed may be "
      "averaged: name it in the layout's rows, columns or mean_over"
    )
  if layout.panels and (layout.figure, layout.mean_over) != ("lines", "task"):
    raise ValueError('panels: expected figure = "lines" and mean_over = "task"')
  repeats = len(values.get(SEED, ())) > 1 and SEED not in layout.rows
  if layout.kind == "tasks" and repeats:
    raise ValueError(f'kind = "tasks": a row is a run, so name {SEED} in rows')
  if layout.kind == "ensemble":
    alone = {x for g in grids if SEED in g for x in g[layout.columns]}
    if len(alone) > 1:
      raise ValueError(
        f'kind = "ensemble": expected the prompts of one {layout.columns}, got '
        f"{', '.join(sorted(map(str, alone)))}"
      )
  for gap in layout.gaps:
    if not any({*gap} <= values[axis] for axis in layout.rows):
      raise ValueError(f"gaps: expected two values of a row axis, got {gap}")
