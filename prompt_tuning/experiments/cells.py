"""Cells: points of a sheet's axes, and their commands.

A table `[values.AXIS.VALUE]` gives the meaning of a value for the command: gin
files, bindings, and facts that other bindings refer to as "$AXIS.FACT". "$AXIS"
is the value itself, and "${AXIS}" its text within a longer one. A command has
the gin files of the axes in their order, then the program's, unless the program
puts those of an axis elsewhere with "$AXIS". Bindings of later axes win over
those of earlier ones and of the program.
"""

import ast
from collections.abc import Mapping
import dataclasses
import itertools
import json
import re
import shlex
import string
from typing import Any

import pydantic

from prompt_tuning.experiments.toml_files import Strict

# A value of an axis: a number, or a name that [values] explains.
AxisValue = str | int | float
Point = Mapping[str, AxisValue]
# TOML has neither None nor gin references: {gin = "None"} is copied verbatim.
RAW = "gin"
# Macros that name prompts to read.
_PROMPT_MACROS = ("PROMPT_FILE", "PROMPT_FILES")
_METHOD_FILE = re.compile(r"(?:methods|recipes)/(\w+)\.gin$")


class Value(Strict):
  """The meaning of a value of an axis.

  Attributes:
    label: Label in tables and figures; by default the value.
    x: Position on a figure's x axis. By default a number is its own position;
      that of a model's name is its number of parameters in the records, so an x
      given for a name counts parameters too.
    program: Key of `Sheet.programs`; by default "train".
    gin_files: Gin files, in order.
    bindings: Name -> value.
    facts: Name -> value of "$axis.name".
    majority: Of a task, the score of its most frequent answer.
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


Values = Mapping[str, Mapping[str, Value]]


@dataclasses.dataclass(frozen=True)
class Cell:
  """A point of a sheet's axes: one run.

  Attributes:
    sheet: Name of the sheet.
    name: Unique in the sheet.
    point: Axis -> value.
    folder: Folder of the run, relative to the repository.
    last: Whether it needs files that the sheet's other cells write.
    module: Module for `python -m`.
    gin_files: In order, as later files win.
    bindings: Name -> value as gin reads it, without the folder.
    folder_macro: The binding of its output folder.
    flags: Further flags of the command.
    keeps_prompt: Whether its prompt is stored.
  """

  sheet: str
  name: str
  point: Point = dataclasses.field(hash=False)
  folder: str
  last: bool
  module: str
  gin_files: tuple[str, ...]
  bindings: Mapping[str, str] = dataclasses.field(hash=False)
  folder_macro: str
  flags: tuple[str, ...] = ()
  keeps_prompt: bool = False

  @property
  def full_name(self) -> str:
    """The name with its sheet: unique, and the place of its record."""
    return f"{self.sheet}/{self.name}"

  @property
  def kind(self) -> str:
    """The kind of program: "train", "eval" or "infer"."""
    return self.module.rpartition(".")[2]

  @property
  def prompt_patterns(self) -> tuple[str, ...]:
    """Paths, or patterns of paths, of the prompts that the run starts from."""
    values = [self.bindings.get(name, "") for name in _PROMPT_MACROS]
    return tuple(ast.literal_eval(x) for x in values if x[:1] in ("'", '"'))

  @property
  def method(self) -> str:
    """The value of `method`, or the method that the gin files are of."""
    if isinstance(method := self.point.get("method"), str):
      return method
    files = filter(None, map(_METHOD_FILE.search, self.gin_files))
    return "+".join(match[1] for match in files) or "prompt_tuning"

  @property
  def command(self) -> tuple[str, ...]:
    """The command to run at the repository's root."""
    return (
      *("python", "-m", self.module),
      *(f"--gin_file={x}" for x in self.gin_files),
      *(f"--gin.{name}={value}" for name, value in self.bindings.items()),
      f"--gin.{self.folder_macro}={literal(self.folder)}",
      *self.flags,
    )

  @property
  def shell_command(self) -> str:
    """The command, quoted for a shell."""
    return shlex.join(self.command)


def value_of(values: Values, axis: str, value: AxisValue) -> Value:
  """Returns the meaning of a value of an axis; empty for most numbers."""
  return values.get(axis, {}).get(str(value), Value())


def make(
  sheet: str,
  point: Point,
  values: Values,
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
    axis: value_of(values, axis, value) for axis, value in point.items()
  }
  chosen = [x.program for x in meanings.values() if x.program]
  program_name = chosen[-1] if chosen else "train"
  if program_name not in programs:
    known = sorted(programs)
    raise ValueError(f"{name}: no program {program_name}; there is {known}")
  program = programs[program_name]
  bindings = dict(program.bindings)
  for meaning in meanings.values():
    bindings |= meaning.bindings
  return Cell(
    sheet=sheet,
    name=name,
    point=point,
    folder=f"runs/{sheet}/{name}",
    last=any(x.last for x in meanings.values()),
    module=program.module,
    gin_files=tuple(_gin_files(name, program, meanings)),
    bindings={
      binding: _text(value, point, values, name)
      for binding, value in bindings.items()
    },
    folder_macro=program.folder,
    flags=tuple(program.flags),
    keeps_prompt=program.keeps_prompt,
  )


def _gin_files(
  cell: str, program: Program, meanings: Mapping[str, Value]
) -> list[str]:
  """Returns the gin files of a command, in order."""
  placed = {x[1:] for x in program.gin_files if x.startswith("$")}
  if unknown := placed - set(meanings):
    raise ValueError(
      f"{cell}: the program's gin_files ask for the axis "
      f"{', '.join(sorted(unknown))}, which it does not have"
    )
  own = itertools.chain.from_iterable(
    meanings[x[1:]].gin_files if x.startswith("$") else [x]
    for x in program.gin_files
  )
  return [
    *itertools.chain.from_iterable(
      x.gin_files for axis, x in meanings.items() if axis not in placed
    ),
    *own,
  ]


def _text(value: Any, point: Point, values: Values, cell: str) -> str:
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
      facts = value_of(values, axis, value).facts
      if fact not in facts:
        raise ValueError(f"{cell}: [values.{axis}.{value}.facts] has no {fact}")
      value = facts[fact]
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
