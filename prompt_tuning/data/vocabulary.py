"""The vocabulary of the model that uses a task.

Tasks are registered once, when their module is imported, before a model is
chosen. Their features have `MODEL_VOCABULARY`, a placeholder for the vocabulary
of the model that uses them. Our `t5x` replaces it in every run, and
`with_vocabulary` does so by hand. Google's T5X cannot replace it and has one
model per program, so there the model's gin file binds the vocabulary:

  VOCABULARY = @vocabulary.of_model()
  vocabulary.of_model.vocabulary = @seqio.SentencePieceVocabulary()
"""

import copy
import dataclasses
import functools
import hashlib
import os
import pathlib
from typing import Any, cast

from etils import epath
import seqio
import tensorflow as tf

from prompt_tuning import project_files as whole_files

_SENTINELS = 100


class ModelVocabulary:
  """A placeholder for the vocabulary of the model that uses a task.

  A task that still has the placeholder uses the vocabulary of the last model
  whose gin file was read. Everything is forwarded to that vocabulary, including
  equality and `isinstance`, so `==` between a task's and a model's vocabulary
  compares the two real ones, in either order.
  """

  # Tells `t5x` to use the task through a copy with the model's vocabulary.
  stands_for_model = True
  in_use: seqio.Vocabulary | None = None

  def _model_vocabulary(self) -> seqio.Vocabulary:
    if self.in_use is None:
      raise ValueError(
        "Expected the vocabulary of the model in use, got none: the tasks are "
        "used before a model is chosen. Pass the model's gin file (it binds "
        "VOCABULARY to @vocabulary.of_model()), or call "
        "prompt_tuning.data.vocabulary.of_model(vocabulary)."
      )
    return self.in_use

  def __getattr__(self, name: str) -> Any:
    return getattr(self._model_vocabulary(), name)

  @property
  def __class__(self) -> type:  # pyright: ignore[reportIncompatibleMethodOverride]
    return type(self) if self.in_use is None else type(self.in_use)

  def __eq__(self, other: object) -> bool:
    return self is other or self._model_vocabulary() == other

  def __repr__(self) -> str:
    return f"ModelVocabulary({self.in_use})"

  # Python answers this for every object, and SentencePieceVocabulary compares
  # by it, so `__getattr__` would not see it.
  def __getstate__(self) -> Any:
    return self._model_vocabulary().__getstate__()


MODEL_VOCABULARY = cast(seqio.Vocabulary, ModelVocabulary())


def checked(vocabulary: seqio.Vocabulary) -> seqio.Vocabulary:
  """Reads the file of a SentencePiece vocabulary, as seqio would on first use.

  Returns:
    The vocabulary. A file in a bucket is first copied to the user's cache
    folder, because seqio reads buckets in another way.

  Raises:
    ValueError: if the file is missing, unreadable, or not a SentencePiece
      model.
  """
  if not isinstance(vocabulary, seqio.SentencePieceVocabulary):
    return vocabulary
  path = os.fspath(vocabulary.sentencepiece_model_file)
  if "://" in path:
    vocabulary = copy.copy(vocabulary)
    vocabulary._sentencepiece_model_file = _on_disk(path)
  try:
    vocabulary.vocab_size  # noqa: B018
  except Exception as error:  # Those of three libraries.
    if "is already defined" in str(error):
      raise ValueError(
        f"The SentencePiece model at {path} already has sentinels, and "
        f"{vocabulary.extra_ids} would be added. Add none: --extra_ids=0, or "
        "--gin.seqio.SentencePieceVocabulary.extra_ids=0 in a run."
      ) from error
    missing = isinstance(error, tf.errors.NotFoundError)
    got = "nothing" if missing else f"another file ({error})"
    raise ValueError(
      f"Expected a SentencePiece model at {path}, got {got}. Give the model's "
      "own; for T5's, run prompt-tuning import t5_small"
    ) from error
  return vocabulary


