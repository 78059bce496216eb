"""Facts about the frozen model, read from its checkpoint for a prompt.

Every process reads them while gin builds the model. Google's T5X has no
fingerprints, so there prompts are written and read without that check.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np
import seqio

from prompt_tuning import prompt_files
from prompt_tuning.data import vocabulary as vocabulary_lib
from prompt_tuning.methods import recycling
from prompt_tuning.models.decoder.config import DecoderConfig
from prompt_tuning.training import google_t5x
from t5x import checkpoints


def token_embedding(path: str) -> np.ndarray:
  """Reads the embedding of a base checkpoint.

  Args:
    path: As for `t5x.checkpoints.find_checkpoint`.

  Returns:
    [V, H] float32.
  """
  if google_t5x.is_installed():
    return google_t5x.token_embedding(path)
  from prompt_tuning.inference import base_models  # As Google's has no formats.

  return base_models.embedding_of(checkpoints.open_checkpoint(path))


def decoder_config(
  path: str,
  dtype: str = "bfloat16",
  dropout_rate: float = 0.0,
  scan_layers: bool = False,
  remat: bool = False,
  remat_keeps: tuple[str, ...] = (),
  attention_kernel: str | None = None,
  base_weights: str | None = None,
) -> DecoderConfig:
  """Reads the sizes of a decoder; the settings are those of `DecoderConfig`.

  Raises:
    ValueError: if the path is neither a Hugging Face folder with a decoder nor
      the name of one on the hub.
  """
  config = checkpoints.open_checkpoint(path).metadata.get("config")
  if config is None:
    raise ValueError(
      f"Expected a decoder in a Hugging Face folder, got {path}. Give "
      "INITIAL_CHECKPOINT_PATH, or the gin file of a T5."
    )
  return dataclasses.replace(
    config,
    dtype=dtype,
    dropout_rate=dropout_rate,
    scan_layers=scan_layers,
    remat=remat,
    remat_keeps=remat_keeps,
    attention_kernel=attention_kernel,
    base_weights=base_weights,
  )


def read_prompts(
  files: Iterable[str], checkpoint_path: str, vocabulary: seqio.Vocabulary
) -> list[np.ndarray]:
  """Reads prompts, and refuses those of another model.

  Args:
    files: Each a `prompt.safetensors`, or a `.npy`, which is not checked.
    checkpoint_path: The base model in use.
    vocabulary: The vocabulary in use.

  Returns:
    [P, H] float32 each.

  Raises:
    ValueError: if a prompt was trained on another model or vocabulary.
  """
  loaded = [prompt_files.load_prompt(path) for path in files]
  headers = [metadata for _, metadata in loaded]
  check_compatible(headers, checkpoint_path, vocabulary)
  return [prompt for prompt, _ in loaded]


def prompt_for_model(
  prompt_file: str, checkpoint_path: str, vocabulary: seqio.Vocabulary
) -> np.ndarray:
  """Reads a prompt; see `read_prompts`."""
  return read_prompts([prompt_file], checkpoint_path, vocabulary)[0]


def recycled_prompt(
  prompt_file: str,
  old_checkpoint_path: str,
  checkpoint_path: str,
  vocabulary: seqio.Vocabulary,
  method: str = "v2v-lin",
  skip: int = 1000,
  tokens: int = 4000,
) -> np.ndarray:
  """Moves a prompt of another base model to this one, without training.

  Args:
    prompt_file: A `prompt.safetensors` of the other model.
    old_checkpoint_path: The other model.
    checkpoint_path: The base model in use.
    vocabulary: The vocabulary of both.
    method: As for `recycling.recycle`; so are `skip` and `tokens`.

  Returns:
    [P, H] float32.

  Raises:
    ValueError: if the prompt is not of the other model, or as `recycle` does.
  """
  prompt = prompt_for_model(prompt_file, old_checkpoint_path, vocabulary)
  old, new = map(token_embedding, (old_checkpoint_path, checkpoint_path))
  return recycling.recycle(prompt, old, new, method, skip, tokens)


def prompts_of_tasks(
  files: Mapping[str, str], checkpoint_path: str, vocabulary: seqio.Vocabulary
) -> dict[str, np.ndarray]:
  """Reads prompts, prefix -> file; see `read_prompts`."""
  found = read_prompts(files.values(), checkpoint_path, vocabulary)
  return dict(zip(files, found, strict=True))


def check_compatible(
  found: Sequence[prompt_files.PromptMetadata | None],
  checkpoint_path: str,
  vocabulary: seqio.Vocabulary,
) -> None:
  """Raises ValueError for a prompt of another model; see `prompt_files`.

  Args:
    found: The headers of prompts; None is not checked.
    checkpoint_path: The base model in use.
    vocabulary: The vocabulary in use.
  """
  if not any(found):
    return
  frozen = _fingerprint_of(checkpoint_path)
  for metadata in filter(None, found):
    prompt_files.check_compatible(
      metadata, frozen, vocabulary_lib.sha256(vocabulary)
    )


def fingerprint(train_state: Any, base_path: str | None) -> str:
  """Returns the fingerprint of a run's frozen weights; all hosts take part.

  Args:
    train_state: A `t5x.train_state.TrainState`.
    base_path: The base model that the run started from, if it is known.

  Returns:
    The fingerprint; with Google's T5X, `prompt_files.UNKNOWN`.
  """
  if google_t5x.is_installed():
    return prompt_files.UNKNOWN
  from t5x.formats import int8

  if base_path and int8.is_used(train_state.frozen):
    return _fingerprint_of(base_path)  # Rounding does not make another model.
  return checkpoints.fingerprint(train_state.frozen)


def _fingerprint_of(path: str) -> str:
  if google_t5x.is_installed():  # It has no `BaseCheckpoint`.
    return prompt_files.UNKNOWN
  from prompt_tuning.inference.base_models import base_fingerprint

  return base_fingerprint(checkpoints.open_checkpoint(path))
