"""`/v1/completions` and `/v1/rank`: answers, in OpenAI's form."""

import asyncio
import bisect
from collections.abc import AsyncIterator, Sequence
import dataclasses
import functools
import json
import math
import secrets
import time
from typing import Any

import fastapi
import numpy as np
import seqio

from prompt_tuning.inference import ranking
from prompt_tuning.inference.requests import (
  Generated,
  Generation,
  Ranking,
  Token,
)
from prompt_tuning.serving import errors
from prompt_tuning.serving.schemas import Completion, Input, Rank
from prompt_tuning.serving.service import EventStream, Service

# OpenAI's default for `max_tokens`.
_MAX_TOKENS = 16
# Decoders write it for a character with missing bytes.
_INCOMPLETE = "\ufffd"


@dataclasses.dataclass(frozen=True)
class Detokenizer:
  """A decoder of answers, which end before the first stop sequence.

  Attributes:
    vocabulary: The vocabulary of the tokens.
    stops: Stop sequences.
  """

  vocabulary: seqio.Vocabulary
  stops: Sequence[str]

  def whole(self, tokens: Sequence[Token]) -> tuple[str, bool]:
    """Returns the text, and whether a stop sequence cut it."""
    text = self.vocabulary.decode([token.id for token in tokens])
    ends = [at for stop in self.stops if (at := text.find(stop)) >= 0]
    return (text[: min(ends)], True) if ends else (text, False)

  def up_to_stop(self, tokens: Sequence[Token]) -> Sequence[Token]:
    """Returns the tokens up to the first stop, as a stream does."""
    if not self.stops:
      return tokens
    length = bisect.bisect_left(
      range(len(tokens)), True, key=lambda i: self.whole(tokens[:i])[1]
    )
    return tokens[:length]

  def log_probs(
    self, tokens: Sequence[Token], top: int, first: int = 0
  ) -> dict[str, Any]:
    """Returns log probabilities in the format of OpenAI's completions.

    Args:
      tokens: The tokens of an answer.
      top: Number of likeliest tokens at each place.
      first: Index of the first token to include.
    """
    offsets = [
      len(self.vocabulary.decode([token.id for token in tokens[:i]]))
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
    """Returns the text of a single token."""
    tokenizer = getattr(self.vocabulary, "tokenizer", None)
    if tokenizer is not None and token < tokenizer.vocab_size():
      return tokenizer.id_to_piece(token).replace("\u2581", " ")
    return self.vocabulary.decode([token])


@dataclasses.dataclass
class TextStream:
  """The text of tokens that arrive one by one.

  Attributes:
    texts: The decoder of its tokens.
    tokens: The tokens so far.
    was_cut: Whether a stop sequence ended the text.
  """

  texts: Detokenizer
  tokens: list[Token] = dataclasses.field(default_factory=list)
  was_cut: bool = False
  _sent: int = 0

  def add(self, token: Token) -> str:
    """Adds a token; returns the text that has become final."""
    self.tokens.append(token)
    text, self.was_cut = self.texts.whole(self.tokens)
    if not self.was_cut:
      text = text.rstrip(_INCOMPLETE)
      # The end may be the beginning of a stop sequence.
      held = max(map(len, self.texts.stops), default=1) - 1
      text = text[: max(self._sent, len(text) - held)]
    return self._new(text)

  def rest(self) -> str:
    """Returns the text held back so far, after the last token."""
    return self._new(self.texts.whole(self.tokens)[0])

  def _new(self, text: str) -> str:
    new, self._sent = text[self._sent :], max(self._sent, len(text))
    return new


def add_routes(app: fastapi.FastAPI, service: Service) -> None:
  """Adds the routes to an application."""
  vocabulary = service.engine.model.vocabulary

  @app.post("/v1/completions")
  async def complete(request: fastapi.Request, body: Completion):
    prompt = await service.prompt(body.model)
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    texts = Detokenizer(vocabulary, [stop for stop in stops if stop])
    seed = secrets.randbits(32) if body.seed is None else body.seed % 2**32
    most = max(service.engine.settings.shapes.steps)
    if body.num_beams and body.n > 1:
      raise errors.invalid("A beam search has one result: n must be 1.", "n")
    rows = [
      Generation(
        tokens,
        prompt,
        min(body.max_tokens or _MAX_TOKENS, most),
        temperature=body.temperature,
        seed=seed,
        # Samples of equal inputs differ, too.
        choice=i * body.n + j,
        num_beams=body.num_beams,
        top_log_probs=body.logprobs or 0,
      )
      for i, tokens in enumerate(_inputs(service, body.prompt, body.n))
      for j in range(body.n)
    ]
    head = {
      "id": f"cmpl-{secrets.token_hex(12)}",
      "object": "text_completion",
      "created": int(time.time()),
      "model": body.model,
    }
    if body.stream:
      return _stream(service, body, texts, rows, head)
    choices, made = [], 0
    for i, generated in enumerate(await service.answers(rows, request)):
      tokens = texts.up_to_stop(generated.tokens)
      made += len(tokens)
      text, was_cut = texts.whole(tokens)
      reason = "stop" if was_cut else generated.finish_reason
      choices.append(_choice(body, texts, i, text, tokens, reason))
    service.metrics.count_answers(body.model, "generate", rows)
    return {**head, "choices": choices, "usage": _usage(rows, body.n, made)}

  @app.post("/v1/rank")
  async def rank(request: fastapi.Request, body: Rank):
    prompt = await service.prompt(body.model)
    with errors.refusing("labels"):
      eos_id = service.engine.model.network.eos_id
      labels = tuple(ranking.encode_labels(body.labels, vocabulary, eos_id))
    if len(set(labels)) < len(labels):
      raise errors.invalid("Expected labels that differ.", "labels")
    inputs = _inputs(service, body.prompt)
    rows = [Ranking(tokens, prompt, labels) for tokens in inputs]
    data = []
    for i, scores in enumerate(await service.answers(rows, request)):
      shares = np.exp(np.array(scores) - max(scores))
      shares /= shares.sum()
      named = [
        {"label": label, "probability": share, "log_likelihood": score}
        for label, share, score in zip(
          body.labels, shares.tolist(), scores, strict=True
        )
      ]
      named.sort(key=lambda label: -label["log_likelihood"])
      data.append({"object": "ranking", "index": i, "labels": named})
    service.metrics.count_answers(body.model, "rank", rows)
    usage = {"prompt_tokens": sum(map(len, inputs))}
    return {"object": "list", "model": body.model, "data": data, "usage": usage}


def _inputs(
  service: Service, given: Input, samples: int = 1
) -> list[tuple[int, ...]]:
  """Returns the tokens of each input, up to the end of sequence.

  Args:
    service: The service, whose engine has room for so many.
    given: The inputs.
    samples: The number of samples of each.

  Raises:
    ApiError: if the list is empty or too long, or a token is unknown.
  """
  vocabulary = service.engine.model.vocabulary
  if isinstance(given, str):
    given = [given]
  if not given:
    raise errors.invalid("Expected an input, got none.", "prompt")
  if isinstance(given[0], int):
    given = [given]  # pyright: ignore[reportAssignmentType]
  room, inputs = service.engine.settings.room, []
  if (number := len(given) * samples) > room:  # Before any work on them.
    raise errors.invalid(
      f"Expected at most {room} inputs, samples included, got {number}.",
      "prompt",
    )
  for one in given:
    if isinstance(one, str):
      inputs.append(service.engine.model.encode(one))
      continue
    assert isinstance(one, list)
    if not one or min(one) < 1 or max(one) >= vocabulary.vocab_size:
      raise errors.invalid(
        f"Expected tokens from 1 to {vocabulary.vocab_size - 1}.", "prompt"
      )
    end = () if one[-1] == vocabulary.eos_id else (vocabulary.eos_id,)
    inputs.append((*one, *end))
  return inputs


def _usage(rows: Sequence[Generation], n: int, made: int) -> dict[str, int]:
  """Counts the tokens of inputs, each with n samples, and of answers."""
  given = sum(len(row.tokens) for row in rows[::n])
  return {
    "prompt_tokens": given,
    "completion_tokens": made,
    "total_tokens": given + made,
  }


def _choice(
  body: Completion,
  texts: Detokenizer,
  index: int,
  text: str,
  tokens: Sequence[Token],
  reason: str | None = None,
  first: int = 0,
) -> dict[str, Any]:
  """Returns an answer, or a piece of it that starts with the token `first`."""
  log_probs = None
  if body.logprobs is not None and (first < len(tokens) or not body.stream):
    log_probs = texts.log_probs(tokens, body.logprobs, first)
  return {
    "index": index,
    "text": text,
    "logprobs": log_probs,
    "finish_reason": reason,
  }


def _stream(
  service: Service,
  body: Completion,
  texts: Detokenizer,
  rows: Sequence[Generation],
  head: dict[str, Any],
) -> EventStream:
  """Hands the rows to the engine; returns their answers as the tokens come."""
  loop = asyncio.get_running_loop()
  start, streams = loop.time(), [TextStream(texts) for _ in rows]
  # (row, token), or (row, None) at its end. `max_tokens` bounds it if the
  # client is slow.
  queue: asyncio.Queue[tuple[int, Token | None]] = asyncio.Queue()

  def put(index: int, token: Token | None) -> None:  # In the engine's thread.
    loop.call_soon_threadsafe(queue.put_nowait, (index, token))

  with errors.refusing():
    tickets = service.engine.submit(
      [
        dataclasses.replace(row, on_token=functools.partial(put, i))
        for i, row in enumerate(rows)
      ]
    )
  for i, ticket in enumerate(tickets):
    ticket.add_done_callback(lambda _, i=i: put(i, None))

  async def chunks() -> AsyncIterator[dict[str, Any]]:
    open_rows, num_sent = set(range(len(rows))), [0] * len(rows)
    while open_rows:
      # Without the `yield`: a slow client does not exceed the time.
      async with service.in_time(start):
        index, token = await queue.get()
      if index not in open_rows:
        continue  # A stop ended it.
      stream, reason = streams[index], None
      if token is None:
        generated = tickets[index].result()
        assert isinstance(generated, Generated)
        text, reason = stream.rest(), generated.finish_reason
      else:
        text = stream.add(token)
        if stream.was_cut:
          tickets[index].cancel()  # More tokens are of no use.
          reason = "stop"
      if text or reason:
        first, num_sent[index] = num_sent[index], len(stream.tokens)
        choice = _choice(body, texts, index, text, stream.tokens, reason, first)
        yield {"choices": [choice]}
      if reason:
        open_rows.remove(index)
    service.metrics.count_answers(body.model, "generate", rows)
    if body.stream_options is not None and body.stream_options.include_usage:
      made = sum(len(stream.tokens) for stream in streams)
      yield {"choices": [], "usage": _usage(rows, body.n, made)}

  async def events() -> AsyncIterator[str]:
    try:
      async for chunk in chunks():
        yield _event({**head, **chunk})
    except Exception as error:
      yield _event(errors.api_error(error).body)
    yield "data: [DONE]\n\n"

  def cancel() -> None:
    for ticket in tickets:
      ticket.cancel()

  return EventStream(events(), cancel)


def _event(content: dict[str, Any]) -> str:
  return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
