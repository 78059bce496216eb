"""What `--demo` serves: a miniature of this repository, with its prompts."""

from collections.abc import Iterator
import json
import os
import pathlib
import shutil
from typing import Any

import seqio

import prompt_tuning as pt
from prompt_tuning import prompt_files, safe_files, tasks
from prompt_tuning.data import vocabulary as vocabulary_lib
from prompt_tuning.inference.frozen_model import FrozenModel
from prompt_tuning.serving.page import Example

__all__ = ["data_sets", "defaults", "examples", "tasks"]

_EXAMPLES = 3  # Of each prompt's task.
# A task that has no prompt yet, and how many examples its files have.
NEW_TASK = "ladder_multirc"
_SPLITS = {"train": 1000, "validation": 100}


def defaults() -> dict[str, Any]:
  """Returns what the server's options are, unless the user says otherwise.

  The prompts that the repository holds are copied to the user's cache folder,
  beside those that are tuned later.

  Raises:
    ValueError: where the repository's checkpoints are not.
  """
  model = pathlib.Path(pt.gin_search_path(), "checkpoints", "ladder_m")
  if not model.is_dir():
    raise ValueError(
      f"Expected {model}, which the repository has and an installed package "
      "has not: start the demo in a checkout."
    )
  cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  folder = pathlib.Path(cache, "prompt_tuning", "demo")
  prompts = folder / "prompts"
  prompts.mkdir(parents=True, exist_ok=True)
  for path in (model / "prompts").glob("*.safetensors"):
    own = prompts / path.name
    if not own.exists() or _is_of_another_model(own, path):
      shutil.copy(path, prompts)
  return {
    "checkpoint": str(model / "lm_100"),
    "prompts": str(prompts),
    "jobs": str(folder / "jobs"),
    # Few shapes, which are compiled within seconds.
    "rows": 4,
    "lengths": [96],
    "max_tokens": 16,
    "labels": [16],
  }


def _is_of_another_model(prompt: pathlib.Path, other: pathlib.Path) -> bool:
  """Whether two prompts say that they are of different models.

  One that an older checkout has left is: its ladder_m was another. One that
  cannot be read is none, and named when prompts are loaded.
  """
  try:
    (_, one), (_, two) = map(prompt_files.load_prompt, (prompt, other))
  except ValueError:
    return False
  known = {x.base_fingerprint for x in (one, two) if x}
  return len(known - {prompt_files.UNKNOWN}) > 1


def examples(model: FrozenModel, prompts: str) -> list[Example]:
  """Returns inputs of the prompts' tasks that no training has seen.

  Args:
    model: Its vocabulary is the tasks'.
    prompts: The folder of prompts, whose names are those of tasks.
  """
  names = sorted(path.stem for path in pathlib.Path(prompts).iterdir())
  return [
    Example(name, row["inputs_pretokenized"].decode())
    for name in names
    if name in seqio.TaskRegistry.names()
    for row in _rows(model, name, "test", _EXAMPLES)
  ]


def data_sets(model: FrozenModel, folder: str) -> list[str]:
  """Writes files for `POST /v1/files`, of a task that has no prompt yet.

  Returns:
    Where they are: one to train on, and one to score on.
  """
  pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
  paths = []
  for split, count in _SPLITS.items():
    path = pathlib.Path(folder, f"{NEW_TASK}_{split}.jsonl")
    lines = [
      json.dumps(
        {
          "prompt": row["inputs_pretokenized"].decode(),
          "completion": row["targets_pretokenized"].decode(),
        }
      )
      for row in _rows(model, NEW_TASK, split, count)
    ]
    safe_files.write(path, "\n".join([*lines, ""]).encode())
    paths.append(str(path))
  return paths


def _rows(
  model: FrozenModel, name: str, split: str, count: int
) -> Iterator[dict[str, Any]]:
  """Yields the first examples of a task."""
  task = vocabulary_lib.with_vocabulary(
    seqio.TaskRegistry.get(name), model.vocabulary
  )
  dataset = task.get_dataset(sequence_length=None, split=split, shuffle=False)
  yield from dataset.take(count).as_numpy_iterator()
