"""Vocabularies of Hugging Face's `tokenizers`, for decoders."""

from collections.abc import Iterable, Sequence
import copy
import functools
import hashlib
import os
import pathlib

import numpy as np
import seqio
import tensorflow as tf


class TokenizersVocabulary(seqio.Vocabulary):
  """The pieces of a `tokenizer.json`.

  Id 0 is padding everywhere else. Where it is an ordinary piece, as in Llama 3
  and Qwen, it changes places with `exchanged`.

  Attributes:
    exchanged: The special token whose id 0 has instead; 0 if id 0 is special.
    of_inputs: The same vocabulary for inputs, in front of which the tokenizer
      puts a start token, if it does.
  """

  def __init__(self, path: str | os.PathLike[str], eos_id: int):
    """Reads the file.

    Args:
      path: A `tokenizer.json`.
      eos_id: The tokenizer's id of the end token.

    Raises:
      ValueError: if it is no tokenizer.
    """
    super().__init__()
    self._tokenizer = _read(path)
    self.exchanged = exchanged_id(path)
    self._eos_id = self._swapped([eos_id])[0]
    self._start: Sequence[int] = ()
    self._digest = hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
    self.of_inputs = copy.copy(self)
    start = self._swapped(self._tokenizer.encode("").ids)
    self.of_inputs._start = [x for x in start if x != self._eos_id]

  def _swapped(self, ids: Iterable[int]) -> list[int]:
    swap = {0: self.exchanged, self.exchanged: 0}
    return [swap.get(x, x) for x in ids]

  @property
  def eos_id(self) -> int:
    return self._eos_id

  @property
  def unk_id(self) -> int | None:
    piece = getattr(self._tokenizer.model, "unk_token", None)
    found = None if piece is None else self._tokenizer.token_to_id(piece)
    return None if found is None else self._swapped([found])[0]

  @property
  def _base_vocab_size(self) -> int:
    return self._tokenizer.get_vocab_size()

  def _encode(self, s: str) -> Sequence[int]:
    ids = self._tokenizer.encode(s, add_special_tokens=False).ids
    return [*self._start, *self._swapped(ids)]

  def _decode(self, ids: Iterable[int]) -> str:
    return self._tokenizer.decode(self._swapped(map(int, ids)))

  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
    def encode(text: bytes | np.ndarray) -> np.ndarray:
      decoded = np.asarray(text).item().decode()
      return np.array(self._encode(decoded), np.int32)

    ids = tf.numpy_function(encode, [s], tf.int32)
    ids.set_shape([None])
    return ids

  def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    return tf.numpy_function(self.decode, [ids], tf.string)

  def __eq__(self, other: object) -> bool:
    own = (self._digest, self._eos_id, self._start)
    return isinstance(other, TokenizersVocabulary) and own == (
      other._digest,
      other._eos_id,
      other._start,
    )

  def __repr__(self) -> str:
    return f"TokenizersVocabulary({self.vocab_size} pieces)"


@functools.lru_cache(maxsize=4)
def _read(path: str | os.PathLike[str]):
  try:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(os.fspath(path))
  except Exception as error:  # The library raises no other class.
    raise ValueError(
      f"Expected a tokenizer of Hugging Face's at {os.fspath(path)}, and the "
      f"package tokenizers, but: {error}."
    ) from error


def exchanged_id(path: str | os.PathLike[str]) -> int:
  """Returns the id that changes places with 0.

  Args:
    path: A `tokenizer.json`.

  Returns:
    The last special token, which is rarely used; 0 if id 0 is special itself.

  Raises:
    ValueError: if there is no special token.
  """
  added = _read(path).get_added_tokens_decoder()
  special = sorted(i for i, token in added.items() if token.special)
  if not special:
    raise ValueError(
      f"Expected special tokens in {os.fspath(path)}, of which one becomes "
      "padding, got none."
    )
  return 0 if special[0] == 0 else special[-1]
