"""Sweeps: train commands with lists as values, turned into sheets.

`--gin.PROMPT_LENGTH=1,5,20` has three values: a value ends at a comma after
which it is whole, so a list, a dictionary or a string with commas is one value.
`--gin_file=gin/prompts/{a,b}.gin` names two files; a run takes one of them. As
a shell expands it to two flags, consecutive gin files of a folder, and repeated
bindings, are alternatives too. "+" joins files that one run takes together.
"""

import ast
from collections.abc import Sequence
import contextlib
import dataclasses
import hashlib
import itertools
import pathlib
import re
from typing import Any

from prompt_tuning.experiments.cells import RAW, AxisValue
from prompt_tuning.training import next_steps
from t5x.configuration import reading

# The axes of sheets for these macros.
_AXES = {
  "TASK": "task",
  "MIXTURE_OR_TASK_NAME": "task",
  "RANDOM_SEED": "seed",
}
# Kinds of gin files that name a row, if nothing else does: the first existing
# one of these, or the kind of the last file.
_ROW_KINDS = ("recipe", "method", "prompt", "model")
_BRACES = re.compile(r"\{([^{}]*,[^{}]*)\}")
# A string that names itself, unless another value is written so.
_NAME = re.compile(r"(?!(?:None|True|False)$)[A-Za-z_][\w.+-]*")
# One value of --gin_file: files to read in this order.
GinFiles = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class SweepCommand:
  """A parsed command.

  Attributes:
    gin_files: The alternatives for each position, in order.
    bindings: Name -> alternatives, in gin's syntax.
    flags: The other flags, unchanged.
  """

  gin_files: list[list[GinFiles]]
  bindings: dict[str, list[str]]
  flags: list[str]


def parse(arguments: Sequence[str]) -> SweepCommand:
  """Reads the arguments of a command.

  Args:
    arguments: Such as `--gin_file=...`, `--gin.X=...`, `--tfds_data_dir=...`.

  Raises:
    ValueError: if a value follows no flag, is empty or not valid gin, or both
      `--gin_bindings` and `--gin.X` set X.
  """
  joined: list[str] = []  # Flags with the values that follow after a space.
  for argument in arguments:
    if argument.startswith("-"):
      joined.append(argument)
    elif joined and "=" not in joined[-1]:
      joined[-1] += f"={argument}"
    else:
      raise ValueError(f"Expected --FLAG=VALUE, got {argument}.")
  found = SweepCommand([], {}, [])
  single: set[str] = set()
  before = ""
  for argument in joined:
    flag, _, value = argument.lstrip("-").partition("=")
    if flag == "gin_file":
      files = _file_list(value)
      if before == flag and folder_of([*found.gin_files[-1], *files]):
        found.gin_files[-1] += files
      else:
        found.gin_files.append(files)
    elif flag == "gin_bindings" or flag.startswith("gin."):
      name, values = flag.removeprefix("gin."), [value]
      if flag == "gin_bindings":
        name, values = (x.strip() for x in value.partition("=")[::2])
        values = [values]
        single.add(name)
      else:
        values = _values(name, value)
      if name in single and name in found.bindings:
        raise ValueError(
          f"--gin_bindings and --gin.{name} both set {name}. Give all of its "
          f"values as --gin.{name}=VALUE,VALUE."
        )
      found.bindings.setdefault(name, []).extend(values)
    else:
      found.flags.append(argument)
    before = flag
  places = [["+".join(x) for x in files] for files in found.gin_files]
  for values in (*places, *found.bindings.values()):
    if len(set(values)) != len(values):
      raise ValueError(f"A value is there twice in {', '.join(values)}.")
  return found


def folder_of(files: Sequence[GinFiles]) -> str | None:
  """Returns the folder of alternatives, if they have the same one."""
  folders = {str(pathlib.PurePath(x[-1]).parent) for x in files}
  return folders.pop() if len(folders) == 1 else None


def _values(name: str, text: str) -> list[str]:
  """Splits a text such as "1,5" or "[1, 2],[3]" into valid gin."""
  values: list[str] = []
  parts: list[str] = []
  for part in text.split(","):
    parts.append(part)
    value = ",".join(parts).strip()
    with contextlib.suppress(ValueError):
      reading.from_text(f"{name} = {value}")
      values.append(value)
      parts = []
  if parts:
    reading.from_text(f"{name} = {','.join(parts)}")  # Raises its error.
  return values


