"""Sweeps: train commands with lists as values, turned into sheets."""

import ast
from collections.abc import Iterator, Sequence
import dataclasses
import hashlib
import pathlib
import re
import shlex
from typing import Any

from prompt_tuning.experiments import cells
from prompt_tuning.experiments.cells import AxisValue
from prompt_tuning.experiments.train_commands import (
  GinFiles,
  TrainCommand,
  folder_of,
)

# The axes of sheets for these macros.
_AXES = {
  "TASK": "task",
  "MIXTURE_OR_TASK_NAME": "task",
  "RANDOM_SEED": "seed",
}
_PLAIN_NAME = re.compile(r"[A-Za-z_][\w.+-]*")
# Kinds of gin files that name a row, if nothing else does: the first existing
# one of these, or the kind of the last file.
_ROW_KINDS = ("recipe", "method", "prompt", "model")


@dataclasses.dataclass(frozen=True)
class Axis:
  """The axis of a list in a command.

  Attributes:
    name: Name of the axis.
    values: Numbers or names, in order.
    binding: The binding that gets the value itself, if any.
    meanings: Name -> fields of `cells.Value`.
    title: Title in figures.
  """

  name: str
  values: Sequence[AxisValue]
  binding: str | None
  meanings: dict[str, dict[str, Any]]
  title: str

  @property
  def is_numeric(self) -> bool:
    return all(not isinstance(x, str) for x in self.values)


def fields(
  command: TrainCommand, arguments: Sequence[str], module: str = "t5x.train"
) -> dict[str, Any]:
  """Returns the fields of a sheet, without its name.

  Args:
    command: The command with lists.
    arguments: The command line of the sweep, for the page.
    module: The program that runs.

  Raises:
    ValueError: if the command has no list, sets its output folder or the search
      paths of gin files, or if the program has no score.
  """
  if module == "t5x.infer":
    raise ValueError(
      "t5x.infer writes predictions but no score, so a sweep has nothing to "
      "tabulate. Sweep t5x.eval."
    )
  folder = "EVAL_OUTPUT_DIR" if module == "t5x.eval" else "MODEL_DIR"
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
  axes, gin_files = _file_axes(command)
  axes += _binding_axes(command, {axis.name for axis in axes})
  varied = [axis for axis in axes if len(axis.values) > 1]
  if not varied:
    raise ValueError(
      "There is no list to sweep. Give one, such as --gin.PROMPT_LENGTH=1,5,20 "
      "or --gin_file=gin/prompts/{random_uniform,class_labels}.gin."
    )
  bindings: dict[str, Any] = {}
  own = {axis.binding: axis for axis in axes if axis.binding}
  swept = {name for name, values in command.bindings.items() if len(values) > 1}
  for name, values in command.bindings.items():
    if name in own:
      bindings[name] = f"${own[name].name}"
    elif name not in swept:
      bindings[name] = _toml_value(values[0])
  if module == "t5x.train" and "RANDOM_SEED" in own:
    # A seed sets all randomness, as in the sheets.
    bindings.setdefault("SHUFFLE_SEED", f"${own['RANDOM_SEED'].name}")
  words = ["prompt-tuning", "sweep", *arguments]
  line = " ".join(map(_shell_word, words))
  program = {
    "module": module,
    "folder": folder,
    "gin_files": gin_files,
    "bindings": bindings,
    "flags": list(command.flags),
  }
  return {
    "title": f"Sweep of {' and '.join(axis.title for axis in varied)}",
    "about": f"Swept from the command line:\n\n```sh\n{line}\n```\n",
    "budget": "that of a run, as often as there are cells",
    "launch": line,
    "grids": [{axis.name: list(axis.values) for axis in axes}],
    "values": {axis.name: axis.meanings for axis in axes if axis.meanings},
    "programs": {"train": program},
    "layout": _layout(axes),
  }


def name_of(sheet: dict[str, Any]) -> str:
  """Returns a name made of a sweep's axes and its runs' common settings.

  A sweep with more values has the same name, and so resumes.
  """
  shared: dict[str, Any] = {}
  for axis, values in sheet["grids"][0].items():
    meanings = sheet["values"].get(axis, {})
    bound = {
      *(name for x in meanings.values() for name in x.get("bindings", ())),
      *(
        str(pathlib.PurePath(x["gin_files"][-1]).parent)
        for x in meanings.values()
        if "gin_files" in x
      ),
    }
    shared[axis] = sorted(bound) if len(values) > 1 else (values, meanings)
  text = repr((sheet["programs"], sorted(shared.items())))
  digest = hashlib.sha256(text.encode()).hexdigest()[:6]
  axes = [k for k, x in sheet["grids"][0].items() if len(x) > 1]
  return f"{'-'.join(axes)}-{digest}"


def _file_axes(command: TrainCommand) -> tuple[list[Axis], list[str]]:
  """Returns the axes of gin files, and the program's list of gin files.

  The most telling kind of file is an axis even with a single value, which names
  the only row of a table.
  """
  axes: list[Axis] = []
  gin_files: list[str] = []
  kinds = [_kind(files) for files in command.gin_files]
  alone = next((k for k in (*_ROW_KINDS, *kinds[-1:]) if k in kinds), None)
  for kind, files in zip(kinds, command.gin_files, strict=True):
    if len(files) == 1 and kind != alone:
      gin_files += files[0]
      continue
    name = _free(kind, {axis.name for axis in axes})
    meanings = {_stem(some): {"gin_files": list(some)} for some in files}
    if len(meanings) < len(files):
      raise ValueError(
        f"Gin files of one name cannot be told apart: {_listed(files)}."
      )
    axes.append(Axis(name, list(meanings), None, meanings, kind))
    gin_files.append(f"${name}")
  return axes, gin_files


