"""Prompts as adapter folders of Hugging Face's PEFT, in both directions.

A folder holds `adapter_config.json` and `adapter_model.safetensors`. The latter
has one array, `prompt_embeddings`. PEFT puts the first `num_virtual_tokens` of
its rows in front of the embedded input, unscaled, as we do.
"""

import dataclasses
import json
import pathlib
from typing import Any

from etils import epath
import numpy as np
import safetensors.numpy

from prompt_tuning import project_files as whole_files
from prompt_tuning import prompt_files
from prompt_tuning.interop import local_files
from prompt_tuning.types import Array
from t5x.files import parsing

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PICKLED_WEIGHTS = "adapter_model.bin"
_KEY = "prompt_embeddings"
_PEFT_TYPE = "PROMPT_TUNING"
_TASK_TYPE = "SEQ_2_SEQ_LM"


def is_adapter(path: epath.PathLike) -> bool:
  """Returns whether the folder holds a PEFT adapter of any type."""
  return (pathlib.Path(path) / CONFIG).is_file()


def save_adapter(
  folder: epath.PathLike,
  prompt: np.ndarray | Array,
  metadata: prompt_files.PromptMetadata | None = None,
  base_model: str | None = None,
  title: str = "",
) -> None:
  """Writes a prompt as an adapter that `PeftModel.from_pretrained` loads.

  Args:
    folder: A new folder, or an empty one.
    prompt: [P, H] The prompt. It is written as float32.
    metadata: Written as in our own files; PEFT does not read it.
    base_model: Name or path of the Hugging Face model that the prompt belongs
      to, which `AutoPeftModelForSeq2SeqLM` loads.
    title: The adapter's name on the hub, for a model card; by default there is
      no card.

  Raises:
    ValueError: if `prompt` is not a prompt, or the folder is not empty.
  """
  folder = pathlib.Path(folder)
  array = prompt_files.checked(np.asarray(prompt), folder)
  local_files.check_new(folder)
  if metadata is not None and base_model is not None:
    metadata = dataclasses.replace(metadata, base_model=base_model)
  header = {} if metadata is None else prompt_files.to_header(metadata, array)
  length, width = array.shape
  config = {
    "peft_type": _PEFT_TYPE,
    "task_type": _TASK_TYPE,
    "num_virtual_tokens": length,
    # With PEFT's default for T5, 2, the second half of the rows is unused.
    "num_transformer_submodules": 1,
    "token_dim": width,
    "base_model_name_or_path": base_model,
    "inference_mode": True,
  }
  folder.mkdir(parents=True, exist_ok=True)
  weights = safetensors.numpy.save({_KEY: array}, {"format": "pt", **header})
  whole_files.write(folder / WEIGHTS, weights)
  if title:
    card = _card(title, array, metadata, base_model)
    whole_files.write(folder / "README.md", card.encode())
  # Written last, because it makes the folder an adapter.
  text = json.dumps(config, indent=2) + "\n"
  whole_files.write(folder / CONFIG, text.encode())


def _card(
  title: str,
  prompt: np.ndarray,
  metadata: prompt_files.PromptMetadata | None,
  base_model: str | None,
) -> str:
  """Returns a model card: the origin of a prompt, and how to use it."""
  length, width = prompt.shape
  origin = "Its training is unknown."
  if metadata is not None and metadata.task:
    origin = f"It was trained on the task `{metadata.task}`."
    if metadata.score is not None:
      origin += (
        f" Its validation score was {metadata.score:.2f} at step "
        f"{metadata.step}: the mean of the metrics that match "
        f"`{metadata.metric}`, in percent."
      )
  template = pathlib.Path(__file__).with_name("model_card.md").read_text()
  return template.format(
    **{"title": title, "base_model": base_model, "origin": origin},
    **{"length": length, "numbers": length * width},
  )


def load_adapter(
  folder: epath.PathLike,
) -> tuple[np.ndarray, prompt_files.PromptMetadata | None]:
  """Reads the prompt of an adapter.

  Args:
    folder: Holds a PROMPT_TUNING adapter for an encoder-decoder model.

  Returns:
    The prompt, [P, H] float32, and its metadata if we wrote the adapter.

  Raises:
    ValueError: if it is another kind of adapter, or incomplete.
  """
  folder = pathlib.Path(folder)
  if not is_adapter(folder):
    raise ValueError(f"{folder} is not a PEFT adapter: it has no {CONFIG}.")
  path = folder / CONFIG
  what = "a configuration of PEFT's"
  config = parsing.json_file(path, what, {"peft_type": Any})
  for name, expected in (
    ("peft_type", f"{_PEFT_TYPE}, a single prompt"),
    ("task_type", f"{_TASK_TYPE}, that of a T5"),
  ):
    if (got := config.get(name)) != expected.partition(",")[0]:
      raise ValueError(f"{path}: expected {name} {expected}, got {got}.")
  length = config.get("num_virtual_tokens")
  if not isinstance(length, int) or length < 1:
    raise ValueError(f"{path}: expected num_virtual_tokens >= 1, got {length}.")
  path = folder / WEIGHTS
  if not path.is_file():
    way_out = (
      f" {_PICKLED_WEIGHTS} is a pickle, which is not read: load it with PEFT "
      "and save it with safe_serialization=True."
      if (folder / _PICKLED_WEIGHTS).is_file()
      else ""
    )
    raise ValueError(f"Expected {WEIGHTS} in {folder}, got none.{way_out}")
  array, header = prompt_files.read_tensor(path, _KEY)
  if array.ndim != 2 or not array.size or len(array) % length:
    raise ValueError(
      f"{path}: expected {_KEY} of shape [{length}, width], or a multiple of "
      f"{length} rows, as num_virtual_tokens is {length}; got "
      f"{list(array.shape)}."
    )
  prompt = prompt_files.checked(array[:length], path)
  return prompt, prompt_files.from_header(header, prompt, path)
