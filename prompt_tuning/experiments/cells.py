"""Cells: points of a sheet's axes, and their commands.

A table `[values.AXIS.VALUE]` gives the meaning of a value for the command: gin
files, bindings, and facts that other bindings refer to as "$AXIS.FACT". "$AXIS"
is the value itself, and "${AXIS}" its text within a longer one. A command has
the gin files of the axes in their order, then the program's, unless the program
puts those of an axis elsewhere with "$AXIS". Bindings of later axes win over
those of earlier ones and of the program.
"""

import ast
from collections.abc import Iterable, Mapping
import dataclasses
import json
import re
import string
from typing import Any

import pydantic

# A value of an axis: a number, or a name that [values] explains.
AxisValue = str | pydantic.StrictInt | pydantic.StrictFloat
Point = Mapping[str, AxisValue]
# TOML has neither None nor gin references: {gin = "None"} is copied verbatim.
RAW = "gin"
# Macros that name prompts to read.
_PROMPT_MACROS = ("PROMPT_FILE", "PROMPT_FILES")
# Those of gin/tasks/files.gin.
_DATA_MACROS = ("TRAIN_FILE", "VALIDATION_FILE", "TEST_FILE")
_METHOD_FILE = re.compile(r"(?:methods|recipes)/(\w+)\.gin$")


class Strict(pydantic.BaseModel, extra="forbid"):
  """A pydantic model that refuses unknown fields."""


class Value(Strict):
  """The meaning of a value of an axis.

  Attributes:
    label: Label in tables and figures; by default the value.
    x: Position on a figure's x axis. By default a number is its own position,
      and a model's name is at its number of parameters in the records; an x for
      a name counts parameters too.
    program: Key of `Sheet.programs`; by default "train".
    gin_files: Gin files, in order.
    bindings: Name -> value.
    facts: Name -> value of "$axis.name".
    majority: For a task, the score of its most frequent answer.
    last: Whether its cells need files that the sheet's other cells write.
  """

  label: str | None = None
  x: float | None = None
  program: str | None = None
  gin_files: list[str] = pydantic.Field(default_factory=list)
  bindings: dict[str, Any] = pydantic.Field(default_factory=dict)
  facts: dict[str, Any] = pydantic.Field(default_factory=dict)
  majority: float | None = None
  last: bool = False


class Program(Strict):
  """A program that runs cells.

  Attributes:
    module: Module for `python -m`.
    folder: The binding of its output folder.
    gin_files: Gin files, after those of the cell. "$AXIS" in this list is
      replaced by the files of that axis.
    bindings: Name -> value.
    flags: Further flags.
    keeps_prompt: Whether a run's prompt is stored next to its record.
  """

  module: str
  folder: str
  gin_files: list[str]
  bindings: dict[str, Any] = pydantic.Field(default_factory=dict)
  flags: list[str] = pydantic.Field(default_factory=list)
  keeps_prompt: bool = False


@dataclasses.dataclass(frozen=True)
class Cell:
  """A point of a sheet's axes: one run.

  Attributes:
    sheet: Name of the sheet.
    name: Unique in the sheet.
    point: Axis -> value.
    program: The program that runs it.
    gin_files: In order, as later files win.
    bindings: Name -> value as gin reads it, without the folder.
    last: Whether it needs files that the sheet's other cells write.
  """

  sheet: str
  name: str
  point: Point = dataclasses.field(hash=False)
  program: Program = dataclasses.field(hash=False)
  gin_files: tuple[str, ...]
  bindings: Mapping[str, str] = dataclasses.field(hash=False)
  last: bool

  @property
  def full_name(self) -> str:
    """The name with its sheet: unique, and the place of its record."""
    return f"{self.sheet}/{self.name}"

  @property
  def folder(self) -> str:
    """The folder of the run, relative to the repository."""
    return f"runs/{self.full_name}"

  @property
  def kind(self) -> str:
    """The kind of program: "train", "eval" or "infer"."""
    return self.program.module.rpartition(".")[2]

  @property
  def prompt_patterns(self) -> tuple[str, ...]:
    """Paths, or patterns of paths, of the prompts that the run starts from."""
    return self._strings(_PROMPT_MACROS)

  @property
  def data_files(self) -> tuple[str, ...]:
    """Paths of the user's own files of examples."""
    return self._strings(_DATA_MACROS)

  def _strings(self, macros: Iterable[str]) -> tuple[str, ...]:
    """Returns the values of those macros that are strings."""
    values = [self.bindings.get(name, "") for name in macros]
    return tuple(ast.literal_eval(x) for x in values if x[:1] in ("'", '"'))

  @property
  def method(self) -> str:
    """The value of `method`, or else the method of the gin files."""
    if isinstance(method := self.point.get("method"), str):
      return method
    files = filter(None, map(_METHOD_FILE.search, self.gin_files))
    return "+".join(match[1] for match in files) or "prompt_tuning"

  @property
  def command(self) -> tuple[str, ...]:
    """The command to run at the repository's root."""
    return (
      *("python", "-m", self.program.module),
      *(f"--gin_file={x}" for x in self.gin_files),
      *(f"--gin.{name}={value}" for name, value in self.bindings.items()),
      f"--gin.{self.program.folder}={literal(self.folder)}",
      *self.program.flags,
    )


