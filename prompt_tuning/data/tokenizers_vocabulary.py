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

from prompt_tuning.data import chat_templates
from prompt_tuning.data.chat_templates import ChatTemplate, Message


class TokenizersVocabulary(seqio.Vocabulary):
  """The pieces of a `tokenizer.json`.

  The rest of this package takes id 0 for padding. If 0 is an ordinary piece, as
  in Llama 3 and Qwen, or the end token, as in SmolLM's base models, it changes
  places with the id `exchanged`.

  Attributes:
    exchanged: The id of a token that does not occur in texts; 0 if no ids are
      exchanged.
    of_inputs: The same vocabulary for inputs. A chat template wraps them as a
      user's message; without one, the tokenizer may put a start token in front.
    chat_template: The template; None if inputs are not wrapped.
  """

  def __init__(
    self,
    path: str | os.PathLike[str],
    eos_id: int,
    chat_template: ChatTemplate | None = None,
    rows: int | None = None,
  ):
    """Reads the file.

    Args:
      path: A `tokenizer.json`.
      eos_id: The tokenizer's id of the end token. With a template, its own
        "eos_token" ends an answer instead.
      chat_template: Wraps inputs.
      rows: Number of the model's embeddings. Pieces without one, such as Gemma
        3's for images, are left out of texts. None: every piece has one.

    Raises:
      ValueError: if the file is not a tokenizer.
    """
    super().__init__()
    self._tokenizer = _read(path)
    self._rows = rows or self._tokenizer.get_vocab_size()
    self.exchanged = exchanged_id(path, eos_id, self._rows)
    self.chat_template = chat_template
    self._digest = hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
    if chat_template is not None:
      self._digest += chat_template.text
      end = chat_template.tokens.get("eos_token", "")
      found = self._tokenizer.token_to_id(end)
      eos_id = eos_id if found is None else found
    self._eos_id = self._swapped([eos_id])[0]
    self._start: Sequence[int] = ()
    self._is_of_inputs = False
    self.of_inputs = copy.copy(self)
    self.of_inputs._is_of_inputs = True
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
    size = min(self._tokenizer.get_vocab_size(), self._rows)
    return max(size, self.exchanged + 1)

  def encode_chat(self, messages: Sequence[Message]) -> list[int]:
    """Returns the tokens of a conversation, up to the start of the answer.

    Raises:
      ValueError: if the template refuses the messages.
    """
    assert self.chat_template is not None
    return self._ids(self.chat_template(messages))

  def _ids(self, text: str) -> list[int]:
    ids = self._tokenizer.encode(text, add_special_tokens=False).ids
    return self._swapped(x for x in ids if x < self._rows)

  def _encode(self, s: str) -> Sequence[int]:
    if self._is_of_inputs and self.chat_template is not None:
      return self.encode_chat([{"role": "user", "content": s}])
    return [*self._start, *self._ids(s)]

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
    names = ("_digest", "_eos_id", "_start", "_is_of_inputs")
    return isinstance(other, TokenizersVocabulary) and all(
      getattr(self, name) == getattr(other, name) for name in names
    )

  def __repr__(self) -> str:
    return f"TokenizersVocabulary({self.vocab_size} pieces)"


@functools.lru_cache(maxsize=4)
def _read(path: str | os.PathLike[str]):
  try:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(os.fspath(path))
    # A folder that was saved after training may have that training's lengths.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
  except Exception as error:  # The library raises no other class.
    raise ValueError(
      f"Expected a Hugging Face tokenizer at {os.fspath(path)}, and the "
      f"package tokenizers, but: {error}."
    ) from error


def exchanged_id(path: str | os.PathLike[str], eos_id: int, rows: int) -> int:
  """Returns the id that changes places with 0, to make 0 padding.

  Args:
    path: A `tokenizer.json`.
    eos_id: The id of the end token.
    rows: Number of the model's embeddings.

  Returns:
    The last special token that neither starts nor ends a text and is not in the
    folder's chat template; without one, the last embedding, if it has no piece.
    0 if id 0 is itself a special token other than the end token.

  Raises:
    ValueError: if no id can change places with 0.
  """
  tokenizer = _read(path)
  added = tokenizer.get_added_tokens_decoder()
  special = sorted(i for i, x in added.items() if x.special and i < rows)
  if special[:1] == [0] and eos_id != 0:
    return 0
  used, said = {eos_id, *tokenizer.encode("").ids}, ""
  if template := chat_templates.read(pathlib.Path(path).parent):
    ends = (template.tokens.get(f"{x}_token", "") for x in ("bos", "eos"))
    said = "".join((template.text, *ends))
  free = [i for i in special if i not in used and added[i].content not in said]
  if not free and tokenizer.id_to_token(rows - 1) is None:
    free = [rows - 1]
  if not free:
    raise ValueError(
      f"Expected a special token in {os.fspath(path)} that can become padding, "
      "got only ones that start or end texts or are in the chat template."
    )
  return free[-1]