def _file_list(text: str) -> list[GinFiles]:
  """Expands braces and commas in the value of --gin_file."""
  pieces = _BRACES.split(text)
  # The pieces at odd indices were in braces.
  choices = [x.split(",") if i % 2 else [x] for i, x in enumerate(pieces)]
  expanded = ",".join("".join(x) for x in itertools.product(*choices))
  files = [tuple(x.strip().split("+")) for x in expanded.split(",")]
  if not all(x.endswith(".gin") for some in files for x in some):
    raise ValueError(
      f"--gin_file={text}: expected paths that end with .gin, got {expanded}."
    )
  return files


@dataclasses.dataclass(frozen=True)
class Axis:
  """The axis of a list in a command.

  Attributes:
    name: Name of the axis.
    source: The binding or the folder of gin files that varies.
    title: Title in figures.
    values: Numbers or names -> fields of `cells.Value`.
  """

  name: str
  source: str
  title: str
  values: dict[AxisValue, dict[str, Any]]

  @property
  def is_numeric(self) -> bool:
    return all(not isinstance(x, str) for x in self.values)


def fields(
  given: Sequence[str],
  arguments: Sequence[str],
  module: str = "t5x.train",
  name: str | None = None,
) -> dict[str, Any]:
  """Returns the fields of a sheet.

  Args:
    given: The arguments of the program, with lists.
    arguments: The command line of the sweep, for the page.
    module: The program that runs.
    name: Name of the sheet below `sweeps`; by default one made of the lists. A
      sweep with more values has the same name, and so resumes.

  Raises:
    ValueError: if the command has no list, sets its output folder or the search
      paths of gin files, or if the program has no score.
  """
  command = parse(given)
  folder = "EVAL_OUTPUT_DIR" if module == "t5x.eval" else "MODEL_DIR"
  _check(command, module, folder)
  axes, gin_files = _file_axes(command)
  bindings: dict[str, Any] = {}
  for binding, texts in command.bindings.items():
    known = _AXES.get(binding)
    if len(texts) < 2 and known != "task":
      bindings[binding] = _toml_value(texts[0])
      continue
    own = _free(known or binding.rpartition(".")[2].lower(), axes)
    values = _binding_values(binding, texts)
    axes.append(Axis(own, binding, own if known else binding, values))
    if axes[-1].is_numeric:
      bindings[binding] = f"${own}"
  if module == "t5x.train" and bindings.get("RANDOM_SEED") == "$seed":
    # A seed sets all randomness, as in the sheets.
    bindings.setdefault("SHUFFLE_SEED", "$seed")
  varied = [axis for axis in axes if len(axis.values) > 1]
  if not varied:
    raise ValueError(
      "Expected a list of values that differ, got none. Give one, such as "
      "--gin.PROMPT_LENGTH=1,5,20 or "
      "--gin_file=gin/prompts/{random_uniform,class_labels}.gin."
    )
  words = ["prompt-tuning", "sweep", *arguments]
  line = " ".join(map(next_steps.quoted, words))
  program = {
    "module": module,
    "folder": folder,
    "gin_files": gin_files,
    "bindings": bindings,
    "flags": command.flags,
  }
  shared = [
    (x.name, x.source, *(x.values.items() if len(x.values) == 1 else ()))
    for x in axes
  ]
  digest = hashlib.sha256(repr((program, sorted(shared))).encode()).hexdigest()
  own_name = "-".join([*(axis.name for axis in varied), digest[:6]])
  return {
    "name": f"sweeps/{name or own_name}",
    "title": f"Sweep of {' and '.join(axis.title for axis in varied)}",
    "about": f"Swept from the command line:\n\n```sh\n{line}\n```\n",
    "budget": "that of one run for each cell",
    "launch": line,
    "grids": [{axis.name: list(axis.values) for axis in axes}],
    "values": {axis.name: axis.values for axis in axes if not axis.is_numeric},
    "programs": {"train": program},
    "layout": _layout(axes),
  }


def _check(command: SweepCommand, module: str, folder: str) -> None:
  """Raises ValueError for a program or a flag that a sweep does not allow."""
  if module == "t5x.infer":
    raise ValueError(
      "t5x.infer writes predictions but no score, so a sweep has nothing to "
      "tabulate. Sweep t5x.eval."
    )
  if folder in command.bindings:
    raise ValueError(
      f"--gin.{folder} is what a sweep sets: each run has its own folder. "
      "Leave it out; --name=NAME calls the sweep's folder runs/sweeps/NAME."
    )
  if any("gin_search_paths" in x for x in command.flags):
    raise ValueError(
      "A sweep looks for gin files in its --root only. Leave "
      "--gin_search_paths out, and give paths: --gin_file=/there/mine.gin."
    )


