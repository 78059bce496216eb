"""A vocabulary of whole words for the ladder, with T5's sentinels."""

from collections.abc import Iterable, Sequence
import pathlib
import re
from typing import cast

import seqio
import tensorflow as tf

_SPECIAL = ("<pad>", "</s>", "<unk>")
_EOS, _UNK = 1, 2
_EXTRA_IDS = 100
# A sentinel, a word, or a punctuation mark, in the syntax of both Python's and
# TensorFlow's regular expressions.
_TOKEN = r"<extra_id_[0-9]+>|[A-Za-z0-9_]+|[^A-Za-z0-9_\s]"
# The words of the prose, the most frequent first; a test counts them.
_WORDS = pathlib.Path(__file__).with_name("words.txt")


class WordVocabulary(seqio.Vocabulary):
  """A token for each word and each punctuation mark, even without spaces.

  Ids: padding, end of sequence, unknown, the words, and, as in T5, sentinels
  from the end: `<extra_id_0>` is the last id. Each word must be one token.
  """

  def __init__(self, words: Sequence[str]):
    super().__init__()
    self._num_words = len(words)
    sentinels = (f"<extra_id_{i}>" for i in reversed(range(_EXTRA_IDS)))
    self._tokens = (*_SPECIAL, *words, *sentinels)
    self._ids = {token: i for i, token in enumerate(self._tokens)}
    # TensorFlow tables belong to the graph that they are made in.
    with tf.init_scope():
      ids = tf.range(len(self._tokens), dtype=tf.int32)
      pairs = tf.lookup.KeyValueTensorInitializer(
        tf.constant(self._tokens), ids
      )
      self._table = tf.lookup.StaticHashTable(pairs, _UNK)

  @property
  def eos_id(self) -> int:
    return _EOS

  @property
  def unk_id(self) -> int:
    return _UNK

  @property
  def bos_id(self) -> None:
    return None

  @property
  def _base_vocab_size(self) -> int:
    # With sentinels, because seqio decodes larger ids as unknown.
    return len(self._tokens)

  def _encode(self, s: str) -> Sequence[int]:
    return [self._ids.get(token, _UNK) for token in re.findall(_TOKEN, s)]

  def _decode(self, ids: Iterable[int]) -> str:
    return " ".join(self._tokens[i] for i in ids if i > _EOS)

  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
    spaced = tf.strings.regex_replace(s, f"({_TOKEN})", r" \1 ")
    return self._table.lookup(tf.strings.split(spaced))

  def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    tokens = tf.ragged.boolean_mask(
      tf.gather(tf.constant(self._tokens), ids), ids > _EOS
    )
    return tf.strings.reduce_join(tokens, separator=" ", axis=-1)

  def __eq__(self, other: object) -> bool:
    return (
      isinstance(other, WordVocabulary)
      and self._tokens == cast(WordVocabulary, other)._tokens
    )

  def __repr__(self) -> str:
    return f"WordVocabulary({self._num_words} words)"


def ladder() -> WordVocabulary:
  """Makes the vocabulary of the ladder's models."""
  return WordVocabulary(_WORDS.read_text().split())
