"""What a checkpoint's arrays say of the model that they belong to."""

from collections.abc import Mapping
import os
from typing import Any

from etils import epath
import seqio

from prompt_tuning.data import vocabulary as vocabulary_lib
from prompt_tuning.mini.ladder import vocabulary as ladder_vocabulary
from prompt_tuning.models.t5 import network, parameter_shapes
from prompt_tuning.models.t5.config import TOKEN_EMBEDDING, T5Config
from t5x import checkpoints

LADDER = "ladder_"
# Sentinels of T5's vocabularies, behind the pieces of their file.
_EXTRA_IDS = 100


def is_of_ladder(base: "checkpoints.BaseCheckpoint") -> bool:
  """Whether a checkpoint is one of the miniatures."""
  return str(base.metadata.get("name") or "").startswith(LADDER)


def added_to(shapes: Mapping[str, Any], config: T5Config) -> list[str]:
  """Returns the parameters that are not the T5's own: those of methods."""
  own = parameter_shapes.parameter_shapes(network.Transformer(config))
  return sorted(set(shapes) - set(own))


def vocabulary_of(
  base: "checkpoints.BaseCheckpoint",
  given: str | os.PathLike[str] | seqio.Vocabulary | None,
) -> seqio.Vocabulary:
  """Finds a model's vocabulary.

  Args:
    base: The model.
    given: Its vocabulary, or the SentencePiece file of it. None: the file
      `*.model` beside the checkpoint; for the ladder's models, their words.

  Raises:
    ValueError: if there is none, or it has more pieces than the model has
      embeddings.
  """
  if given is None and is_of_ladder(base):
    vocabulary = ladder_vocabulary.ladder()
  elif isinstance(given, seqio.Vocabulary):
    vocabulary = given
  else:
    path = str(given) if given is not None else beside(base.path)
    vocabulary = vocabulary_lib.checked(
      seqio.SentencePieceVocabulary(path, _EXTRA_IDS)
    )
  rows = base.shapes[TOKEN_EMBEDDING].shape[0]
  if vocabulary.vocab_size > rows:
    raise ValueError(
      f"Expected a vocabulary of at most {rows} pieces, as {base.path} has "
      f"embeddings, got {vocabulary.vocab_size}: it is that of another model."
    )
  return vocabulary


def beside(path: str) -> str:
  """Finds the SentencePiece file `*.model` beside a checkpoint.

  Args:
    path: As for `t5x.checkpoints.find_checkpoint`.

  Raises:
    ValueError: if there is none, or are several.
  """
  folder = epath.Path(checkpoints.find_checkpoint(path))
  found = sorted(folder.glob("*.model")) or sorted(
    folder.parent.glob("*.model")
  )
  if len(found) != 1:
    names = ", ".join(file.name for file in found) or "none"
    raise ValueError(
      f"Expected the model's SentencePiece file, such as spiece.model, in "
      f"{folder} or {folder.parent}, got {names}. Leave one there, or give it: "
      "load(..., vocabulary='spiece.model')."
    )
  return str(found[0])
