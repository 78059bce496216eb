"""The last output of a training command: results, and how to evaluate them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import os
import shlex
from typing import Any

from etils import epath

from t5x.configuration import checks, reading, resolution

_EVALUATE_PROMPT = "gin/recipes/evaluate_prompt.gin"
_FROM_FILE = "gin/prompts/from_file.gin"
_FROZEN = "gin/optimizers/frozen.gin"
_RUNS = "gin/runs/"


def describe(
  model_dir: str,
  best: Mapping[str, Any] | None,
  gin_files: Sequence[str],
  gin_bindings: Sequence[str],
  flags: Sequence[str] = (),
  paths: Sequence[str] = (".",),
) -> str:
  """Names a run's prompt or checkpoint, and a command that evaluates it.

  Args:
    model_dir: The run's folder.
    best: Its best evaluation, {"step", "score"}, if there was one.
    gin_files: The gin files of the training command.
    gin_bindings: The bindings of the training command.
    flags: Other flags of that command that an evaluation needs too.
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
  files = list(dict.fromkeys(_evaluation_files(parts, has_prompt)))
  macros = macros_of(files, paths)
  from_file = macros_of([_FROM_FILE], paths)
  if has_prompt and not from_file.items() <= macros.items():
    files.append(_FROM_FILE)  # After a file that replaced some of it.
  dropped = {*macros_of([_FROZEN], paths), *(from_file if has_prompt else ())}
  # Recipes set macros next to their includes.
  of_parts = macros_of(parts, paths).items()
  of_recipes = [
    f"{name} = {text}"
    for name, text in macros_of(gin_files, paths).items()
    if (name, text) not in of_parts
  ]
  bindings = [*of_recipes, *gin_bindings]
  kept = {
    name: value
    for name, value in useful(bindings, gin_files, files, paths).items()
    if name not in dropped
  }
  places: dict[str, str | None] = {}
  if has_prompt:
    places["PROMPT_FILE"] = prompt
  else:
    places["CHECKPOINT_PATH"] = checkpoint
    if macros.get("EVAL_ASSIGNMENT_MAP", "None") != "None":
      # The checkpoint holds the prompt, even if it started from a file.
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
    " \\\n  ".join(["python -m t5x.eval", *map(quoted, words)]),
  ]
  return "\n".join(lines)


def _parts(gin_files: Iterable[str], paths: Sequence[str]) -> Iterator[str]:
  """Yields the shortest names of files; for a recipe, those of its includes."""
  for gin_file in gin_files:
    name = _name(gin_file, paths)
    included = (x for x in reading.from_file(name, paths) if isinstance(x, str))
    inner = list(_parts(included, paths))
    has_run = any(x.startswith(_RUNS) for x in inner)
    yield from inner if has_run and not name.startswith(_RUNS) else [name]


def _name(gin_file: str, paths: Sequence[str]) -> str:
  where = os.path.abspath(reading.find(gin_file, paths))
  for path in map(os.path.abspath, paths):
    if where.startswith(path.rstrip(os.sep) + os.sep):
      return os.path.relpath(where, path)
  return gin_file


def _evaluation_files(parts: Sequence[str], has_prompt: bool) -> Iterator[str]:
  """Yields the evaluation's files, with another run and the trained prompt."""
  for gin_file in parts:
    # A run with other methods too has no prompt file.
    is_prompt = gin_file.startswith("gin/prompts/") or "methods/" in gin_file
    if has_prompt and (is_prompt or gin_file.startswith(_RUNS)):
      yield _EVALUATE_PROMPT
    elif gin_file.startswith(_RUNS):
      yield "gin/runs/eval.gin"
    elif not gin_file.startswith("gin/optimizers/"):
      yield gin_file


def macros_of(gin_files: Sequence[str], paths: Sequence[str]) -> dict[str, str]:
  """Returns name -> value of the macros of files."""
  found = resolution.Bindings(gin_files, paths=paths)
  return {name: macro.text for name, macro in found.macros.items()}


def useful(
  gin_bindings: Sequence[str],
  trained: Sequence[str],
  evaluated: Sequence[str],
  paths: Sequence[str],
) -> dict[str, str]:
  """Returns the bindings, name -> value, that fit an evaluation's files."""
  unused, files = {}, resolution.Bindings(evaluated, paths=paths)
  known = {*files.macros, *files.lacking}
  for program, names in ("train", trained), ("evaluate", evaluated):
    bindings = resolution.Bindings(names, gin_bindings, paths)
    found = checks.without_effect(bindings, program, gin_bindings)
    unused[program] = {label for label, _ in found}
  given = (x.partition("=") for x in gin_bindings)
  return {
    name.strip(): value.strip()
    for name, _, value in given
    if name.strip() not in unused["evaluate"] - unused["train"]
    and ("." in name or name.strip() in known)
  }


def quoted(word: str) -> str:
  """Quotes a word for a shell, with double quotes where they read better."""
  name, equals, value = word.partition("=")
  if equals and "'" in value and not set(word) & set('"$`\\!'):
    return f'{name}="{value}"'
  return shlex.quote(word)
