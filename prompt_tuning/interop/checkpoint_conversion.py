"""Conversion of models between T5X checkpoints and Hugging Face folders."""

import contextlib
import dataclasses

from etils import epath

from prompt_tuning import prompt_files
from prompt_tuning.interop import hugging_face, prompt_conversion
from prompt_tuning.models.config import TOKEN_EMBEDDING
from t5x.files import safe_files
from t5x.formats import base_checkpoints, checkpoint_folder, int8, t5x_v3
from t5x.formats.base_checkpoints import BaseCheckpoint
from t5x.formats.stored_arrays import in_memory

FORMATS = ("hf", "t5x", "int8")


def open_model(path: str, source_format: str | None = None) -> BaseCheckpoint:
  """Opens a model, without reading a parameter yet.

  Args:
    path: The folder of a Hugging Face T5 or decoder, its name on the hub, or a
      checkpoint that `INITIAL_CHECKPOINT_PATH` takes.
    source_format: "hf" accepts only the first two.

  Raises:
    ValueError: if the model is missing, or has another format.
  """
  if source_format == "hf":
    return hugging_face.open_folder(path)
  return base_checkpoints.open_checkpoint(path)


def add_prompt(
  model: BaseCheckpoint,
  prompt_file: epath.PathLike,
  name: str,
) -> BaseCheckpoint:
  """Merges a prompt into its base model.

  Args:
    model: The base model.
    prompt_file: As for `prompt_conversion.read_prompt`.
    name: The parameter's name, such as "encoder/prompt/prompt".

  Raises:
    ValueError: if the prompt belongs to another model or has another width, or
      the model has a prompt already, under any name, or is not a T5.
  """
  prompt, metadata = prompt_conversion.read_prompt(prompt_file)
  for known in (name, *prompt_conversion.PARAMETER_PATHS):
    if known in model.arrays:
      raise ValueError(f"{model.path} has a prompt already, {known}.")
  if TOKEN_EMBEDDING not in model.arrays or "folder" in model.metadata:
    raise ValueError(
      f"Expected a T5, with {TOKEN_EMBEDDING}, in {model.path}, got another "
      "model. Convert its prompt by itself: prompt-tuning convert prompt."
    )
  width = model.arrays[TOKEN_EMBEDDING].shape[1]
  if prompt.shape[1] != width:
    raise ValueError(
      f"Expected a prompt of width {width}, that of {model.path}, got "
      f"{prompt.shape[1]} in {prompt_file}."
    )
  if metadata is not None:
    prompt_files.check_compatible(
      metadata, model.fingerprint, prompt_files.UNKNOWN
    )
  return dataclasses.replace(
    model,
    arrays={**model.arrays, name: in_memory(prompt)},
    metadata={},  # The fingerprint of the base is not that of the merged model.
  )


def convert(
  model: BaseCheckpoint,
  target_format: str,
  target: str,
  step: int | None = None,
) -> str:
  """Writes a model tensor by tensor; only int8 changes its values.

  Args:
    model: The model to write.
    target_format: "hf"; "t5x", T5X's format 3, for a T5; or "int8", which is
      "hf" for a decoder and "t5x" for a T5, with matrices in int8.
    target: A new folder for "hf", or the parent folder of `checkpoint_<step>`.
    step: Pretraining steps, 0 or more, if the model does not record them.

  Returns:
    A summary for the user.

  Raises:
    ValueError: if the format cannot hold the model or the step, the target
      exists, or several vocabularies might be the model's.
  """
  vocabulary = _vocabulary(model)
  is_decoder = "folder" in model.metadata
  if is_decoder and target_format == "t5x":
    raise ValueError(
      f"Expected hf or int8 for {model.path}, got t5x, which has only the "
      "sizes and settings of a T5 1.1."
    )
  name = hugging_face.TOKENIZER if is_decoder else "spiece.model"
  copy = epath.Path(target) / name
  if vocabulary and copy.exists() and copy.read_bytes() != vocabulary:
    raise ValueError(f"{copy} is another model's. Name another folder.")
  is_int8 = target_format == "int8"
  model = int8.held_by(model, int8.names(model, is_int8))
  if target_format == "hf" or (is_int8 and is_decoder):
    if step is not None:
      raise ValueError(f"Expected no step, which hf does not keep, got {step}.")
    metadata = dict(model.metadata)
    if is_decoder:
      weights = "int8" if is_int8 else None
      config = dataclasses.replace(metadata["config"], base_weights=weights)
      metadata |= {"config": config, "fingerprint": model.fingerprint}
    hugging_face.write_folder(target, model.arrays, metadata)
    written = target
  else:
    step = model.step if step is None else step
    metadata = {"fingerprint": model.fingerprint} if is_int8 else None
    written = t5x_v3.write_checkpoint(target, step, model.arrays, metadata)
  if vocabulary:
    safe_files.write(copy, vocabulary)
  dtypes = sorted({str(array.dtype) for array in model.arrays.values()})
  count = sum(array.size for array in model.arrays.values())
  return (
    f"{written}: {len(model.arrays)} arrays, {count:,} parameters, "
    f"{' and '.join(dtypes)}, fingerprint {model.fingerprint}; "
    f"{copy.name if vocabulary else 'no vocabulary beside it'}."
  )


def _vocabulary(model: BaseCheckpoint) -> bytes | None:
  """Reads the file of the vocabulary in or beside a checkpoint, if any."""
  if source := model.metadata.get("folder"):
    tokenizer = epath.Path(source, hugging_face.TOKENIZER)
    return tokenizer.read_bytes() if tokenizer.is_file() else None
  folder = epath.Path(model.found)
  # A vocabulary beside any other folder may belong to another model.
  is_step = checkpoint_folder.STEP_FOLDER.fullmatch(folder.name)
  for place in (folder, folder.parent) if is_step else (folder,):
    found = sorted(place.glob("*.model"))
    if len(found) > 1:
      raise ValueError(
        f"Expected one vocabulary in {place}, got "
        f"{', '.join(path.name for path in found)}: leave the model's there."
      )
    if found:
      return found[0].read_bytes()
  tokenizer = folder / hugging_face.TOKENIZER
  if tokenizer.is_file():  # transformers 5 saves nothing else.
    from prompt_tuning.interop import sentencepiece_model  # And TensorFlow.

    with contextlib.suppress(ValueError):  # It is another network's.
      return sentencepiece_model.sentencepiece_from_tokenizer_json(tokenizer)
  return None