def _kind(files: Sequence[GinFiles]) -> str:
  """Returns the kind of files in a folder: "prompt" for gin/prompts/."""
  folder = folder_of(files)
  name = pathlib.PurePath(folder).name if folder else ""
  return name.removesuffix("s") or "gin_file"


def _stem(files: GinFiles) -> str:
  return "+".join(pathlib.PurePath(x).stem for x in files)


def _listed(files: Sequence[GinFiles]) -> str:
  return ", ".join("+".join(x) for x in files)


def _free(name: str, taken: set[str]) -> str:
  """Returns a free name: the given one, or with a number after it."""
  number = 2
  free = name
  while free in taken:
    free, number = f"{name}_{number}", number + 1
  return free


def _binding_axes(command: TrainCommand, taken: set[str]) -> Iterator[Axis]:
  """Yields an axis for each binding with a list, and for the task."""
  taken = set(taken)
  for binding, texts in command.bindings.items():
    known = _AXES.get(binding)
    if len(texts) < 2 and known != "task":
      continue
    name = _free(known or binding.rpartition(".")[2].lower(), taken)
    taken.add(name)
    title = name if known else binding
    values = [_literal(text) for text in texts]
    if all(_is_number(x) for x in values):
      yield Axis(name, values, binding, {}, title)
    elif all(_is_name(x) for x in values):
      yield Axis(name, values, binding, {str(x): {} for x in values}, title)
    else:
      yield _named(name, binding, texts, title)


def _named(name: str, binding: str, texts: Sequence[str], title: str) -> Axis:
  """Makes an axis of values without names, such as lists.

  The name of a value does not depend on the other values, so a sweep with more
  values uses the records of this one.
  """
  meanings: dict[str, dict[str, Any]] = {}
  for text in texts:
    slug = re.sub(r"[^\w.+-]+", "_", text).strip("_")[:40] or "value"
    if slug != text:
      slug += f"-{hashlib.sha256(text.encode()).hexdigest()[:4]}"
    meanings[slug] = {
      "label": text,
      "bindings": {binding: {cells.RAW: text}},
    }
  return Axis(name, list(meanings), None, meanings, title)


def _shell_word(word: str) -> str:
  """Quotes a word for a shell; with double quotes if it has single ones."""
  if "'" in word and not set('"$`\\!') & set(word):
    return f'"{word}"'
  return shlex.quote(word)


def _literal(text: str) -> Any:
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return None  # A reference, a macro, or None itself.


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool)


def _is_name(value: Any) -> bool:
  return isinstance(value, str) and bool(_PLAIN_NAME.fullmatch(value))


def _toml_value(text: str) -> Any:
  """Returns the value of a binding in the notation of sheets."""
  value = _literal(text)
  if _is_toml(value) and cells.literal(value) == text.replace("'", '"'):
    return value
  return {cells.RAW: text}


def _is_toml(value: Any) -> bool:
  """Returns whether TOML has such a value, which `cells` copies."""
  if isinstance(value, str):
    return "$" not in value
  if isinstance(value, list):
    return all(map(_is_toml, value))
  if isinstance(value, dict):
    keys = all(isinstance(key, str) and key != cells.RAW for key in value)
    return keys and all(map(_is_toml, value.values()))
  return isinstance(value, bool | int | float)


def _layout(axes: Sequence[Axis]) -> dict[str, Any]:
  """Chooses rows, columns and a figure.

  Numbers are columns, drawn as lines over their values; without numbers, models
  are, over their size; else tasks or the last list, drawn as dots. Scores are
  averaged over seeds, and over tasks that are not the columns. If only seeds
  vary, the common setting of all runs names the only cell of the table.
  """
  shown = [x for x in axes if x.name != "seed"]
  varied = [x for x in shown if len(x.values) > 1] or shown or list(axes)
  numeric = [x for x in varied if x.is_numeric]
  by_name = {x.name: x for x in varied}
  columns = max(
    numeric,
    key=lambda x: len(x.values),
    default=by_name.get("model", by_name.get("task", varied[-1])),
  )
  rows = [x for x in varied if x is not columns]
  over = by_name.get("task")
  if over is columns or over not in rows:
    over = None
  if over:
    rows.remove(over)
  if not rows:  # The common setting of all runs names the only row.
    rows = [x for x in shown if x not in (columns, over)][:1]
  if not rows:
    rows, over = [x for x in (over,) if x], None
  layout: dict[str, Any] = {
    "rows": [x.name for x in rows],
    "columns": columns.name,
    "figure": "dots",
    "x_label": columns.title,
    "y_label": "Dev score, %",
  }
  if numeric or columns.name == "model":
    layout["figure"] = "lines"
  if columns.name == "model":
    layout["x_label"] = "Parameters of the model"
  if columns.name == "task" and len(columns.values) > 1:
    layout["mean_column"] = True
  if over:
    layout["mean_over"] = over.name
  return layout
