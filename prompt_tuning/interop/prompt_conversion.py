"""Prompts from wherever they are, to wherever they should go."""

import os
import pathlib

import numpy as np

from prompt_tuning import prompt_files
from prompt_tuning.interop import peft_adapters
from prompt_tuning.types import Array

# Ours, and that of the code released with the paper.
PARAMETER_PATHS = ("encoder/prompt/prompt", "encoder/prompt/prompt/prompt")


def read_prompt(
  path: str | os.PathLike[str],
) -> tuple[np.ndarray, prompt_files.PromptMetadata | None]:
  """Reads a prompt in any format.

  Args:
    path: A `prompt.safetensors`, a `.npy`, the folder of a PEFT adapter, or a
      checkpoint of T5X's or ours, or the folder of a run, with a prompt in it.

  Returns:
    The prompt, [P, H] float32, and what is known of it.

  Raises:
    ValueError: if there is no prompt.
  """
  if peft_adapters.is_adapter(path):
    return peft_adapters.load_adapter(path)
  if "://" not in str(path) and not pathlib.Path(path).is_dir():
    return prompt_files.load_prompt(path)
  return _read_from_checkpoint(str(path))


def _read_from_checkpoint(
  path: str,
) -> tuple[np.ndarray, prompt_files.PromptMetadata]:
  # They bring TensorFlow, which takes seconds, and files do without.
  from prompt_tuning.training import base_model
  from t5x import checkpoints

  checkpoint = checkpoints.open_checkpoint(path)
  found = [name for name in PARAMETER_PATHS if name in checkpoint.shapes]
  if len(found) != 1:
    raise ValueError(
      f"Expected a prompt in {path}, at {' or '.join(PARAMETER_PATHS)}, got "
      f"{' and '.join(found) or 'none'} among {len(checkpoint.shapes)} "
      "parameters."
    )
  prompt = base_model.read_parameter(checkpoint, found[0])
  metadata = prompt_files.PromptMetadata(
    # A run's checkpoint names what was frozen.
    base_fingerprint=checkpoint.metadata.get("base_fingerprint")
    or prompt_files.UNKNOWN,
    vocabulary_sha256=prompt_files.UNKNOWN,
    parameter_path=found[0],
    step=checkpoint.step,
  )
  return prompt_files.checked(prompt, pathlib.Path(path)), metadata


def write_prompt(
  path: str | os.PathLike[str],
  prompt: np.ndarray | Array,
  metadata: prompt_files.PromptMetadata | None = None,
  base_model: str | None = None,
) -> str:
  """Writes a prompt, in the format that the name asks for.

  Args:
    path: Ends in `.safetensors`, or in `.npy`, which has no room for
      metadata, or has no suffix: the folder of a PEFT adapter.
    prompt: [P, H] The prompt.
    metadata: What is known of it.
    base_model: As for `peft_adapters.save_adapter`.

  Returns:
    What was written, in words.

  Raises:
    ValueError: if `prompt` is no prompt, or the suffix is another one.
  """
  path = pathlib.Path(path)
  if path.suffix and not path.is_dir():
    if base_model is not None:
      raise ValueError(
        f"Only a PEFT adapter names its base model, and {path} is none: leave "
        "it out, or give a folder, whose name has no suffix."
      )
    prompt_files.save_prompt(path, prompt, metadata)
    if path.suffix == ".npy" and metadata is not None:
      return "a bare array: its metadata does not fit into .npy"
    return f"{path.suffix} file"
  peft_adapters.save_adapter(path, prompt, metadata, base_model)
  return "PEFT adapter"
