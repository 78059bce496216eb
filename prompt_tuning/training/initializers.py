"""Initial prompts by name, for tuning from Python without gin."""

from collections.abc import Sequence

import numpy as np
import seqio

from prompt_tuning import prompts
from prompt_tuning.data import vocabulary as vocabulary_lib
from prompt_tuning.models.t5.config import TOKEN_EMBEDDING
from prompt_tuning.training import base_model
from prompt_tuning.types import Initializer
from t5x import checkpoints

NAMES = ("class_labels", "sampled_vocab", "random_uniform")
# Most tokens that a prompt is sampled from, the frequent ones (section 3.2).
_POPULATION = 5000


def initializer(
  init: str | np.ndarray | None,
  length: int,
  labels: Sequence[str],
  checkpoint: checkpoints.BaseCheckpoint,
  vocabulary: seqio.Vocabulary,
) -> Initializer:
  """Returns the initialiser of a prompt.

  Args:
    init: One of `NAMES`, or a prompt [P, H]. None: the labels if there are any,
      otherwise frequent tokens.
    length: Positions of the prompt, P.
    labels: The answers that the model should give.
    checkpoint: The base model.
    vocabulary: The model's vocabulary.

  Raises:
    ValueError: if the name is unknown, labels are missing, or there are more
      labels than positions or fewer frequent tokens than positions.
  """
  if isinstance(init, np.ndarray):
    return prompts.from_array(init)
  if init is None:
    init = "class_labels" if labels else "sampled_vocab"
  if init not in NAMES:
    raise ValueError(
      f"Expected init to be one of {', '.join(NAMES)}, or a prompt, got "
      f"{init!r}."
    )
  if init == "random_uniform":
    return prompts.random_uniform()
  size = vocabulary_lib.most_frequent(vocabulary, _POPULATION)
  if length > size:
    raise ValueError(
      f"Expected at most length={size}, a frequent token for each position, "
      f"got {length=}. Shorten it, or pass init='random_uniform'."
    )
  table = base_model.read_parameter(checkpoint, TOKEN_EMBEDDING)
  sampled = prompts.sampled_vocab(table, size)
  if init == "sampled_vocab":
    return sampled
  if not labels:
    raise ValueError(
      "A prompt that starts from class labels needs labels, and the targets "
      "are free text: pass labels, or init='sampled_vocab'."
    )
  if len(labels) > length:
    raise ValueError(
      f"Expected at least length={len(labels)}, a position for each label, "
      f"got {length=}. Lengthen it, or pass init='sampled_vocab'."
    )
  return prompts.class_labels(table, vocabulary, labels, sampled)
