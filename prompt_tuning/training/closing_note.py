"""What a training command says last: what it left, and how to evaluate it."""

from collections.abc import Iterator, Mapping, Sequence
import os
import shlex
from typing import Any

from etils import epath

from t5x.configuration import checks, reading, resolution

_EVALUATE_PROMPT = "gin/recipes/evaluate_prompt.gin"
_FROM_FILE = "gin/prompts/from_file.gin"
_RUNS, _PROMPTS = "gin/runs/", "gin/prompts/"
_OPTIMIZERS = "gin/optimizers/"


def closing_note(
  model_dir: str,
  best: Mapping[str, Any] | None,
  gin_files: Sequence[str],
  gin_bindings: Sequence[str],
  flags: Sequence[str] = (),
  paths: Sequence[str] = (".",),
) -> str:
  """Returns where a run's prompt or checkpoint is, and a command.

  Args:
    model_dir: The run's folder.
    best: Its best evaluation, {"step", "score"}, if they are compared.
    gin_files: Of the command.
    gin_bindings: Of the command.
    flags: Others of the command that an evaluation needs too.
    paths: Folders to look in for gin files, the package's among them.

  Returns:
    Lines for people; the last ones can be copied to a shell.
  """
  prompt = os.path.join(model_dir, "prompt.safetensors")
  has_prompt = epath.Path(prompt).exists()
  checkpoint = model_dir
  if best is not None:
    path = os.path.join(model_dir, f"checkpoint_{best['step']}")
    checkpoint = path if epath.Path(path).is_dir() else model_dir
  parts = list(_parts(gin_files, paths))
  files = list(dict.fromkeys(_evaluated(parts, has_prompt)))
  macros = _macros(files, paths)
  if has_prompt and not _macros([_FROM_FILE], paths).items() <= macros.items():
    files.append(_FROM_FILE)  # Behind a file that says otherwise.
  own = _own_macros(gin_files, parts, paths)
  bindings = [*own, *gin_bindings]
  of_training = _of_training(bindings, gin_files, files, paths)
  kept = {
    name: value
    for name, value in _kept(bindings, macros, has_prompt, paths).items()
    if name not in of_training
  }
  places: dict[str, str | None] = {}
  if has_prompt:
    places["PROMPT_FILE"] = prompt
  else:
    places["CHECKPOINT_PATH"] = checkpoint
    if macros.get("EVAL_ASSIGNMENT_MAP", "None") != "None":
      # A prompt that began as that of a file is in the checkpoint now.
      places["EVAL_ASSIGNMENT_MAP"] = None
  places["EVAL_OUTPUT_DIR"] = f"{model_dir.rstrip('/')}-eval"
  words = [
    *(f"--gin_file={gin_file}" for gin_file in files),
    *(f"--gin.{name}={value}" for name, value in kept.items()),
    *(f"--gin.{name}={path!r}" for name, path in places.items()),
    *flags,
  ]
  lines = []
  if best is not None:
    lines.append(
      f"Best evaluation: {best['score']:.2f}, at step {best['step']}."
    )
  lines += [
    f"Prompt: {prompt}" if has_prompt else f"Checkpoint: {checkpoint}",
    "Evaluate it with:",
    " \\\n  ".join(["python -m t5x.eval", *map(_quoted, words)]),
  ]
  return "\n".join(lines)


def _parts(gin_files: Sequence[str], paths: Sequence[str]) -> Iterator[str]:
  """Files under their shortest names; of a recipe, those that it includes."""
  for gin_file in gin_files:
    name = _name(gin_file, paths)
    if not name.startswith(_RUNS) and _has_run(name, paths):
      yield from _parts(reading.includes(name, paths), paths)
    else:
      yield name


def _name(gin_file: str, paths: Sequence[str]) -> str:
  where = os.path.abspath(reading.find(gin_file, paths))
  for path in map(os.path.abspath, paths):
    if where.startswith(path.rstrip(os.sep) + os.sep):
      return os.path.relpath(where, path)
  return gin_file


def _has_run(gin_file: str, paths: Sequence[str]) -> bool:
  included = reading.includes(gin_file, paths)
  return any(
    _name(x, paths).startswith(_RUNS) or _has_run(x, paths) for x in included
  )


def _own_macros(
  gin_files: Sequence[str], parts: Sequence[str], paths: Sequence[str]
) -> Iterator[str]:
  """Bindings of the macros that recipes set beside their includes."""
  of_parts = reading.macros(parts, paths)
  for name, macro in reading.macros(gin_files, paths).items():
    if name not in of_parts or of_parts[name].text != macro.text:
      yield f"{name} = {macro.text}"


def _evaluated(parts: Sequence[str], has_prompt: bool) -> Iterator[str]:
  """The files of the evaluation: another run, and the prompt from its file."""
  replaced = False
  for gin_file in parts:
    is_prompt = gin_file.startswith(_PROMPTS) or gin_file.endswith(
      "methods/prompt_tuning.gin"
    )
    if has_prompt and (is_prompt or gin_file.startswith(_RUNS)):
      if not replaced:
        yield _EVALUATE_PROMPT
      replaced = True
    elif gin_file.startswith(_RUNS):
      yield "gin/runs/eval.gin"
    elif not gin_file.startswith(_OPTIMIZERS):
      yield gin_file


def _macros(gin_files: Sequence[str], paths: Sequence[str]) -> dict[str, str]:
  """Macro -> value, of files and what they include."""
  found = reading.macros(gin_files, paths)
  return {name: macro.text for name, macro in found.items()}


def _kept(
  gin_bindings: Sequence[str],
  macros: Mapping[str, str],
  has_prompt: bool,
  paths: Sequence[str],
) -> dict[str, str]:
  """Bindings of what the evaluation has as well: name -> value."""
  # How it was trained says nothing any more.
  dropped = set(reading.macros(["gin/optimizers/frozen.gin"], paths))
  if has_prompt:
    dropped |= set(reading.macros([_FROM_FILE], paths))
  kept = {}
  for binding in gin_bindings:
    name, _, value = (part.strip() for part in binding.partition("="))
    is_macro = "." not in name
    if not is_macro or (name in macros and name not in dropped):
      kept[name] = value
  return kept


def _of_training(
  gin_bindings: Sequence[str],
  trained: Sequence[str],
  evaluated: Sequence[str],
  paths: Sequence[str],
) -> set[str]:
  """The names in bindings that gin uses in training alone, by their files."""
  unused = {}
  for program, files in ("train", trained), ("evaluate", evaluated):
    bindings = resolution.Bindings(files, gin_bindings, paths)
    unused[program] = set(checks.unused(bindings, program, gin_bindings))
  return unused["evaluate"] - unused["train"]


def _quoted(word: str) -> str:
  """Quotes a word for a shell, by double quotes where that reads better."""
  if "'" in word and not set(word) & set('"$`\\!'):
    name, equals, value = word.partition("=")
    return f'{name}{equals}"{value}"'
  return shlex.quote(word)
