"""Conversion of tokens to an answer's text, which stop sequences may end."""

import bisect
from collections.abc import Sequence
import dataclasses
import math
from typing import Any

import seqio

from prompt_tuning.inference.requests import Token

# Decoders write this for a character with missing bytes.
_INCOMPLETE = "\ufffd"


@dataclasses.dataclass
class Answer:
  """The tokens of an answer, and its text before the first stop sequence.

  Attributes:
    vocabulary: The vocabulary of the tokens.
    stops: Stop sequences.
    tokens: The tokens so far.
    was_cut: Whether a stop sequence ended the text.
  """

  vocabulary: seqio.Vocabulary
  stops: Sequence[str]
  tokens: list[Token] = dataclasses.field(default_factory=list)
  was_cut: bool = False
  _sent: int = 0

  def add(self, token: Token) -> str:
    """Adds a token; returns the text that has become final."""
    self.tokens.append(token)
    text, self.was_cut = self._whole(self.tokens)
    if not self.was_cut:
      text = text.rstrip(_INCOMPLETE)
      # The text may end with the beginning of a stop sequence.
      held = max(map(len, self.stops), default=1) - 1
      text = text[: max(self._sent, len(text) - held)]
    return self._new(text)

  def rest(self) -> str:
    """Returns the text held back so far, after the last token."""
    return self._new(self._whole(self.tokens)[0])

  def add_all(self, tokens: Sequence[Token]) -> str:
    """Adds the tokens up to the first stop sequence; returns their text."""
    if self.stops:
      length = bisect.bisect_left(
        range(len(tokens)), True, key=lambda i: self._whole(tokens[:i])[1]
      )
      tokens = tokens[:length]
    self.tokens.extend(tokens)
    text, self.was_cut = self._whole(tokens)
    return text

  def has_stop(self, ids: Sequence[int]) -> bool:
    """Returns whether the text of tokens contains a stop sequence."""
    text = self.vocabulary.decode(ids)
    return any(stop in text for stop in self.stops)

  def _whole(self, tokens: Sequence[Token]) -> tuple[str, bool]:
    """Returns the text, and whether a stop sequence cut it."""
    text = self.vocabulary.decode([token.id for token in tokens])
    ends = [at for stop in self.stops if (at := text.find(stop)) >= 0]
    return (text[: min(ends)], True) if ends else (text, False)

  def _new(self, text: str) -> str:
    new, self._sent = text[self._sent :], max(self._sent, len(text))
    return new

  def log_probs(self, top: int, first: int = 0) -> dict[str, Any]:
    """Returns log probabilities in the format of OpenAI's completions.

    Args:
      top: Number of likeliest tokens at each position.
      first: Index of the first token to include.
    """
    ids, tokens = [token.id for token in self.tokens], self.tokens[first:]
    return {
      "tokens": [self._piece(token.id) for token in tokens],
      "token_logprobs": [
        None if math.isnan(token.log_prob) else token.log_prob
        for token in tokens
      ],
      "top_logprobs": [*map(self._likeliest, tokens)] if top else None,
      "text_offset": [
        len(self.vocabulary.decode(ids[:i])) for i in range(first, len(ids))
      ],
    }

  def _likeliest(self, token: Token) -> dict[str, float]:
    """Returns the likeliest texts; equal texts count once, for the first."""
    found = {}
    for i, log_prob in token.top:
      found.setdefault(self._piece(i), log_prob)
    return found

  def _piece(self, token: int) -> str:
    """Returns the text of a single token."""
    tokenizer = getattr(self.vocabulary, "tokenizer", None)
    if tokenizer is not None and token < tokenizer.vocab_size():
      return tokenizer.id_to_piece(token).replace("\u2581", " ")
    return self.vocabulary.decode([token])
