"""The vocabulary of the model that uses a task.

Tasks are registered once, when their module is imported, and know no model:
their features have `MODEL_VOCABULARY`, which stands for the vocabulary of
whatever model uses them. Who uses a task gives it that vocabulary: our `t5x`
does in every run, `with_vocabulary` does by hand. Google's T5X cannot, and has
one model in a program; it takes what the model's gin file binds:

  VOCABULARY = @vocabulary.of_model()
  vocabulary.of_model.vocabulary = @seqio.SentencePieceVocabulary()
"""

from collections.abc import Callable, Sequence
import copy
import dataclasses
import functools
import hashlib
import os
import pathlib
from typing import Any, cast

from etils import epath
from google.protobuf import message
import seqio
import tensorflow as tf

from prompt_tuning import whole_files


class ModelVocabulary:
  """Stands for the vocabulary of the model that uses a task.

  A task that was given none takes that of the last model whose gin file was
  read, and then behaves as that one. Everything is forwarded, equality and
  `isinstance` included, so comparing a task's vocabulary with a model's
  compares the two real ones, whichever side of `==` they are on.
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
  """Reads a SentencePiece vocabulary's file, which seqio does when it is used.

  Returns:
    The vocabulary; of a file in a bucket, which seqio reads in a way of its
    own, one of a copy in the user's cache folder.

  Raises:
    ValueError: if there is no file, it cannot be read, or it is no
      SentencePiece model.
  """
  if not isinstance(vocabulary, seqio.SentencePieceVocabulary):
    return vocabulary
  path = os.fspath(vocabulary.sentencepiece_model_file)
  if "://" in path:
    vocabulary = copy.copy(vocabulary)
    vocabulary._sentencepiece_model_file = _on_disk(path)
  try:
    vocabulary.vocab_size  # noqa: B018
  except (RuntimeError, message.DecodeError, tf.errors.OpError) as error:
    if "is already defined" in str(error):
      raise ValueError(
        f"The SentencePiece model at {path} has sentinels of its own, and "
        f"{vocabulary.extra_ids} are to be added. Say that there are none to "
        "add: --extra_ids=0, or "
        "--gin.seqio.SentencePieceVocabulary.extra_ids=0 in a run."
      ) from error
    missing = isinstance(error, tf.errors.NotFoundError)
    got = "nothing" if missing else f"what is none ({error})"
    raise ValueError(
      f"Expected a SentencePiece model at {path}, got {got}. Give the one that "
      "belongs to the model; T5's: prompt-tuning import t5_small"
    ) from error
  return vocabulary


@functools.cache
def _on_disk(path: str) -> str:
  """Copies a file of a bucket; returns where it is now."""
  try:
    content = epath.Path(path).read_bytes()
  # Whatever the libraries of a bucket make of no network and no account.
  except Exception as error:
    why = " ".join(str(error).split())[:200] or type(error).__name__
    if isinstance(error, FileNotFoundError | tf.errors.NotFoundError):
      why = "there is none"
    raise ValueError(
      f"Expected a SentencePiece model at {path}, but {why}. Log in (gcloud "
      "auth application-default login), or copy the file to this machine and "
      "give its path: --gin.VOCABULARY_FILE=\"'sentencepiece.model'\""
    ) from error
  cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  name = f"{hashlib.sha256(content).hexdigest()}.model"
  copied = pathlib.Path(cache, "prompt_tuning", "vocabularies", name)
  copied.parent.mkdir(parents=True, exist_ok=True)
  whole_files.write(copied, content)
  return str(copied)


def of_model(vocabulary: seqio.Vocabulary) -> seqio.Vocabulary:
  """Returns a vocabulary, and lets tasks that are given none take it.

  Raises:
    ValueError: if it is a SentencePiece file that cannot be read.
  """
  vocabulary = checked(vocabulary)
  MODEL_VOCABULARY.in_use = vocabulary
  return vocabulary


def with_vocabulary(
  task: seqio.Task, vocabulary: seqio.Vocabulary
) -> seqio.Task:
  """Returns a copy of a task, with a vocabulary where it leaves it open."""
  features = {
    name: dataclasses.replace(feature, vocabulary=vocabulary)
    if feature.vocabulary is MODEL_VOCABULARY
    else feature
    for name, feature in task.output_features.items()
  }
  return task.replace(output_features=features)


def of_file(path: str, extra_ids: int = 100) -> seqio.Vocabulary:
  """Makes a SentencePiece model's vocabulary the one that every task uses.

  Args:
    path: The SentencePiece model.
    extra_ids: Sentinels after its pieces.

  Raises:
    ValueError: if there is no such file, or it is none.
  """
  if "://" not in path and not os.path.exists(path):
    raise ValueError(
      f"Expected a SentencePiece model at {path}, got nothing. Give "
      "--vocabulary ('ladder' for the miniatures'), or import T5's: python "
      "prompt-tuning import t5_small"
    )
  return of_model(seqio.SentencePieceVocabulary(path, extra_ids))


@dataclasses.dataclass(frozen=True)
class Hashable:
  """A vocabulary as a key of `functools.cache`: seqio's have no hash."""

  vocabulary: seqio.Vocabulary

  def __hash__(self) -> int:
    return hash(type(self.vocabulary))


def sha256(vocabulary: seqio.Vocabulary) -> str:
  """Returns a hash, in hexadecimal digits, of what each id is written as alone.

  So a piece that begins a word is not told from one that does not.
  """
  digest = hashlib.sha256()
  for token in range(vocabulary.vocab_size):
    digest.update(vocabulary.decode([token]).encode() + b"\0")
  return digest.hexdigest()


def writer(
  vocabulary: seqio.Vocabulary, labels: Sequence[str]
) -> Callable[[str], str]:
  """Returns what makes of a target what an answer that is right looks like.

  Args:
    vocabulary: The model's, which writes some texts as others: "..." for the
      one character of that.
    labels: The legal targets.

  Raises:
    ValueError: if it cannot write a label.
  """

  @functools.cache
  def written(text: str) -> str:
    return vocabulary.decode(list(vocabulary.encode(text)))

  unknown = getattr(vocabulary, "unk_id", None)
  for label in labels:
    if unknown in vocabulary.encode(label):
      raise ValueError(
        f"Expected labels that the vocabulary knows, got {label!r}, which it "
        f"writes as {written(label)!r}. For free text, give [] for the labels."
      )
  return written


def most_frequent(vocabulary: seqio.Vocabulary, at_most: int) -> int:
  """Returns how many of the first ids are its most frequent pieces.

  Args:
    vocabulary: Its ids are ordered by frequency; sentinels come last.
    at_most: The number, where there are as many pieces that are no sentinels.
  """
  size = vocabulary.vocab_size
  while vocabulary.decode([size - 1]).startswith("<extra_id_"):
    size -= 1
  return min(size, at_most)
