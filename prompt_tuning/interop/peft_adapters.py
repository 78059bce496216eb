"""Conversion of prompts to and from adapter folders of Hugging Face PEFT.

A folder holds `adapter_config.json` and a file with one array,
`prompt_embeddings`: `adapter_model.safetensors` or, as PEFT wrote until 2023,
`adapter_model.bin`. PEFT puts the first `num_virtual_tokens` of its rows in
front of the embedded input, as we do. Gemma multiplies embeddings by sqrt(H):
PEFT's rows have that factor, but ours do not, since they are multiplied too.
Before transformers 5.4, Gemma 1 and 2 multiplied PEFT's rows as well, and an
adapter does not say which release trained it; we take it for a later one.
"""

import dataclasses
import json
import os
import pathlib
import re
from typing import Any

from absl import logging
from etils import epath
import numpy as np
import safetensors.numpy

from prompt_tuning import project_files as whole_files
from prompt_tuning import prompt_files
from prompt_tuning.interop import decoder_configs, local_files, torch_files
from prompt_tuning.types import Array
from t5x.files import parsing
from t5x.formats import stored_arrays

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
OLD_WEIGHTS = "adapter_model.bin"
_KEY = "prompt_embeddings"
# In our header: whether PEFT's rows are sqrt(H) times as large as ours.
_IS_SCALED = "is_scaled"
_PEFT_TYPE = "PROMPT_TUNING"
# Task type -> transformers' class of its models.
_CLASSES = {
  "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
  "CAUSAL_LM": "AutoModelForCausalLM",
}


def is_adapter(path: epath.PathLike) -> bool:
  """Returns whether the folder holds a PEFT adapter of any type."""
  return (pathlib.Path(path) / CONFIG).is_file()


def save_adapter(
  folder: epath.PathLike,
  prompt: np.ndarray | Array,
  metadata: prompt_files.PromptMetadata | None = None,
  base_model: str | None = None,
  title: str = "",
  model: str | None = None,
) -> None:
  """Writes a prompt as an adapter that `PeftModel.from_pretrained` loads.

  Args:
    folder: A new folder, or an empty one.
    prompt: [P, H] The prompt. It is written as float32.
    metadata: Written as in our own files; PEFT does not read it.
    base_model: Name or path of the Hugging Face model that the prompt belongs
      to; by default the one in the metadata. A name on the hub that contains
      "gemma" is taken for a model that multiplies embeddings.
    title: The adapter's name on the hub, for a model card; by default there is
      no card.
    model: The same model on this machine; by default the one in the metadata,
      or `base_model`.

  Raises:
    ValueError: if `prompt` is not a prompt, the folder is not empty, or the
      model is missing and may be a Gemma.
  """
  folder = pathlib.Path(folder)
  array = prompt_files.checked(np.asarray(prompt), folder)
  local_files.check_new(folder)
  if metadata is not None:
    base_model = base_model or metadata.base_model
    if os.path.isdir(metadata.base_model or ""):
      model = model or metadata.base_model
    metadata = dataclasses.replace(metadata, base_model=base_model)
  length, width = array.shape
  kind = _kind(model or base_model)
  is_decoder = kind in decoder_configs.MODEL_TYPES or (
    metadata is not None
    and metadata.parameter_path == prompt_files.PARAMETER_PATHS[1]
  )
  task_type = [*_CLASSES][is_decoder]
  config = {
    "peft_type": _PEFT_TYPE,
    "task_type": task_type,
    "num_virtual_tokens": length,
    # With PEFT's default for T5, 2, the second half of the rows is unused.
    "num_transformer_submodules": 1,
    "token_dim": width,
    "base_model_name_or_path": base_model,
    "inference_mode": True,
  }
  is_scaled = _is_scaled(task_type, kind, folder)
  folder.mkdir(parents=True, exist_ok=True)
  scaled = array * _scale(is_scaled, width)
  header = {} if metadata is None else prompt_files.to_header(metadata, scaled)
  header |= {"format": "pt", _IS_SCALED: str(is_scaled)}
  weights = safetensors.numpy.save({_KEY: scaled}, header)
  whole_files.write(folder / WEIGHTS, weights)
  if title:
    card = _card(title, array, metadata, base_model, _CLASSES[task_type])
    whole_files.write(folder / "README.md", card.encode())
  # Written last, because it makes the folder an adapter.
  text = json.dumps(config, indent=2) + "\n"
  whole_files.write(folder / CONFIG, text.encode())


def _kind(base_model: str | None) -> str:
  """Returns the model type of a folder, or the name of another model."""
  config = pathlib.Path(base_model or "", "config.json")
  if not base_model or not os.path.isfile(config):
    return base_model or ""
  what = "a model configuration"
  return parsing.json_file(config, what, {"model_type": str})["model_type"]


def _is_scaled(task_type: str, kind: str, place: pathlib.Path) -> bool:
  """Returns whether PEFT's rows are multiplied embeddings.

  Raises:
    ValueError: for a decoder that may be a Gemma and is missing.
  """
  # T5Gemma 1 multiplies after PEFT has put them in front.
  scales = "gemma" if task_type == "CAUSAL_LM" else r"t5gemma-?2(-|$)"
  is_scaled = re.search(scales, kind.lower()) is not None
  is_decoder = task_type == "CAUSAL_LM" and os.path.isabs(kind)
  if is_decoder and not is_scaled and not os.path.exists(kind):
    raise ValueError(
      f"{place}: there is no model at {kind}, and it would tell the size of "
      "the prompt's rows. Correct its base model."
    )
  return is_scaled


