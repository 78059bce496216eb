"""Sheets: TOML files with the runs of one table or figure.

A sheet in `configs/` spans grids over axes such as size, method, task and seed.
A point of a grid is a cell, and `cells` makes its command. `extends` names a
file, relative to the sheet, that several sheets share.
"""

from collections.abc import Mapping, Sequence
import difflib
import itertools
import pathlib
import tomllib
from typing import Annotated, Any, Literal, TypeVar

import pydantic
import tomlkit

from prompt_tuning.experiments import cells
from prompt_tuning.experiments.cells import (
  AxisValue,
  Cell,
  Program,
  Strict,
  Value,
)
from t5x.files import parsing

# Sheets without runs.
NO_RUNS = ("claims", "interpretability", "parameters", "plan")
# The folders below `configs` that hold sheets.
_FOLDERS = ("", "full/")
# The axis that `Layout.after` adds, and the axis of repetitions.
STEPS = "steps"
SEED = "seed"
_MEND = "Correct that line."
_Model = TypeVar("_Model", bound=pydantic.BaseModel)
_Axis = Annotated[list[AxisValue], pydantic.Field(min_length=1)]
# A number of a paper: "~" marks a rounded one, "" a gap.
_Number = Annotated[str, pydantic.Field(pattern=r"^(~?[-+]?\d+(\.\d*)?)?$")]


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
    gaps: Pairs of values of one row axis; the table shows how far rows of the
      first are above those of the second.
    after: Numbers of steps, after which every run is looked at: the values of
      an axis `steps` that no grid has.
    metric: The metric that is the score of each task; by default, the mean of
      all its metrics.
    mean_column: Whether to add the mean over the columns, which are tasks.
    parameters: Whether to show how many parameters train.
    costs: Whether to show the time of a training step and a run's peak memory:
      medians over the row.
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
  metric: str | None = None
  mean_column: bool = False
  parameters: bool = False
  costs: bool = False
  figure: Literal["lines", "dots", "parameters"] | None = None
  panels: bool = False
  x_label: str = ""
  y_label: str = ""


def _check_layout(
  layout: Layout, grids: Sequence[Mapping[str, Sequence[AxisValue]]]
) -> None:
  """Checks that a layout names the axes of the grids, and shows all of them.

  Raises:
    ValueError: if it does not, or shows less than all runs, or `gaps` names no
      two rows, or there is nothing to make panels of.
  """
  if layout.after:
    if any(STEPS in grid for grid in grids):
      raise ValueError(f"after: a grid has an own axis {STEPS}")
    grids = [{**grid, STEPS: layout.after} for grid in grids]
  axes = [*layout.rows, layout.columns]
  axes += [layout.mean_over] if layout.mean_over else []
  for grid in grids:
    for axis in axes:
      if axis not in grid:
        raise ValueError(f"no axis {axis} in the grid over {list(grid)}")
  # A grid without an axis is of other runs than those with it.
  values: dict[str, set[AxisValue | None]] = {
    axis: {x for grid in grids for x in grid.get(axis, [None])}
    for axis in itertools.chain(*grids)
  }
  for axis, some in values.items():
    if axis in (*axes, SEED) or len(some) == 1:
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
  if layout.mean_column and layout.mean_over:
    raise ValueError("mean_column: expected tasks as columns, and no mean_over")
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


class PaperRow(Strict):
  """A row of the paper's numbers.

  Attributes:
    label: Of the row.
    row: The value of our row axis that it is to be compared with.
    values: A number or a text such as "~62.8" for each column; "" for none.
    band: The lowest and highest of each column, where the figure shows them.
    how: Whether it is printed in the paper, read off its figure, or printed in
      another paper, which `source` names.
  """

  label: str
  row: str | None = None
  values: list[float | _Number]
  band: list[list[float]] | None = None
  how: Literal["printed", "figure", "elsewhere"]
  source: str

  def numbers(self) -> list[float | None]:
    """Returns the values as numbers."""
    texts = [str(x).lstrip("~") for x in self.values]
    return [float(x) if x else None for x in texts]


