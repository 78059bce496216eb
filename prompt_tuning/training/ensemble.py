"""Several prompts of one frozen model that vote (section 6 of the paper).

The prompts are read from the files of runs; `prompt_tuning.methods.voting` says
how they share a batch and how they vote.
"""

from collections.abc import Callable, Mapping, Sequence
import os
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import seqio

from prompt_tuning import prompt_files
from prompt_tuning.methods import voting
from prompt_tuning.training import base_model
from prompt_tuning.types import Array, Initializer
from t5x import models


def find(pattern: str) -> Sequence[str]:
  """Returns the prompt files that match a glob pattern, sorted.

  Args:
    pattern: Of paths on a disk or in a bucket.

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
      f"Expected two prompt files or more that match {pattern}, got "
      f"{paths or 'none'}. Train them first, in one folder each."
    )
  lengths = {path: prompt_files.prompt_file_length(path) for path in paths}
  if len(set(lengths.values())) > 1:
    raise ValueError(f"Expected prompts of one length, got {lengths}.")
  return paths


def length(pattern: str) -> int:
  """Returns P, for gin."""
  return prompt_files.prompt_file_length(find(pattern)[0])


def from_files(
  pattern: str, checkpoint_path: str, vocabulary: seqio.Vocabulary
) -> Initializer:
  """Takes trained prompts.

  Args:
    pattern: As for `find`.
    checkpoint_path: The base model in use.
    vocabulary: The vocabulary in use.

  Returns:
    An initialiser of shape [K, P, H], which raises ValueError if another one
    is asked for.

  Raises:
    ValueError: if a prompt was trained on another model or vocabulary.
  """
  found = np.stack(
    base_model.prompts_for_model(find(pattern), checkpoint_path, vocabulary)
  )

  def init(rng: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    del rng
    if found.shape != tuple(shape):
      raise ValueError(
        f"Expected prompts of shape {tuple(shape)}, got {found.shape}. Set "
        "NUM_PROMPTS to how many there are, and use them with a model of the "
        "size they were trained for."
      )
    return jnp.asarray(found, dtype)

  return init


class Ensemble:
  """A model whose prompts vote when it decodes.

  In everything else it is the model that it is given.
  """

  def __init__(self, model: models.EncoderDecoderModel, num_prompts: int):
    """Keeps its arguments.

    Args:
      model: Its module has `voting.Prompts`.
      num_prompts: K.
    """
    self._model = model
    self._num_prompts = num_prompts

  def __getattr__(self, name: str) -> Any:
    if name == "_model":  # A copy that has nothing yet.
      raise AttributeError(name)
    return getattr(self._model, name)

  def predict_batch(
    self,
    params: Any,
    batch: Mapping[str, jax.Array],
    rng: jax.Array | None = None,
  ) -> jax.Array:
    """Decodes; see `predict_batch_with_aux`."""
    return self.predict_batch_with_aux(params, batch, rng=rng)[0]

  def predict_batch_with_aux(
    self,
    params: Any,
    batch: Mapping[str, jax.Array],
    rng: jax.Array | None = None,
    **kwargs: Any,
  ) -> tuple[jax.Array, Mapping[str, jax.Array]]:
    """Decodes a batch with every prompt, and counts.

    Args:
      params: All parameters.
      batch: Features `[B, ...]`.
      rng: PRNG key for sampling.
      **kwargs: Of `EncoderDecoderModel.predict_batch_with_aux`, but for
        `return_all_decodes`: there is one answer.

    Returns:
      Tokens [B, S], and {"scores": [B]}, the share of the prompts that agree.
    """
    K = self._num_prompts
    repeated = {name: jnp.repeat(x, K, axis=0) for name, x in batch.items()}
    decode: Callable[..., Any] = self._model.predict_batch_with_aux
    tokens, _ = decode(params, repeated, rng=rng, **kwargs)
    answer, share = voting.majority(tokens.reshape(-1, K, tokens.shape[-1]))
    return answer, {"scores": share}

  def score_batch(self, params: Any, batch: Mapping[str, jax.Array]) -> Any:
    """Refuses: votes are no likelihoods."""
    raise ValueError(
      "An ensemble of prompts votes on answers and has no likelihood of its "
      "own: use MODE='predict', or score with one prompt."
    )
