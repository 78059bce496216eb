"""Generated tokens as text: whole, in pieces, and up to a word to stop at."""

import bisect
from collections.abc import Sequence
import math
from typing import Any

import seqio

from prompt_tuning.inference.requests import Token

# What a decoder writes for a character of which bytes are missing.
_INCOMPLETE = "\ufffd"


class Texts:
  """Makes text of tokens."""

  def __init__(self, vocabulary: seqio.Vocabulary, stops: Sequence[str]):
    """Keeps its arguments.

    Args:
      vocabulary: Of the tokens.
      stops: Texts before which an answer ends.
    """
    self._vocabulary = vocabulary
    self._stops = stops
    self.held = max(map(len, stops), default=1) - 1

  def whole(self, tokens: Sequence[Token]) -> tuple[str, bool]:
    """Returns the text, and whether it was cut before a stop."""
    text = self._vocabulary.decode([token.id for token in tokens])
    ends = [at for stop in self._stops if (at := text.find(stop)) >= 0]
    return (text[: min(ends)], True) if ends else (text, False)

  def up_to_stop(self, tokens: Sequence[Token]) -> Sequence[Token]:
    """Returns the tokens up to the end of the first stop: those of a stream."""
    if not self._stops:
      return tokens
    length = bisect.bisect_left(
      range(len(tokens)), True, key=lambda i: self.whole(tokens[:i])[1]
    )
    return tokens[:length]

  def stream(self) -> "TextStream":
    """Returns what makes the text in pieces."""
    return TextStream(self)

  def log_probs(
    self, tokens: Sequence[Token], top: int, first: int = 0
  ) -> dict[str, Any]:
    """Returns log probabilities in the form of OpenAI's completions.

    Args:
      tokens: Of an answer.
      top: How many of the likeliest there are.
      first: The first token to tell of.
    """
    offsets = [
      len(self._vocabulary.decode([token.id for token in tokens[:i]]))
      for i in range(first, len(tokens))
    ]
    tokens = tokens[first:]
    pieces = [self._piece(token.id) for token in tokens]
    return {
      "tokens": pieces,
      "token_logprobs": [
        None if math.isnan(token.log_prob) else token.log_prob
        for token in tokens
      ],
      "top_logprobs": [
        {self._piece(i): value for i, value in token.top} for token in tokens
      ]
      if top
      else None,
      "text_offset": offsets,
    }

  def _piece(self, token: int) -> str:
    """Returns a token as a text of its own."""
    tokenizer = getattr(self._vocabulary, "tokenizer", None)
    if tokenizer is not None and token < tokenizer.vocab_size():
      return tokenizer.id_to_piece(token).replace("\u2581", " ")
    return self._vocabulary.decode([token])


class TextStream:
  """The text of tokens that come one by one.

  Attributes:
    tokens: Those that came.
    was_cut: Whether a stop came: there is no more text.
  """

  def __init__(self, texts: Texts):
    """Begins with no token."""
    self.tokens: list[Token] = []
    self.was_cut = False
    self._texts = texts
    self._sent = 0

  def add(self, token: Token) -> str:
    """Adds a token; returns the text that is certain now, and was not."""
    self.tokens.append(token)
    text, self.was_cut = self._texts.whole(self.tokens)
    if not self.was_cut:
      text = text.rstrip(_INCOMPLETE)
      # It may be the beginning of a stop.
      text = text[: max(self._sent, len(text) - self._texts.held)]
    return self._new(text)

  def rest(self) -> str:
    """Returns what was held back, once there is no more token."""
    return self._new(self._texts.whole(self.tokens)[0])

  def _new(self, text: str) -> str:
    new, self._sent = text[self._sent :], max(self._sent, len(text))
    return new
