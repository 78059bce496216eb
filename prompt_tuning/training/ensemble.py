"""Several prompts of one frozen model that vote (section 6 of the paper).

The prompts are read from the files of runs; `prompt_tuning.methods.voting`
defines how they share a batch and how they vote.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import os
from typing import Any, ClassVar

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import seqio

from prompt_tuning import prompt_files, prompts
from prompt_tuning.methods import voting
from prompt_tuning.training import base_model
from prompt_tuning.types import Initializer
from t5x import models


def find(pattern: str) -> Sequence[str]:
  """Returns the prompt files that match a glob pattern, sorted.

  Args:
    pattern: Pattern of paths on a disk or in a bucket.

  Raises:
    ValueError: if there are fewer than two, or their lengths differ.
  """
  folder, _, last = pattern.rpartition("/")
  while set(folder) & set("*?["):
    folder, _, name = folder.rpartition("/")
    last = f"{name}/{last}"
  root = epath.Path(folder or ("/" if pattern.startswith("/") else "."))
  paths = sorted(map(os.fspath, root.glob(last)))
  if len(paths) < 2:
    raise ValueError(
      f"Expected at least two prompt files that match {pattern}, got "
      f"{paths or 'none'}. Train them first, each in its own folder."
    )
  lengths = {path: prompt_files.prompt_file_length(path) for path in paths}
  if len(set(lengths.values())) > 1:
    raise ValueError(f"Expected prompts of one length, got {lengths}.")
  return paths


def length(pattern: str) -> int:
  """Returns the length of the prompts, P."""
  return prompt_files.prompt_file_length(find(pattern)[0])


def from_files(
  pattern: str, checkpoint_path: str, vocabulary: seqio.Vocabulary
) -> Initializer:
  """Reads trained prompts.

  Args:
    pattern: As for `find`.
    checkpoint_path: The base model in use.
    vocabulary: The vocabulary in use.

  Returns:
    An initialiser of shape [K, P, H]; see `prompts.from_array`.

  Raises:
    ValueError: if a prompt was trained on another model or vocabulary.
  """
  found = base_model.read_prompts(find(pattern), checkpoint_path, vocabulary)
  return prompts.from_array(np.stack(found))


@dataclasses.dataclass(eq=False)
class Ensemble:
  """A model whose prompts vote when it decodes.

  In all other respects it is the given model.

  Attributes:
    model: A model with `voting.Prompts`.
    num_prompts: K.
  """

  model: models.EncoderDecoderModel
  num_prompts: int

  # It returns the tokens of `predict_batch_with_aux`.
  predict_batch: ClassVar[Any] = models.EncoderDecoderModel.predict_batch

  def __getattr__(self, name: str) -> Any:
    if name == "model":  # During a copy, before attributes are set.
      raise AttributeError(name)
    return getattr(self.model, name)

  def predict_batch_with_aux(
    self,
    params: Any,
    batch: Mapping[str, jax.Array],
    rng: jax.Array | None = None,
    **kwargs: Any,
  ) -> tuple[jax.Array, Mapping[str, jax.Array]]:
    """Decodes a batch with every prompt, and counts the votes.

    Args:
      params: All parameters.
      batch: Features `[B, ...]`.
      rng: PRNG key for sampling.
      **kwargs: Arguments of `EncoderDecoderModel.predict_batch_with_aux`,
        except `return_all_decodes`: there is only one answer.

    Returns:
      Tokens [B, S], and {"scores": [B]}, the share of prompts that agree.
    """
    K = self.num_prompts
    repeated = {name: jnp.repeat(x, K, axis=0) for name, x in batch.items()}
    decode: Callable[..., Any] = self.model.predict_batch_with_aux
    tokens, _ = decode(params, repeated, rng=rng, **kwargs)
    answer, share = voting.majority(tokens.reshape(-1, K, tokens.shape[-1]))
    return answer, {"scores": share}

  def score_batch(self, params: Any, batch: Mapping[str, jax.Array]) -> Any:
    """Raises ValueError: votes are not likelihoods."""
    raise ValueError(
      "An ensemble of prompts votes on answers and has no likelihood: use "
      "MODE='predict', or score with one prompt."
    )
