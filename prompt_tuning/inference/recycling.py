"""Prompt recycling between two loaded models; see `methods.recycling`."""

import os

from prompt_tuning import prompt_files
from prompt_tuning.inference.frozen_model import FrozenModel
from prompt_tuning.inference.requests import TunedPrompt
from prompt_tuning.methods import recycling


def move(
  prompt: TunedPrompt,
  old: FrozenModel,
  new: FrozenModel,
  method: str = "v2v-lin",
  skip: int = 1000,
  tokens: int = 4000,
) -> TunedPrompt:
  """Moves a prompt to another model; see `recycling.recycle`.

  Returns:
    The prompt for `new`. It has no score, because it was not evaluated there.

  Raises:
    ValueError: as for `recycle`, if the prompt does not belong to the model
      `old`, or the models' vocabularies differ.
  """
  array = old.prompt_array(prompt)
  assert array is not None
  if old.vocabulary_sha256 != new.vocabulary_sha256:
    raise ValueError(
      f"Expected two models of one vocabulary, but that of {new.checkpoint} is "
      f"not that of {old.checkpoint}. Prompts move between sizes and versions "
      "of a model."
    )
  moved = recycling.recycle(
    array, old.embedding, new.embedding, method, skip, tokens
  )
  base = new.checkpoint  # A path, or a name on the hub.
  metadata = prompt_files.PromptMetadata(
    new.fingerprint,
    new.vocabulary_sha256,
    parameter_path=prompt_files.PARAMETER_PATHS[len(new.config.stacks) == 1],
    task=prompt.metadata and prompt.metadata.task,
    base_model=os.path.abspath(base) if os.path.exists(base) else base,
  )
  return TunedPrompt(moved, metadata)
