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
import tempfile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  import numpy as np

  from prompt_tuning.prompt_files import PromptMetadata

_PART = r"[A-Za-z0-9][\w.-]*"
_NAME = re.compile(rf"{_PART}/{_PART}")
# A data set may have a folder for each of its parts.
_DATA_NAME = re.compile(rf"({_PART}/{_PART})(/{_PART})?")
_MODEL_FILES = ("config.json", "*.safetensors", "*.index.json", "spiece.model")
_MODEL_FILES += ("tokenizer.json", "tokenizer_config.json", "*.jinja")
_DATA_FILES = ("*.csv", "*.tsv", "*.jsonl", "*.parquet")
# Split -> words of a file's name that mean it.
_SPLITS = {
  "train": ("train",),
  "validation": ("validation", "valid", "val", "dev"),
  "test": ("test",),
}


def is_name(path: str) -> bool:
  """Returns whether a path reads as OWNER/NAME and no folder here begins so."""
  owner = path.partition("/")[0]
  return bool(_NAME.fullmatch(path)) and not os.path.isdir(owner)


@functools.cache  # Each fetch asks the hub for the newest version.
def model_folder(name: str) -> str:
  """Fetches a model, and returns its folder.

  Args:
    name: OWNER/NAME on the hub.

  Raises:
    ValueError: if there is no such model, or no way to the hub.
  """
  return _fetch(name, repo_id=name, allow_patterns=[*_MODEL_FILES])


def data_files(name: str) -> dict[str, str]:
  """Fetches a data set, and returns its splits and their files.

  Args:
    name: OWNER/NAME on the hub, or OWNER/NAME/FOLDER.

  Raises:
    ValueError: if there is no such data set, no way to the hub, or not one
      file a split.
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
    ),
    (matched[2] or "").strip("/"),
  )
  found = sorted(x for pattern in _DATA_FILES for x in folder.rglob(pattern))
  splits: dict[str, list[pathlib.Path]] = {}
  for path in found:
    words = re.split(r"[^a-z]+", path.stem.lower())
    for split, names in _SPLITS.items():
      if set(names) & set(words) or (split == "train" and len(found) == 1):
        splits.setdefault(split, []).append(path)
  many = {split: files for split, files in splits.items() if len(files) > 1}
  if many or "train" not in splits:
    names = ", ".join(str(x.relative_to(folder)) for x in found[:10]) or "none"
    raise ValueError(
      f"{name}: expected one file a split, called train, validation or test, "
      f"got {names}. Name a folder, {matched[1]}/FOLDER, or one of the files "
      f"in {folder}."
    )
  return {split: str(files[0]) for split, files in splits.items()}


def push(
  repository: str,
  prompt: "np.ndarray",
  metadata: "PromptMetadata | None",
  base_model: str | None = None,
  is_private: bool = False,
) -> str:
  """Uploads a prompt as a PEFT adapter with a model card.

  Args:
    repository: OWNER/NAME on the hub; it is made if it is missing.
    prompt: [P, H] The prompt.
    metadata: Its metadata, if known.
    base_model: The name of its model on the hub; by default that of the
      metadata.
    is_private: Whether a new repository is private.

  Returns:
    The repository's address.

  Raises:
    ValueError: if a name is missing, the hub refuses, or there is no way to it.
  """
  base_model = base_model or (metadata and metadata.base_model)
  if not all(_NAME.fullmatch(x or "") for x in (repository, base_model)):
    raise ValueError(
      "Expected names OWNER/NAME on the hub for the prompt and its model, got "
      f"{repository} and {base_model or 'none'}. Name them: prompt-tuning push "
      "PROMPT OWNER/NAME --base_model=google/flan-t5-base"
    )

  # It imports JAX, and a look at a path does not need it.
  from prompt_tuning.interop import peft_adapters

  with (
    _hub(f"{repository} cannot be written to") as api,
    tempfile.TemporaryDirectory(prefix="prompt_") as scratch,
  ):
    folder = pathlib.Path(scratch, "adapter")
    peft_adapters.save_adapter(folder, prompt, metadata, base_model, repository)
    made = api.create_repo(repository, private=is_private, exist_ok=True)
    message = "Add a prompt of prompt-tuning"
    api.upload_folder(
      repo_id=repository, folder_path=folder, commit_message=message
    )
  return str(made)


def _fetch(name: str, **arguments: Any) -> str:
  where = f"There is no {name} in {os.getcwd()}, and it cannot be fetched from"
  with _hub(where) as api:
    return api.snapshot_download(**arguments)


@contextlib.contextmanager
def _hub(problem: str) -> Iterator[Any]:
  """Yields the hub's interface.

  Raises:
    ValueError: if the library is missing, or for its errors, of many kinds.
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