class Paper(Strict):
  """The paper's numbers, to stand beside ours.

  Attributes:
    source: Figure or table.
    columns: The columns that the values of a row belong to.
    x: The columns' positions on a figure's x axis.
    note: The precision of the numbers, and limits to comparing them with ours.
    rows: The numbers.
  """

  source: str
  columns: list[str]
  x: list[float] = pydantic.Field(default_factory=list)
  note: str = ""
  rows: list[PaperRow]

  @pydantic.model_validator(mode="after")
  def _is_rectangular(self) -> "Paper":
    if self.x and len(self.x) != len(self.columns):
      raise ValueError(f"{len(self.x)} x for {len(self.columns)} columns")
    for row in self.rows:
      for values in (row.values, row.band):
        if values is not None and len(values) != len(self.columns):
          raise ValueError(
            f"{row.label}: {len(values)} values for {len(self.columns)} columns"
          )
    return self


class Sheet(Strict):
  """A sheet.

  Attributes:
    name: Its path below `configs`, without the suffix.
    title: Title of the table.
    about: The question, and notes on the answer. Markdown.
    budget: The cost of the runs, and the device.
    launch: Command that runs missing cells; by default `prompt-tuning launch`.
    beside: Name of the sheet of full size, with the paper's numbers, of which
      this one is a miniature.
    grids: Axis -> values, at least one grid and one value of each axis. Names
      of cells follow the order of the axes.
    values: Axis -> value -> meaning. Numbers need no meaning.
    programs: Name -> program.
    layout: Layout of the table.
    paper: Numbers of the paper.
  """

  name: str
  title: str
  about: str
  budget: str
  launch: str | None = None
  beside: str | None = None
  grids: list[dict[str, _Axis]] = pydantic.Field(min_length=1)
  values: dict[str, dict[str, Value]] = pydantic.Field(default_factory=dict)
  programs: dict[str, Program]
  layout: Layout
  paper: Paper | None = None

  _cells: list[Cell] = pydantic.PrivateAttr()

  @pydantic.model_validator(mode="after")
  def _expand(self) -> "Sheet":
    _check_layout(self.layout, self.grids)
    found: dict[str, Cell] = {}
    for grid in self.grids:
      for axis, value in (
        (axis, x) for axis, some in grid.items() for x in some
      ):
        known = sorted(self.values.get(axis, {}))
        if isinstance(value, str) and value not in known:
          raise ValueError(
            f"{axis}={value} has no [values.{axis}.{value}]; there is {known}"
          )
      for values in itertools.product(*grid.values()):
        point = dict(zip(grid, values, strict=True))
        cell = cells.make(self.name, point, self.values, self.programs)
        other = found.setdefault(cell.name, cell)
        if other.point != cell.point:
          raise ValueError(
            f"{cell.name} is the name of {other.point} and of {cell.point}"
          )
    self._cells = [*found.values()]
    cells.check_repetitions(self._cells, SEED)
    return self

  def value(self, axis: str, value: AxisValue) -> Value:
    """Returns the meaning of a value of an axis; empty for most numbers."""
    return self.values.get(axis, {}).get(str(value), Value())

  def label(self, axis: str, value: AxisValue) -> str:
    """Returns the label of a value in tables."""
    return self.value(axis, value).label or str(value)

  def cells(self) -> list[Cell]:
    """Returns the cells of the grids, in order, each cell once."""
    return list(self._cells)

  @property
  def launch_command(self) -> str:
    """The command that runs the cells without a record."""
    return self.launch or f"prompt-tuning launch {self.name}"


def load(name: str, configs: pathlib.Path) -> Sheet:
  """Reads a sheet.

  Args:
    name: Such as scale or full/scale.
    configs: The folder of sheets.

  Raises:
    ValueError: if the file is wrong, with the place of the error.
  """
  return parse(configs / f"{name}.toml", Sheet, name=name)