@functools.cache
def _on_disk(path: str) -> str:
  """Copies a file of a bucket, and returns the path of the copy."""
  try:
    content = epath.Path(path).read_bytes()
  # Libraries of buckets raise many classes without a network or an account.
  except Exception as error:
    told = getattr(error, "strerror", None) or str(error)
    why = " ".join(told.split())[:200] or type(error).__name__
    if isinstance(error, FileNotFoundError | tf.errors.NotFoundError):
      why = "it does not exist"
    raise ValueError(
      f"Expected a SentencePiece model at {path}, but {why}. Log in (gcloud "
      "auth application-default login), or copy the file to this machine and "
      "give its path: --gin.VOCABULARY_FILE=\"'sentencepiece.model'\""
    ) from error
  return cached_file(content)


def cached_file(content: bytes) -> str:
  """Writes a SentencePiece model to the user's cache, and returns its path."""
  cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  name = f"{hashlib.sha256(content).hexdigest()}.model"
  copied = pathlib.Path(cache, "prompt_tuning", "vocabularies", name)
  copied.parent.mkdir(parents=True, exist_ok=True)
  whole_files.write(copied, content)
  return str(copied)


def of_file(path: str, extra_ids: int | None = None) -> seqio.Vocabulary:
  """Returns the vocabulary of a SentencePiece file.

  Args:
    path: The file.
    extra_ids: Number of sentinels to add after its pieces. By default T5's 100,
      or none if the file has its own, as mT5's does.

  Raises:
    ValueError: as for `checked`.
  """
  if extra_ids is None:
    plain = checked(seqio.SentencePieceVocabulary(path, 0))
    last = plain.tokenizer.id_to_piece(plain.vocab_size - 1)
    extra_ids = 0 if "<extra_id_" in last else _SENTINELS
  return checked(seqio.SentencePieceVocabulary(path, extra_ids))


def of_model(vocabulary: seqio.Vocabulary) -> seqio.Vocabulary:
  """Makes `MODEL_VOCABULARY` forward to a vocabulary.

  Raises:
    ValueError: if it is a SentencePiece file that cannot be read.
  """
  vocabulary = checked(vocabulary)
  MODEL_VOCABULARY.in_use = vocabulary
  return vocabulary


def of_inputs(vocabulary: seqio.Vocabulary) -> seqio.Vocabulary:
  """Returns the vocabulary for inputs; a decoder's may wrap them."""
  return getattr(vocabulary, "of_inputs", vocabulary)


def with_vocabulary(
  task: seqio.Task, vocabulary: seqio.Vocabulary
) -> seqio.Task:
  """Returns a copy of a task with a vocabulary in place of the placeholder."""
  features = dict(task.output_features)
  for name, feature in features.items():
    if feature.vocabulary is MODEL_VOCABULARY:
      own = of_inputs(vocabulary) if name == "inputs" else vocabulary
      features[name] = dataclasses.replace(feature, vocabulary=own)
  return task.replace(output_features=features)


@dataclasses.dataclass(frozen=True)
class Hashable:
  """A vocabulary as a key for `functools.cache`; seqio's own have no hash."""

  vocabulary: seqio.Vocabulary

  def __hash__(self) -> int:
    return hash(type(self.vocabulary))


def sha256(vocabulary: seqio.Vocabulary) -> str:
  """Returns a hash, in hexadecimal digits, of the text of each single id.

  The hash does not distinguish a piece that starts a word from one that does
  not. It includes the chat template that wraps inputs, if there is one.
  """
  template = getattr(vocabulary, "chat_template", None)
  digest = hashlib.sha256(template.text.encode() if template else b"")
  for token in range(vocabulary.vocab_size):
    digest.update(vocabulary.decode([token]).encode() + b"\0")
  return digest.hexdigest()


def most_frequent(vocabulary: seqio.Vocabulary, at_most: int) -> int:
  """Returns the number of ids, from 0 on, to take as the most frequent pieces.

  Args:
    vocabulary: A vocabulary ordered by frequency, with sentinels last.
    at_most: The largest number to return. Fewer pieces may precede sentinels.
  """
  size = vocabulary.vocab_size
  while vocabulary.decode([size - 1]).startswith("<extra_id_"):
    size -= 1
  return min(size, at_most)
