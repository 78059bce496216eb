"""Sheets: which runs make one table or figure, as TOML.

A sheet in `configs/` spans grids over axes such as size, method, task and seed.
A point of a grid is a cell. What a value of an axis means for the command is
said once, under `[values.AXIS.VALUE]`: gin files, bindings, and facts that
other bindings ask for with "$AXIS.FACT"; "$AXIS" is the value itself, and
"${AXIS}" its text within a longer one. A cell's command takes the gin files in
the order of the axes, then the program's; of bindings, later axes win over
earlier ones and over the program's. `extends` names a file, from the sheet's
folder, with what several sheets share.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import itertools
import json
import pathlib
import string
import tomllib
from typing import Any, Literal, TypeVar

import pydantic

from prompt_tuning.experiments import records

_Model = TypeVar("_Model", bound=pydantic.BaseModel)
# TOML has no None, and no gin reference: {gin = "None"} is written as it is.
_RAW = "gin"
# What lies beside the sheets of runs: nothing to launch.
NO_RUNS = ("claims", "parameters")


class Strict(pydantic.BaseModel, extra="forbid"):
  """Refuses names that it does not know."""


class Value(Strict):
  """What a value of an axis brings to a command.

  Attributes:
    label: For tables and figures; the value by default.
    x: Where it lies on a figure's x axis, the number of parameters; by default
      what the records say.
    program: Of `Sheet.programs`; "train" unless a value of the cell says
      otherwise.
    gin_files: In order.
    bindings: Name -> value.
    facts: Name -> what "$axis.name" stands for.
    majority: The score of giving the most frequent answer, of a task: what
      `Layout.metric` shows of it.
    last: Whether its cells need what the sheet's others leave in `runs`.
  """

  label: str | None = None
  x: float | None = None
  program: str | None = None
  gin_files: list[str] = []
  bindings: dict[str, Any] = {}
  facts: dict[str, Any] = {}
  majority: float | None = None
  last: bool = False


class Program(Strict):
  """A program that runs cells.

  Attributes:
    module: For `python -m`.
    folder: The binding that says where it writes.
    gin_files: Behind those of the cell.
    bindings: Name -> value.
    flags: As they are.
  """

  module: str
  folder: str
  gin_files: list[str]
  bindings: dict[str, Any] = {}
  flags: list[str] = []


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
  values: list[float | str]
  band: list[list[float]] | None = None
  how: Literal["printed", "figure", "elsewhere"]
  source: str

  def numbers(self) -> list[float | None]:
    """The values as numbers."""
    texts = [str(x).lstrip("~") for x in self.values]
    return [float(x) if x else None for x in texts]


class Paper(Strict):
  """The paper's numbers, to stand beside ours.

  Attributes:
    source: Figure or table.
    columns: What the values of a row belong to.
    x: Where the columns lie on a figure's x axis.
    note: How sure the numbers are, and why they may not be comparable.
    rows: The numbers.
  """

  source: str
  columns: list[str]
  x: list[float] = []
  note: str = ""
  rows: list[PaperRow]

  @pydantic.model_validator(mode="after")
  def _is_rectangular(self) -> "Paper":
    for row in self.rows:
      for values in (row.values, row.band):
        if values is not None and len(values) != len(self.columns):
          raise ValueError(
            f"{row.label}: {len(values)} values for {len(self.columns)} columns"
          )
    return self


class Layout(Strict):
  """How the cells become a table.

  Attributes:
    kind: "scores"; "ensemble": average, best and ensemble of the prompts; or
      "tasks": a run is a row, each of the tasks that it was evaluated on a
      column, called as the values of the axis `task` are.
    rows: Axes whose combinations are rows.
    columns: The axis of the columns.
    mean_over: The axis to average over, a mean of tasks, if any. A seed counts
      once it has all of them.
    gap: Two rows, by how much the first is above the second. Theirs is the only
      row axis.
    metric: The one to show instead of the mean of a task's metrics.
    mean_column: Whether to add the mean over the columns, which are tasks.
    parameters: Whether to show how many parameters train.
    figure: "lines" over the columns' x; "dots" for columns without an order;
      "parameters", the mean over the columns by how many train; or none.
    x_label: Of the figure.
    y_label: Of the figure.
  """

  kind: Literal["scores", "ensemble", "tasks"] = "scores"
  rows: list[str]
  columns: str
  mean_over: str | None = None
  gap: tuple[str, str] | None = None
  metric: str | None = None
  mean_column: bool = False
  parameters: bool = False
  figure: Literal["lines", "dots", "parameters"] | None = None
  x_label: str = ""
  y_label: str = ""

  @property
  def axes(self) -> list[str]:
    """All that it names."""
    over = [self.mean_over] if self.mean_over else []
    return [*self.rows, self.columns, *over]


class Sheet(Strict):
  """A sheet.

  Attributes:
    name: Its path below `configs`, without the suffix.
    title: Of the table.
    about: What is asked, and what to know about the answer. Markdown.
    budget: What it costs, and on what device.
    command: Of one cell, as `launch.py --dry-run` prints it.
    launch: Runs what is missing; by default `launch.py` with the sheet.
    beside: Name of the sheet of full size that this one is a miniature of: the
      paper's numbers are there.
    grids: Axis -> values, at least one grid. The order of axes is that of the
      names of cells.
    values: Axis -> value -> meaning. An axis may have values that are numbers
      without a meaning of their own.
    programs: Name -> program.
    layout: Of the table.
    paper: Numbers of the paper.
  """

  name: str
  title: str
  about: str
  budget: str
  command: str
  launch: str | None = None
  beside: str | None = None
  grids: list[dict[str, list[str | int]]] = pydantic.Field(min_length=1)
  values: dict[str, dict[str, Value]]
  programs: dict[str, Program]
  layout: Layout
  paper: Paper | None = None

  @pydantic.model_validator(mode="after")
  def _axes_are_known(self) -> "Sheet":
    for grid in self.grids:
      for axis in self.layout.axes:
        if axis not in grid:
          raise ValueError(f"no axis {axis} in the grid over {list(grid)}")
      for axis, values in grid.items():
        for value in values:
          if isinstance(value, str) and value not in self.values.get(axis, {}):
            known = sorted(self.values.get(axis, {}))
            raise ValueError(
              f"{axis}={value} has no [values.{axis}.{value}]; there is {known}"
            )
    return self

  @pydantic.model_validator(mode="after")
  def _layout_shows_all(self) -> "Sheet":
    values: dict[str, set[str | int]] = {}
    for axis, some in itertools.chain(*(x.items() for x in self.grids)):
      values.setdefault(axis, set()).update(some)
    for axis, some in values.items():
      if axis not in (*self.layout.axes, "seed") and len(some) > 1:
        raise ValueError(
          f"{axis} has {len(some)} values, but only those of a seed may be "
          "averaged: name it in the layout's rows, columns or mean_over"
        )
    if gap := self.layout.gap:
      rows = [values[axis] for axis in self.layout.rows]
      if len(rows) != 1 or not {*gap} <= rows[0]:
        raise ValueError(f"gap: expected two values of one row axis, got {gap}")
    return self

  def value(self, axis: str, value: str | int) -> Value:
    """Returns what a value of an axis means."""
    return self.values.get(axis, {}).get(str(value), Value())

  def label(self, axis: str, value: str | int) -> str:
    """Returns what a table calls it."""
    return self.value(axis, value).label or str(value)

  def cells(self) -> list["Cell"]:
    """Expands the grids, in order, each cell once.

    Raises:
      ValueError: if a binding asks for what is not there, or two cells would
        have one name.
    """
    cells: dict[str, Cell] = {}
    for grid in self.grids:
      for point in itertools.product(*grid.values()):
        cell = self._cell(dict(zip(grid, point, strict=True)))
        other = cells.setdefault(cell.name, cell)
        if other.point != cell.point:
          raise ValueError(
            f"{cell.name} is the name of {other.point} and of {cell.point}"
          )
    return list(cells.values())

  def _cell(self, point: dict[str, str | int]) -> "Cell":
    name = "-".join(
      value if isinstance(value, str) else f"{axis}{value}"
      for axis, value in point.items()
    )
    meanings = [self.value(axis, value) for axis, value in point.items()]
    programs = [x.program for x in meanings if x.program]
    program_name = programs[-1] if programs else "train"
    if program_name not in self.programs:
      known = sorted(self.programs)
      raise ValueError(f"{name}: no program {program_name}; there is {known}")
    program = self.programs[program_name]
    bindings = dict(program.bindings)
    for meaning in meanings:
      bindings |= meaning.bindings
    folder = f"runs/{self.name}/{name}"
    gin_files = [*itertools.chain(*(x.gin_files for x in meanings))]
    return Cell(
      sheet=self.name,
      name=name,
      point=point,
      folder=folder,
      last=any(x.last for x in meanings),
      command=(
        *("python", "-m", program.module),
        *(f"--gin_file={x}" for x in (*gin_files, *program.gin_files)),
        *(
          f"--gin.{binding}={self._text(value, point, name)}"
          for binding, value in bindings.items()
        ),
        f"--gin.{program.folder}={_literal(folder)}",
        *program.flags,
      ),
    )

  def _text(self, value: Any, point: Mapping[str, str | int], cell: str) -> str:
    """Writes the value of a binding as gin reads it."""
    if isinstance(value, str) and "${" in value:
      try:
        value = string.Template(value).substitute(point)
      except KeyError as e:
        raise ValueError(
          f"{cell}: {value} asks for an axis it does not have"
        ) from e
    elif isinstance(value, str) and value.startswith("$"):
      axis, _, fact = value[1:].partition(".")
      if axis not in point:
        raise ValueError(f"{cell}: {value} asks for an axis it does not have")
      value = point[axis]
      if fact:
        facts = self.value(axis, value).facts
        if fact not in facts:
          raise ValueError(
            f"{cell}: [values.{axis}.{value}.facts] has no {fact}"
          )
        value = facts[fact]
    if isinstance(value, dict) and set(value) == {_RAW}:
      return value[_RAW]
    return _literal(value)


def _literal(value: Any) -> str:
  """Writes a Python literal with double quotes, which shells leave alone."""
  if isinstance(value, str):
    return json.dumps(value)
  if isinstance(value, list):
    return f"[{', '.join(map(_literal, value))}]"
  if isinstance(value, dict):
    items = (f"{_literal(k)}: {_literal(v)}" for k, v in value.items())
    return f"{{{', '.join(items)}}}"
  return repr(value)


@dataclasses.dataclass(frozen=True)
class Cell:
  """A point of a sheet's axes: one run.

  Attributes:
    sheet: Name of the sheet.
    name: Unique in the sheet.
    point: Axis -> value.
    folder: Where it runs, from the repository's root.
    last: Whether it needs what the sheet's others leave there.
    command: To run there.
  """

  sheet: str
  name: str
  point: Mapping[str, str | int] = dataclasses.field(hash=False)
  folder: str
  last: bool
  command: tuple[str, ...]

  @property
  def settings(self) -> records.Settings:
    """Says which records are of this cell."""
    return records.settings(self.command)


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
  """Puts `over` over `base`, table by table."""
  merged = dict(base)
  for key, value in over.items():
    if isinstance(value, dict) and isinstance(merged.get(key), dict):
      value = _merged(merged[key], value)
    merged[key] = value
  return merged


def _read(path: pathlib.Path) -> dict[str, Any]:
  try:
    content = tomllib.loads(path.read_text(encoding="utf-8"))
  except OSError as e:
    raise ValueError(f"{path} cannot be read: {e.strerror}.") from e
  except tomllib.TOMLDecodeError as e:
    raise ValueError(f"{path} is no TOML: {e}.") from e
  shared = content.pop("extends", None)
  if shared is None:
    return content
  return _merged(_read(path.parent / shared), content)


def parse(path: pathlib.Path, kind: type[_Model], **fields: Any) -> _Model:
  """Reads a TOML file as what `kind` describes.

  Args:
    path: The file.
    kind: A pydantic model.
    **fields: What the file does not say itself.

  Raises:
    ValueError: if it is wrong; the message says where.
  """
  content = _read(path)
  try:
    return kind.model_validate({**fields, **content})
  except pydantic.ValidationError as e:
    problems = "; ".join(
      f"{'.'.join(map(str, x['loc'])) or 'sheet'}: {x['msg']}"
      for x in e.errors()
    )
    raise ValueError(f"{path} is no sheet: {problems}.") from e


def load(path: pathlib.Path, configs: pathlib.Path) -> Sheet:
  """Reads a sheet.

  Args:
    path: The TOML file.
    configs: The folder that names of sheets count from.

  Raises:
    ValueError: if it is wrong; the message says where.
  """
  name = path.resolve().relative_to(configs.resolve()).with_suffix("")
  sheet = parse(path, Sheet, name=name.as_posix())
  try:
    sheet.cells()
  except ValueError as e:
    raise ValueError(f"{path}: {e}") from e
  return sheet


def load_all(configs: pathlib.Path) -> Iterator[Sheet]:
  """Reads every sheet of runs: those in `configs` and in `configs/full`."""
  for path in sorted([*configs.glob("*.toml"), *configs.glob("full/*.toml")]):
    if path.stem not in NO_RUNS:
      yield load(path, configs)