def _file_axes(command: SweepCommand) -> tuple[list[Axis], list[str]]:
  """Returns the axes of gin files, and the program's list of gin files.

  The most telling kind of file is an axis even with a single value, which names
  the only row of a table.
  """
  axes: list[Axis] = []
  gin_files: list[str] = []
  folders = [folder_of(x) or "" for x in command.gin_files]
  # "prompt" for gin/prompts/.
  kinds = [
    pathlib.PurePath(x).name.removesuffix("s") or "gin_file" for x in folders
  ]
  alone = next((k for k in (*_ROW_KINDS, *kinds[-1:]) if k in kinds), None)
  for kind, folder, files in zip(
    kinds, folders, command.gin_files, strict=True
  ):
    if len(files) == 1 and kind != alone:
      gin_files += files[0]
      continue
    stems = ["+".join(pathlib.PurePath(x).stem for x in some) for some in files]
    values: dict[AxisValue, dict[str, Any]] = {
      stem: {"gin_files": list(some)}
      for stem, some in zip(stems, files, strict=True)
    }
    if len(values) < len(files):
      listed = ", ".join("+".join(x) for x in files)
      raise ValueError(f"Gin files have the same name: {listed}.")
    axes.append(Axis(_free(kind, axes), folder, kind, values))
    gin_files.append(f"${axes[-1].name}")
  return axes, gin_files


def _free(name: str, axes: Sequence[Axis]) -> str:
  """Returns a free name: the given one, with a number if it is taken."""
  taken = {axis.name for axis in axes}
  names = [name, *(f"{name}_{i}" for i in range(2, len(axes) + 2))]
  return next(x for x in names if x not in taken)


def _binding_values(
  binding: str, texts: Sequence[str]
) -> dict[AxisValue, dict[str, Any]]:
  """Returns the values of an axis of a binding.

  The name of a value does not depend on the other values, so a sweep with more
  values uses the records of this one.
  """
  values = list(map(_literal, texts))
  if all(type(x) in (int, float) for x in values):
    return {x: {} for x in values}
  found: dict[AxisValue, dict[str, Any]] = {}
  for text, value in zip(texts, values, strict=True):
    name = value
    if not isinstance(name, str) or not _NAME.fullmatch(name):
      name = re.sub(r"[^\w.+-]+", "_", text).strip("_")[:40] or "value"
      if name != text:
        name += f"-{hashlib.sha256(text.encode()).hexdigest()[:4]}"
    label = {} if name == value else {"label": text}
    found[name] = {**label, "bindings": {binding: _toml_value(text)}}
  return found


def _literal(text: str) -> Any:
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return None  # A reference, a macro, or None itself.


def _toml_value(text: str) -> Any:
  """Returns the value of a binding in the notation of sheets."""
  value = _literal(text)
  if isinstance(value, bool | int | float):
    return value
  if isinstance(value, str) and "$" not in value:
    return value
  return {RAW: text}


def _layout(axes: Sequence[Axis]) -> dict[str, Any]:
  """Chooses rows, columns and a figure.

  Numbers are columns, drawn as lines over their values; without numbers, models
  are, over their size; else tasks or the last list, drawn as dots. Scores are
  averaged over seeds, and over tasks that are not the columns. If only seeds
  vary, the common setting of all runs names the only cell of the table.
  """
  shown = [x for x in axes if x.name != "seed"]
  varied = [x for x in shown if len(x.values) > 1] or shown or list(axes)
  by_name = {x.name: x for x in varied}
  columns = max(
    (x for x in varied if x.is_numeric),
    key=lambda x: len(x.values),
    default=by_name.get("model", by_name.get("task", varied[-1])),
  )
  over = by_name.get("task")
  over = None if over is columns else over
  rows = [x for x in varied if x not in (columns, over)]
  if not rows:  # The common setting of all runs names the only row.
    rows = [x for x in shown if x not in (columns, over)][:1]
  if not rows:
    rows, over = [x for x in (over,) if x], None
  is_model = columns.name == "model"
  layout: dict[str, Any] = {
    "rows": [x.name for x in rows],
    "columns": columns.name,
    "figure": "lines" if columns.is_numeric or is_model else "dots",
    "x_label": "Parameters of the model" if is_model else columns.title,
    "y_label": "Dev score, %",
    "mean_column": columns.name == "task" and len(columns.values) > 1,
  }
  return layout | ({"mean_over": over.name} if over else {})
