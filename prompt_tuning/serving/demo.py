"""The demo: a miniature model of this repository, with its prompts."""

from collections.abc import Iterable, Iterator
import json
import os
import pathlib
from typing import Any

import seqio

import prompt_tuning as pt
from prompt_tuning import tasks  # noqa: F401  # Registers the tasks.
from prompt_tuning.data import vocabulary as vocabulary_lib
from prompt_tuning.inference.frozen_model import FrozenModel
from t5x import checkpoints
from t5x.files import safe_files

_EXAMPLES = 3  # For each prompt.
# A task that has no prompt yet, and the sizes of its files.
NEW_TASK = "ladder_multirc"
_SPLITS = {"train": 1000, "validation": 100}


def defaults() -> dict[str, Any]:
  """Returns the demo's defaults for the flags of the server.

  The prompts of the repository are copied to the user's cache folder, which
  also gets new prompts. It has a folder for each model.

  Raises:
    ValueError: if the repository's checkpoints are missing.
  """
  model = pathlib.Path(pt.gin_search_path(), "checkpoints", "ladder_m")
  if not model.is_dir():
    raise ValueError(
      f"Expected {model}, which is in the repository but not in an installed "
      "package: start the demo in a checkout."
    )
  checkpoint = str(model / "lm_100")
  fingerprint = checkpoints.open_checkpoint(checkpoint).fingerprint
  cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  folder = pathlib.Path(cache, "prompt_tuning", "demo", fingerprint)
  prompts = folder / "prompts"
  prompts.mkdir(parents=True, exist_ok=True)
  for path in (model / "prompts").glob("*.safetensors"):
    if not (prompts / path.name).exists():
      safe_files.write(prompts / path.name, path.read_bytes())
  return {
    "checkpoint": checkpoint,
    "prompts": str(prompts),
    "jobs": str(folder / "jobs"),
    # Few shapes, so that they compile in seconds.
    "rows": 4,
    "lengths": [96],
    "max_tokens": 16,
    "labels": [16],
  }


def examples(
  model: FrozenModel, prompts: Iterable[str]
) -> list[dict[str, str]]:
  """Returns inputs from the test splits of the prompts' tasks.

  Args:
    model: The model, whose vocabulary the tasks use.
    prompts: Names of prompts, each of which is the name of its task.
  """
  return [
    {"model": name, "input": text}
    for name in sorted(prompts)
    if name in seqio.TaskRegistry.names()
    for text, _ in pairs(model, name, "test", _EXAMPLES)
  ]


def data_sets(model: FrozenModel, folder: str) -> list[str]:
  """Writes files for `POST /v1/files`, of a task that has no prompt yet.

  Returns:
    The paths of two files: one to train on, and one to evaluate on.
  """
  pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
  paths = []
  for split, count in _SPLITS.items():
    path = pathlib.Path(folder, f"{NEW_TASK}_{split}.jsonl")
    lines = [
      json.dumps({"prompt": text, "completion": answer})
      for text, answer in pairs(model, NEW_TASK, split, count)
    ]
    safe_files.write(path, "\n".join([*lines, ""]).encode())
    paths.append(str(path))
  return paths


def pairs(
  model: FrozenModel, name: str, split: str, count: int
) -> Iterator[tuple[str, str]]:
  """Yields the inputs and targets of the first examples of a task."""
  task = vocabulary_lib.with_vocabulary(
    seqio.TaskRegistry.get(name), model.vocabulary
  )
  dataset = task.get_dataset(sequence_length=None, split=split, shuffle=False)
  for row in dataset.take(count).as_numpy_iterator():
    text, answer = row["inputs_pretokenized"], row["targets_pretokenized"]
    yield text.decode(), answer.decode()
