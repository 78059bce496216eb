"""What a training command says last: what it left, and how to evaluate it."""

from collections.abc import Iterator, Mapping, Sequence
import os
import shlex
from typing import Any

from etils import epath

from t5x import gin_macros, gin_utils

_EVALUATE_PROMPT = "gin/recipes/evaluate_prompt.gin"
_FROM_FILE = "gin/prompts/from_file.gin"
_RECIPES, _RUNS, _PROMPTS = "gin/recipes/", "gin/runs/", "gin/prompts/"
# Bindings of functions that only training has.
_OF_TRAINING = ("train", "infer_eval", "actions", "checkpoints")


def closing_note(
  model_dir: str,
  best: Mapping[str, Any] | None,
  gin_files: Sequence[str],
  gin_bindings: Sequence[str],
  flags: Sequence[str] = (),
) -> str:
  """Returns where a run's prompt or checkpoint is, and a command.

  Args:
    model_dir: The run's folder.
    best: Its best evaluation, {"step", "score"}, if they are compared.
    gin_files: Of the command.
    gin_bindings: Of the command.
    flags: Others of the command that an evaluation needs too.

  Returns:
    Lines for people; the last ones can be copied to a shell.
  """
  prompt = os.path.join(model_dir, "prompt.safetensors")
  has_prompt = epath.Path(prompt).exists()
  checkpoint = model_dir
  if best is not None:
    path = os.path.join(model_dir, f"checkpoint_{best['step']}")
    checkpoint = path if epath.Path(path).is_dir() else model_dir
  files = list(_evaluated(gin_files, has_prompt))
  kept = _kept(gin_bindings, files, has_prompt)
  places = {"PROMPT_FILE": prompt} if has_prompt else {}
  if not has_prompt:
    places["CHECKPOINT_PATH"] = checkpoint
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


def _evaluated(gin_files: Sequence[str], has_prompt: bool) -> Iterator[str]:
  """The files of the evaluation: another run, and the prompt from its file."""
  replaced = False
  for gin_file in _without_recipes(gin_files):
    is_prompt = gin_file.startswith(_PROMPTS) or gin_file.endswith(
      "methods/prompt_tuning.gin"
    )
    if has_prompt and (is_prompt or gin_file.startswith(_RUNS)):
      if not replaced:
        yield _EVALUATE_PROMPT
      replaced = True
    elif gin_file.startswith(_RUNS):
      yield "gin/runs/eval.gin"
    else:
      yield gin_file


def _without_recipes(gin_files: Sequence[str]) -> Iterator[str]:
  for gin_file in gin_files:
    if gin_file.startswith(_RECIPES):
      yield from gin_macros.includes(gin_file, gin_utils.search_paths())
    else:
      yield gin_file


def _kept(
  gin_bindings: Sequence[str], gin_files: Sequence[str], has_prompt: bool
) -> dict[str, str]:
  """Bindings of what the evaluation has as well: name -> value."""
  paths = gin_utils.search_paths()
  macros = gin_macros.macros_of(gin_files, paths)
  # How it was trained says nothing any more.
  dropped = set(gin_macros.macros_of(["gin/optimizers/frozen.gin"], paths))
  if has_prompt:
    dropped |= set(gin_macros.macros_of([_FROM_FILE], paths))
  kept = {}
  for binding in gin_bindings:
    name, _, value = (part.strip() for part in binding.partition("="))
    is_macro = "." not in name
    if is_macro and (name not in macros or name in dropped):
      continue
    if not is_macro and name.startswith(_OF_TRAINING):
      continue
    kept[name] = value
  return kept


def _quoted(word: str) -> str:
  """Quotes a word for a shell, by double quotes where that reads better."""
  if "'" in word and not set(word) & set('"$`\\!'):
    name, equals, value = word.partition("=")
    return f'{name}{equals}"{value}"'
  return shlex.quote(word)