def names(configs: pathlib.Path) -> list[str]:
  """Returns the names of the sheets of runs, such as scale and full/scale."""
  return sorted(
    folder + path.stem
    for folder in _FOLDERS
    for path in configs.glob(f"{folder}*.toml")
    if folder + path.stem not in NO_RUNS
  )


def load_all(configs: pathlib.Path) -> dict[str, Sheet]:
  """Returns name -> sheet, of every sheet of runs."""
  return {name: load(name, configs) for name in names(configs)}


def name_of(
  given: str, configs: pathlib.Path, without_runs: bool = False
) -> str:
  """Returns the name of the sheet that a command line names.

  Args:
    given: A name such as scale or full/scale, or a path such as
      configs/full/scale.toml, from the working directory.
    configs: The folder of sheets.
    without_runs: Whether sheets without runs, such as claims, are allowed.

  Returns:
    The name.

  Raises:
    ValueError: if there is no such sheet; the message lists similar names.
  """
  known = names(configs) + (list(NO_RUNS) if without_runs else [])
  name = given.removesuffix(".toml")
  path = pathlib.Path(given).resolve()
  if given.endswith(".toml") and path.is_relative_to(configs.resolve()):
    name = path.relative_to(configs.resolve()).with_suffix("").as_posix()
  if name in known:
    return name
  if name in NO_RUNS:
    raise ValueError(
      f"{given} has no runs: prompt-tuning tabulate makes its page."
    )
  close = difflib.get_close_matches(name, known, n=3)
  hint = f"Did you mean {' or '.join(close)}? " if close else ""
  raise ValueError(
    f"There is no sheet {given} in {configs}. {hint}There is "
    f"{', '.join(known) or 'none'}."
  )


def parse(path: pathlib.Path, kind: type[_Model], **fields: Any) -> _Model:
  """Reads a TOML file as a model of type `kind`.

  Args:
    path: The file. `extends` in it names another file, relative to its folder,
      whose fields it overrides.
    kind: A pydantic model.
    **fields: Fields that the file must not set itself.

  Raises:
    ValueError: if it is wrong; the message says where.
  """
  content = _read(path)
  if known := content.keys() & fields.keys():
    raise ValueError(
      f"{path} is invalid: a sheet must not set {', '.join(sorted(known))}."
    )
  with parsing.of(path, "a sheet", _MEND):
    return kind.model_validate({**fields, **content})


def dumps(fields: Mapping[str, Any]) -> str:
  """Writes fields as TOML; dictionaries of values and short lists in a line."""
  return tomlkit.dumps({key: _item(x) for key, x in fields.items()})


def _item(value: Any) -> Any:
  """Writes innermost dictionaries in a line, and texts as they read best."""
  if isinstance(value, dict):
    if not value or any(isinstance(x, dict | list) for x in value.values()):
      return {key: _item(x) for key, x in value.items()}
    return tomlkit.inline_table() | value
  if isinstance(value, str) and "\n" in value:
    return tomlkit.string(value, multiline=True)
  return value


def _read(
  path: pathlib.Path, over: tuple[pathlib.Path, ...] = ()
) -> dict[str, Any]:
  if path.resolve() in over:
    raise ValueError(f"{path} extends itself.")
  with parsing.of(path, "TOML", _MEND):
    content = tomllib.loads(path.read_text(encoding="utf-8"))
  shared = content.pop("extends", None)
  if shared is None:
    return content
  if not isinstance(shared, str) or not (path.parent / shared).is_file():
    raise ValueError(
      f"{path}: expected extends to name a file, from {path.parent}, got "
      f"{shared!r}."
    )
  base = _read(path.parent / shared, (*over, path.resolve()))
  return _merged(base, content)


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
  """Puts `over` over `base`, table by table."""
  merged = dict(base)
  for key, value in over.items():
    if isinstance(value, dict) and isinstance(merged.get(key), dict):
      value = _merged(merged[key], value)
    merged[key] = value
  return merged
