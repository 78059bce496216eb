"""Sheets: TOML files with the runs of one table or figure.

A sheet in `configs/` spans grids over axes such as size, method, task and seed.
A point of a grid is a cell, and `cells` makes its command. `extends` names a
file, relative to the sheet, that several sheets share.
"""

from collections.abc import Iterator
import difflib
import functools
import itertools
import pathlib

import pydantic

from prompt_tuning.experiments import cells, layouts, toml_files
from prompt_tuning.experiments.cells import Cell, Program, Value
from prompt_tuning.experiments.layouts import AxisValue, Layout
from prompt_tuning.experiments.papers import Paper

# Sheets without runs.
NO_RUNS = ("claims", "interpretability", "parameters")
# The folders below `configs` that hold sheets.
_FOLDERS = ("", "full/")


class Sheet(toml_files.Strict):
  """A sheet.

  Attributes:
    name: Its path below `configs`, without the suffix.
    title: Title of the table.
    about: The question, and notes on the answer. Markdown.
    budget: The cost of the runs, and the device.
    launch: Command that runs missing cells; by default `prompt-tuning launch`.
    beside: Name of the sheet of full size, with the paper's numbers, of which
      this one is a miniature.
    grids: Axis -> values, at least one grid. Names of cells follow the order of
      the axes.
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
  grids: list[dict[str, list[AxisValue]]] = pydantic.Field(min_length=1)
  values: dict[str, dict[str, Value]] = pydantic.Field(default_factory=dict)
  programs: dict[str, Program]
  layout: Layout
  paper: Paper | None = None

  @pydantic.model_validator(mode="after")
  def _is_consistent(self) -> "Sheet":
    layouts.check(self.layout, self.grids)
    for grid in self.grids:
      for axis, some in grid.items():
        for value in some:
          if isinstance(value, str) and value not in self.values.get(axis, {}):
            known = sorted(self.values.get(axis, {}))
            raise ValueError(
              f"{axis}={value} has no [values.{axis}.{value}]; there is {known}"
            )
    return self

  def value(self, axis: str, value: AxisValue) -> Value:
    """Returns the meaning of a value of an axis."""
    return cells.value_of(self.values, axis, value)

  def label(self, axis: str, value: AxisValue) -> str:
    """Returns the label of a value in tables."""
    return self.value(axis, value).label or str(value)

  def cells(self) -> list[Cell]:
    """Expands the grids, in order, each cell once.

    Raises:
      ValueError: if a binding refers to a missing axis or fact, or two cells
        would have the same name.
    """
    return list(self._cells)

  def seed_by_seed(self) -> list[Cell]:
    """Returns the cells without a seed, then those of each seed in turn."""
    seeds = list(dict.fromkeys(x.point.get("seed") for x in self._cells))
    order = [None, *(x for x in seeds if x is not None)]
    return sorted(self._cells, key=lambda x: order.index(x.point.get("seed")))

  @functools.cached_property
  def _cells(self) -> tuple[Cell, ...]:
    found: dict[str, Cell] = {}
    for grid in self.grids:
      for values in itertools.product(*grid.values()):
        point = dict(zip(grid, values, strict=True))
        cell = cells.make(self.name, point, self.values, self.programs)
        other = found.setdefault(cell.name, cell)
        if other.point != cell.point:
          raise ValueError(
            f"{cell.name} is the name of {other.point} and of {cell.point}"
          )
    return tuple(found.values())

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
  path = configs / f"{name}.toml"
  sheet = toml_files.parse(path, Sheet, name=name)
  try:
    sheet.cells()
  except ValueError as e:
    raise ValueError(f"{path}: {e}") from e
  return sheet


def names(configs: pathlib.Path) -> list[str]:
  """Returns the names of the sheets of runs, such as scale and full/scale."""
  return sorted(
    folder + path.stem
    for folder in _FOLDERS
    for path in configs.glob(f"{folder}*.toml")
    if folder + path.stem not in NO_RUNS
  )


def load_all(configs: pathlib.Path) -> Iterator[Sheet]:
  """Reads every sheet of runs, in `configs` and its folders of sheets."""
  for name in names(configs):
    yield load(name, configs)


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
  elif given.endswith(".toml") and path.exists():
    raise ValueError(f"{given} is not in {configs}. Put it there.")
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