def make(
  sheet: str,
  point: Point,
  values: Mapping[str, Mapping[str, Value]],
  programs: Mapping[str, Program],
) -> Cell:
  """Makes the cell at a point.

  Args:
    sheet: Name of the sheet.
    point: Axis -> value.
    values: Axis -> value -> meaning.
    programs: Name -> program.

  Raises:
    ValueError: if it refers to a missing program, axis or fact.
  """
  name = "-".join(
    value if isinstance(value, str) else f"{axis}{value}"
    for axis, value in point.items()
  )
  meanings = {
    axis: values.get(axis, {}).get(str(value), Value())
    for axis, value in point.items()
  }
  *_, chosen = "train", *(x.program for x in meanings.values() if x.program)
  if chosen not in programs:
    raise ValueError(f"{name}: no program {chosen}; there is {[*programs]}")
  program = programs[chosen]
  bindings = dict(program.bindings)
  for meaning in meanings.values():
    bindings |= meaning.bindings
  gin_files = [
    file
    for axis, meaning in meanings.items()
    if f"${axis}" not in program.gin_files
    for file in meaning.gin_files
  ]
  try:
    for file in program.gin_files:
      is_axis = file.startswith("$")
      gin_files += meanings[file[1:]].gin_files if is_axis else [file]
    texts = {k: _text(x, point, meanings) for k, x in bindings.items()}
  except KeyError as e:
    raise ValueError(
      f"{name}: {e} is asked for, but the cell has no such axis, or its value "
      "no such fact"
    ) from e
  last = any(x.last for x in meanings.values())
  return Cell(sheet, name, point, program, tuple(gin_files), texts, last)


def check_repetitions(every: Iterable[Cell], axis: str) -> None:
  """Checks that no two repetitions are the same run.

  Args:
    every: Cells of a sheet.
    axis: The axis of repetitions.

  Raises:
    ValueError: if cells that differ in that axis alone have the same settings.
  """
  firsts: dict[Cell, Cell] = {}
  for cell in every:
    rest = {name: x for name, x in cell.point.items() if name != axis}
    alone = dataclasses.replace(cell, name="", point=rest)
    first = firsts.setdefault(alone, cell)
    if first is not cell:
      raise ValueError(
        f"{first.name} and {cell.name} have the same settings, so they are one "
        f'run and not two: bind a setting to "${axis}"'
      )


def _text(value: Any, point: Point, meanings: Mapping[str, Value]) -> str:
  """Writes a binding as gin reads it; KeyError for an unknown axis or fact."""
  if isinstance(value, str) and "${" in value:
    value = string.Template(value).substitute(point)
  elif isinstance(value, str) and value.startswith("$"):
    axis, _, fact = value[1:].partition(".")
    value = meanings[axis].facts[fact] if fact else point[axis]
  if isinstance(value, dict) and set(value) == {RAW}:
    return value[RAW]
  return literal(value)


def literal(value: Any) -> str:
  """Writes a Python literal with double quotes, which shells leave alone."""
  if isinstance(value, str):
    return json.dumps(value, ensure_ascii=False)
  if isinstance(value, list):
    return f"[{', '.join(map(literal, value))}]"
  if isinstance(value, dict):
    items = (f"{literal(k)}: {literal(v)}" for k, v in value.items())
    return f"{{{', '.join(items)}}}"
  return repr(value)
