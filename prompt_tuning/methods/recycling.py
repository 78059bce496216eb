"""Prompts moved to another frozen model, without training on the task.

Prompt recycling (Lester et al., 2022) learns from the two embedding tables how
words of one model map to those of another, and applies that to a prompt. The
models share their vocabulary. The paper learns from 4,000 pieces, after the
first 1,000.
"""

from collections.abc import Callable
from typing import Any
import warnings

import numpy as np

# The paper's, of `v2v-nn`.
_HIDDEN_WIDTHS, _RATE, _BATCH, _EPOCHS = 4, 3e-4, 50, 25


def _network(
  prompt: np.ndarray, old: np.ndarray, new: np.ndarray
) -> np.ndarray:
  """Applies an MLP that maps old embeddings to new ones."""
  from sklearn import exceptions, neural_network  # As in `data.metrics`.

  batch: Any = min(_BATCH, len(old))
  mlp = neural_network.MLPRegressor(
    hidden_layer_sizes=(_HIDDEN_WIDTHS * old.shape[1],),
    alpha=0.0,
    batch_size=batch,
    learning_rate_init=_RATE,
    max_iter=_EPOCHS,
    random_state=0,
  )
  with warnings.catch_warnings():  # It stops after its epochs.
    warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
    mlp.fit(old, new)
  return np.asarray(mlp.predict(prompt))


METHODS: dict[str, Callable[..., np.ndarray]] = {
  # The linear map from old embeddings to new ones.
  "v2v-lin": lambda prompt, old, new: prompt @ np.linalg.lstsq(old, new)[0],
  # The prompt is a combination of old embeddings: the same one of new ones.
  "lin-comb": lambda prompt, old, new: (
    np.linalg.lstsq(old.T, prompt.T)[0].T @ new
  ),
  "v2v-nn": _network,
}


def recycle(
  prompt: np.ndarray,
  old: np.ndarray,
  new: np.ndarray,
  method: str = "v2v-lin",
  skip: int = 1000,
  tokens: int = 4000,
) -> np.ndarray:
  """Maps a prompt from one table of embeddings to another.

  Args:
    prompt: [P, H] The prompt.
    old: [V, H] The embeddings of the prompt's model.
    new: [V, G] The embeddings of the other model, for the same pieces.
    method: A name in `METHODS`.
    skip: Number of pieces to leave out at the start of the vocabulary.
    tokens: Number of pieces after those, to learn from.

  Returns:
    [P, G] float32.

  Raises:
    ValueError: if the method is unknown, or there are fewer pieces.
  """
  if method not in METHODS:
    raise ValueError(
      f"Expected a method of {', '.join(METHODS)}, got {method!r}."
    )
  rows = min(len(old), len(new))
  if not 0 <= skip < skip + tokens <= rows:
    raise ValueError(
      f"Expected at least {skip + tokens} embeddings, to skip {skip} and learn "
      f"from {tokens}, got {rows}. Choose fewer: --skip=0 --tokens={rows}."
    )
  chosen = slice(skip, skip + tokens)
  tables = (np.asarray(x[chosen], np.float64) for x in (old, new))
  moved = METHODS[method](np.asarray(prompt, np.float64), *tables)
  return moved.astype(np.float32)
