"""Models, data sets and prompts on the Hugging Face hub.

`huggingface_hub` does the transfers (the extra `hub`). It reads HF_ENDPOINT and
HF_TOKEN, and keeps its own cache.
"""

from collections.abc import Iterator
import contextlib
import functools
import os
import pathlib
import re
from typing import Any

_PART = r"[A-Za-z0-9][\w.-]*"
_NAME = re.compile(rf"{_PART}/{_PART}")
# A data set may have a folder for each of its parts.
_DATA_NAME = re.compile(rf"({_PART}/{_PART})(/{_PART})?")
# The files of a model and of a prompt. A model may have its weights in a second
# format as well, and a name that is expected to be a prompt's may be a model's.
MODEL = ("config.json", "model*.safetensors", "*.index.json", "spiece.model")
MODEL += ("tokenizer.json", "tokenizer_config.json", "*.jinja")
# Older models have their weights in these alone.
_PICKLES = ("pytorch_model*.bin",)
PROMPT = ("adapter_config.json", "adapter_model.safetensors")
PROMPT += ("adapter_model.bin", "prompt.safetensors")
_DATA_FILES = ("*.csv", "*.tsv", "*.jsonl", "*.json", "*.parquet")
_NO_DATA = ("dataset_infos.json", "dataset_dict.json", "state.json")
# Split -> words of a file's name that mean it.
_SPLITS = {
  "train": ("train",),
  "validation": ("validation", "valid", "val", "dev"),
  "test": ("test",),
}


def is_name(path: str) -> bool:
  """Returns whether a path is OWNER/NAME, without a folder OWNER here."""
  owner = path.partition("/")[0]
  return bool(_NAME.fullmatch(path)) and not os.path.isdir(owner)


@functools.cache  # Each fetch asks the hub for the newest version.
def folder(name: str, files: tuple[str, ...]) -> str:
  """Fetches a model or a prompt, and returns its folder.

  Args:
    name: OWNER/NAME on the hub.
    files: MODEL or PROMPT.

  Raises:
    ValueError: if there is no such repository, it has none of the files, or the
      hub cannot be reached.
  """
  found = _fetch(name, repo_id=name, allow_patterns=[*files])
  if files == MODEL and not any(pathlib.Path(found).glob("*.safetensors")):
    patterns = [*files, *_PICKLES]
    found = _fetch(name, repo_id=name, allow_patterns=patterns)
  if not any(any(pathlib.Path(found).glob(x)) for x in files):
    raise ValueError(f"{name} on the hub has none of {', '.join(files)}.")
  return found


def data_files(name: str) -> dict[str, str]:
  """Fetches a data set, and returns its splits and their files.

  Args:
    name: OWNER/NAME on the hub, or OWNER/NAME/FOLDER.

  Raises:
    ValueError: if there is no such data set, it does not have one file for each
      split, or the hub cannot be reached.
  """
  matched = _DATA_NAME.fullmatch(name)
  if matched is None:
    raise ValueError(
      f"Expected a file, or OWNER/NAME of a data set on the hub, got {name}."
    )
  folder = pathlib.Path(
    _fetch(
      name,
      repo_id=matched[1],
      repo_type="dataset",
      allow_patterns=[*_DATA_FILES],
      ignore_patterns=[f"*{x}" for x in _NO_DATA],
    ),
    (matched[2] or "").strip("/"),
  )
  found = sorted(x for pattern in _DATA_FILES for x in folder.rglob(pattern))
  splits: dict[str, list[pathlib.Path]] = {}
  for path in found:
    words = re.split(r"[^a-z]+", path.stem.lower())
    named = [x for x, names in _SPLITS.items() if set(names) & set(words)]
    if len(found) == 1:
      named = named or ["train"]
    for split in named:
      splits.setdefault(split, []).append(path)
  many = {split: files for split, files in splits.items() if len(files) > 1}
  if many or "train" not in splits:
    names = ", ".join(str(x.relative_to(folder)) for x in found[:10]) or "none"
    raise ValueError(
      f"{name}: expected one file for each split, train, validation or test, "
      f"got {names}. Name a folder, {matched[1]}/FOLDER, or one of the files "
      f"in {folder}."
    )
  return {split: str(files[0]) for split, files in splits.items()}


def check_names(repository: str, base_model: str | None) -> None:
  """Raises ValueError unless a prompt and its model have names on the hub."""
  if not all(_NAME.fullmatch(x or "") for x in (repository, base_model)):
    raise ValueError(
      "Expected names OWNER/NAME on the hub for the prompt and its model, got "
      f"{repository} and {base_model or 'none'}. Name them: prompt-tuning push "
      "PROMPT OWNER/NAME --base_model=google/flan-t5-base"
    )


def _fetch(name: str, **arguments: Any) -> str:
  where = f"There is no {name} in {os.getcwd()}, and it cannot be fetched from"
  with opened(where) as api:
    return api.snapshot_download(**arguments)


@contextlib.contextmanager
def opened(problem: str) -> Iterator[Any]:
  """Yields the hub's interface, a `huggingface_hub.HfApi`.

  Args:
    problem: The start of the message of an error.

  Raises:
    ValueError: if the library is missing, or for any of its errors.
  """
  try:
    import huggingface_hub
  except ImportError:
    raise ValueError(
      f"{problem} the hub without huggingface_hub: pip install "
      "'prompt-tuning[hub]'."
    ) from None
  # The library reads the variable once, when it is imported.
  api = huggingface_hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
  try:
    yield api
  except Exception as error:
    why = " ".join(str(error).split())[:300].rstrip(".") or repr(error)
    raise ValueError(
      f"{problem} the hub, {api.endpoint}: {why}. Give a folder or a file, or "
      "log in: hf auth login."
    ) from error