def _scale(is_scaled: bool, width: int) -> np.float32:
  """Returns the size of PEFT's rows, as a multiple of ours."""
  return np.float32(width**0.5 if is_scaled else 1)


def _card(
  title: str,
  prompt: np.ndarray,
  metadata: prompt_files.PromptMetadata | None,
  base_model: str | None,
  auto_class: str,
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
  if auto_class == _CLASSES["CAUSAL_LM"]:
    origin += (
      " If the model has a chat template, its inputs were wrapped by that: use "
      "`tokenizer.apply_chat_template` with `add_generation_prompt=True`."
    )
  template = pathlib.Path(__file__).with_name("model_card.md").read_text()
  return template.format(
    **{"title": title, "base_model": base_model, "origin": origin},
    **{"length": length, "numbers": length * width, "auto_class": auto_class},
  )


def load_adapter(
  folder: epath.PathLike, model: str | None = None
) -> tuple[np.ndarray, prompt_files.PromptMetadata | None]:
  """Reads the prompt of an adapter.

  Args:
    folder: A folder with a PROMPT_TUNING adapter.
    model: Its model on this machine; by default the one that it names.

  Returns:
    The prompt, [P, H] float32. Also its metadata, if we wrote the adapter, or
    if it names its model or is for a decoder.

  Raises:
    ValueError: if the adapter is of another kind or incomplete, or if its
      decoder is missing and the adapter does not say whether that is a Gemma.
  """
  folder = pathlib.Path(folder)
  if not is_adapter(folder):
    raise ValueError(f"{folder} is not a PEFT adapter: it has no {CONFIG}.")
  path = folder / CONFIG
  what = "a PEFT configuration"
  config = parsing.json_file(path, what, {"peft_type": Any})
  for name, known, what in (
    ("peft_type", (_PEFT_TYPE,), "a single prompt"),
    ("task_type", tuple(_CLASSES), "that of a T5 or a decoder"),
  ):
    if (got := config.get(name)) not in known:
      raise ValueError(
        f"{path}: expected {name} {' or '.join(known)}, {what}, got {got}."
      )
  length = config.get("num_virtual_tokens")
  if not isinstance(length, int) or length < 1:
    raise ValueError(f"{path}: expected num_virtual_tokens >= 1, got {length}.")
  base_model = config.get("base_model_name_or_path")
  if not isinstance(base_model, str | None):
    raise ValueError(
      f"{path}: expected base_model_name_or_path to be the name or path of a "
      f"model, got {base_model}."
    )
  path, rows, header = _read_rows(folder, length)
  task_type = config["task_type"]
  if _IS_SCALED in header:
    is_scaled = header[_IS_SCALED] == "True"
  else:
    kind = _kind(model or base_model)
    is_scaled = _is_scaled(task_type, kind, folder / CONFIG)
    if is_scaled and re.search("(?<!t5)gemma(?!-?3)", kind.lower()):
      logging.warning(
        "%s: its rows are divided by %.4g, which is right if the adapter was "
        "trained with transformers 5.4 or later. Earlier releases of Gemma 1 "
        "and 2 multiplied them: then multiply the prompt by that number.",
        *(path, _scale(is_scaled, rows.shape[1])),
      )
  prompt = rows / _scale(is_scaled, rows.shape[1])
  metadata = prompt_files.from_header(header, rows, path)
  if metadata is None and (base_model or task_type == "CAUSAL_LM"):
    unknown, names = prompt_files.UNKNOWN, prompt_files.PARAMETER_PATHS
    name = names[task_type == "CAUSAL_LM"]
    metadata = prompt_files.PromptMetadata(
      unknown, unknown, parameter_path=name, base_model=base_model
    )
  return prompt, metadata


def _read_rows(
  folder: pathlib.Path, length: int
) -> tuple[pathlib.Path, np.ndarray, dict[str, str]]:
  """Reads the file of the weights: its path, PEFT's rows, and its header."""
  path, old = folder / WEIGHTS, folder / OLD_WEIGHTS
  if path.is_file():
    array, header = prompt_files.read_tensor(path, _KEY)
  elif old.is_file():
    path, header = old, {}
    arrays = torch_files.find([path])
    prompt_files.check_key(path, _KEY, arrays)
    array = stored_arrays.read(arrays[_KEY])
  else:
    raise ValueError(
      f"Expected {WEIGHTS} or {OLD_WEIGHTS} in {folder}, got neither."
    )
  if array.ndim != 2 or not array.size or len(array) % length:
    raise ValueError(
      f"{path}: expected {_KEY} of shape [{length}, width], or a multiple of "
      f"{length} rows, as {CONFIG} says num_virtual_tokens = {length}; got "
      f"{list(array.shape)}."
    )
  if (said := header.get("prompt_length", str(length))) != str(length):
    raise ValueError(
      f"{path}: expected a prompt of {said} rows, as its header says, but "
      f"{CONFIG} says num_virtual_tokens = {length}. One of the two is "
      "damaged: get another copy of both."
    )
  return path, prompt_files.checked(array[:length], path), header
