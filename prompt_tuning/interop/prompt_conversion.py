"""Reading and writing of prompts in any format, chosen by the path."""

import os
import pathlib

from etils import epath
import numpy as np

from prompt_tuning import prompt_files
from prompt_tuning.interop import hub, local_files, peft_adapters
from prompt_tuning.methods import computed_prompts
from prompt_tuning.types import Array

# Ours, and those of the code released with the paper.
PARAMETER_PATHS = (
  *prompt_files.PARAMETER_PATHS,
  *(f"{path}/prompt" for path in prompt_files.PARAMETER_PATHS),
)


def read_prompt(
  path: epath.PathLike, task: str | None = None
) -> tuple[np.ndarray, prompt_files.PromptMetadata | None]:
  """Reads a prompt in any format.

  Args:
    path: A `prompt.safetensors`, a `.npy`, the folder of a PEFT adapter, a
      checkpoint (Google's or ours) with a prompt, which may be computed, the
      folder of a run, or OWNER/NAME of a prompt on the hub. A run gives its
      best prompt, or otherwise that of its last checkpoint.
    task: The task whose prompt to take from a checkpoint of several tasks.

  Returns:
    The prompt, [P, H] float32, and its metadata.

  Raises:
    ValueError: if no prompt is found, the hub cannot be reached, or other
      parameters were trained together with the prompt.
  """
  is_file = pathlib.PurePath(path).suffix in prompt_files.SUFFIXES
  if not is_file and hub.is_name(os.fspath(path)):
    path = hub.folder(os.fspath(path), hub.PROMPT)
  if peft_adapters.is_adapter(path):
    return peft_adapters.load_adapter(path)
  is_far = "://" in os.fspath(path)
  if is_file if is_far else not pathlib.Path(path).is_dir():
    return prompt_files.load_prompt(path)
  best = epath.Path(path) / "prompt.safetensors"
  if best.exists():
    return prompt_files.load_prompt(os.fspath(best))

  # These import TensorFlow, which takes seconds and which files do not need.
  from t5x import checkpoints
  from t5x.formats import stored_arrays

  try:
    checkpoint = checkpoints.open_checkpoint(str(path))
  except ValueError as error:
    raise ValueError(f"Expected {best}, or a checkpoint. {error}") from error
  arrays = checkpoint.arrays
  if task is not None:
    arrays = computed_prompts.of_task(arrays, task)
  found = computed_prompts.find(arrays, PARAMETER_PATHS)
  if len(found) != 1:
    raise ValueError(
      f"Expected a prompt in {path}, at {' or '.join(PARAMETER_PATHS)}, got "
      f"{' and '.join(found) or 'none'} among {len(checkpoint.arrays)} "
      "parameters. MPT's prompts need the name of a task."
    )
  ((name, parts),) = found.items()
  own = name.removesuffix("prompt")
  trained = checkpoint.metadata.get("trained", ())
  others = [x for x in trained if not x.startswith(own)]
  if others:
    raise ValueError(
      f"The prompt in {path} cannot be used alone: it was trained together "
      f"with {', '.join(others[:3])}."
    )
  prompt = computed_prompts.fold(
    {part: stored_arrays.read(array) for part, array in parts.items()}
  )
  metadata = prompt_files.PromptMetadata(
    # A run's checkpoint records the frozen model.
    base_fingerprint=checkpoint.metadata.get("base_fingerprint")
    or prompt_files.UNKNOWN,
    vocabulary_sha256=prompt_files.UNKNOWN,
    parameter_path=name,
    task=task,
    step=checkpoint.step,
  )
  return prompt_files.checked(prompt, pathlib.Path(path)), metadata


def write_prompt(
  path: epath.PathLike,
  prompt: np.ndarray | Array,
  metadata: prompt_files.PromptMetadata | None = None,
  base_model: str | None = None,
) -> str:
  """Writes a prompt in the format that the path implies.

  Args:
    path: A path that ends in `.safetensors`, or in `.npy`, which cannot hold
      metadata; or, without a suffix, the folder of a PEFT adapter.
    prompt: [P, H] The prompt.
    metadata: Its metadata, if known.
    base_model: As for `peft_adapters.save_adapter`; see `check_base_model`.

  Returns:
    A summary for the user.

  Raises:
    ValueError: if `prompt` does not belong to the base model, or the suffix is
      unknown.
  """
  path = local_files.local_path(path)
  if path.suffix and not path.is_dir():
    if base_model is not None:
      raise ValueError(
        f"Only a PEFT adapter names its base model, and {path} is a file: "
        "leave the base model out, or give a folder, whose name has no suffix."
      )
    prompt_files.save_prompt(path, prompt, metadata)
    if path.suffix == ".npy" and metadata is not None:
      return "a bare array: its metadata does not fit into .npy"
    return f"{path.suffix} file"
  if base_model is None:
    note = "it was not compared with a base model"
  else:
    note = check_base_model(base_model, np.asarray(prompt), metadata)
  peft_adapters.save_adapter(path, prompt, metadata, base_model)
  return f"PEFT adapter ({note})"


def check_base_model(
  base_model: str,
  prompt: np.ndarray,
  metadata: prompt_files.PromptMetadata | None,
) -> str:
  """Compares a prompt with the Hugging Face model that will use it.

  Args:
    base_model: A folder, or a name on the hub, which is not contacted.
    prompt: [P, H] The prompt.
    metadata: Its metadata, if known.

  Returns:
    A summary of the comparison for the user.

  Raises:
    ValueError: if the folder is missing, or has another model, or one that our
      network cannot compute.
  """
  # This imports TensorFlow, which takes seconds.
  from prompt_tuning.interop import hugging_face

  folder = pathlib.Path(base_model)
  is_name = "/" not in base_model or hub.is_name(base_model)
  if is_name and not folder.is_dir():
    return f"{base_model} is a name on the hub: it was not compared"
  width = hugging_face.read_config(folder).emb_dim
  if width != prompt.shape[-1]:
    raise ValueError(
      f"{folder} has width {width}, and the prompt has {prompt.shape[-1]}: it "
      "belongs to another model."
    )
  expected = metadata and metadata.base_fingerprint
  if expected in (None, prompt_files.UNKNOWN):
    return f"{folder} has its width; the file does not identify its weights"
  try:
    found = hugging_face.open_folder(folder).fingerprint
  except ValueError as error:
    return f"{folder} has its width; its weights were not compared: {error}"
  if found != expected:
    raise ValueError(
      f"{folder} has the fingerprint {found}, and the prompt was trained on "
      f"{expected}: it belongs to another model."
    )
  return f"{folder} is the model that it was trained on"
