"""`/v1/completions` and `/v1/rank`: answers, in OpenAI's form."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
import dataclasses
import functools
import json
import secrets
import time
from typing import Any

import fastapi
import numpy as np

from prompt_tuning.inference.detokenizer import Detokenizer
from prompt_tuning.inference.requests import (
  Generated,
  Generation,
  Ranking,
  Token,
  TunedPrompt,
)
from prompt_tuning.serving import errors
from prompt_tuning.serving.schemas import Completion, Input, Rank
from prompt_tuning.serving.service import EventStream, Service

# OpenAI's default for `max_tokens`.
_MAX_TOKENS = 16


def router(service: Service) -> fastapi.APIRouter:
  """Returns the routes."""
  routes = fastapi.APIRouter()
  vocabulary = service.engine.model.vocabulary

  @routes.post("/v1/completions")
  async def complete(request: fastapi.Request, body: Completion):
    prompt = await service.prompt(body.model)
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    texts = Detokenizer(vocabulary, [stop for stop in stops if stop])
    rows = list(_rows(service, body, prompt))
    head = {
      "id": f"cmpl-{secrets.token_hex(12)}",
      "object": "text_completion",
      "created": int(time.time()),
      "model": body.model,
    }
    if body.stream:
      stream = _Stream(service, body, texts, rows, head)
      return EventStream(stream.events(), stream.cancel)
    with errors.refusing():
      tickets = service.engine.submit(rows)
    results = await service.results(tickets, request.is_disconnected)
    service.metrics.count_answers(body.model, "generate", len(rows))
    choices, made = [], 0
    for i, generated in enumerate(results):
      tokens = texts.up_to_stop(generated.tokens)
      made += len(tokens)
      text, was_cut = texts.whole(tokens)
      log_probs = None
      if body.logprobs is not None:
        log_probs = texts.log_probs(tokens, body.logprobs)
      reason = "stop" if was_cut else generated.finish_reason
      choices.append(_choice(i, text, log_probs, reason))
    return {**head, "choices": choices, "usage": _usage(rows, body.n, made)}

  @routes.post("/v1/rank")
  async def rank(request: fastapi.Request, body: Rank):
    prompt = await service.prompt(body.model)
    labels = tuple(_label(service, label) for label in body.labels)
    if len(set(labels)) < len(labels):
      raise errors.invalid("Expected labels that differ.", "labels")
    rows = [
      Ranking(tokens, prompt, labels)
      for tokens in _inputs(service, body.prompt)
    ]
    with errors.refusing():
      tickets = service.engine.submit(rows)
    results = await service.results(tickets, request.is_disconnected)
    service.metrics.count_answers(body.model, "rank", len(rows))
    data = [
      {"object": "ranking", "index": i, "labels": _ranked(body.labels, scores)}
      for i, scores in enumerate(results)
    ]
    return {
      "object": "list",
      "model": body.model,
      "data": data,
      "usage": {"prompt_tokens": sum(len(row.tokens) for row in rows)},
    }

  return routes


def _rows(
  service: Service, body: Completion, prompt: TunedPrompt | None
) -> Iterator[Generation]:
  """Yields each sample of each input."""
  seed = secrets.randbits(32) if body.seed is None else body.seed % 2**32
  most = max(service.engine.settings.shapes.steps)
  if body.num_beams and body.n > 1:
    raise errors.invalid("A beam search has one result: n must be 1.", "n")
  for i, tokens in enumerate(_inputs(service, body.prompt, body.n)):
    for j in range(body.n):
      yield Generation(
        tokens,
        prompt,
        body.max_tokens or min(_MAX_TOKENS, most),
        temperature=body.temperature,
        seed=seed,
        # Samples of equal inputs differ, too.
        choice=i * body.n + j,
        num_beams=body.num_beams,
        top_log_probs=body.logprobs or 0,
      )


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


def _label(service: Service, label: str) -> tuple[int, ...]:
  """Returns the tokens of a label, as `ranking.rank_labels` has them."""
  tokens = service.engine.model.encode(label)
  unknown = getattr(service.engine.model.vocabulary, "unk_id", None)
  if len(tokens) < 2 or unknown in tokens:
    raise errors.invalid(
      f"Expected labels that the vocabulary knows, got {label[:80]!r}.",
      "labels",
    )
  return tokens


def _ranked(
  labels: Sequence[str], scores: Sequence[float]
) -> list[dict[str, Any]]:
  """Returns the labels with their probabilities, the likeliest first."""
  shares = np.exp(np.array(scores) - max(scores))
  shares /= shares.sum()
  ranked = sorted(
    zip(labels, shares.tolist(), scores, strict=True), key=lambda x: -x[2]
  )
  names = ("label", "probability", "log_likelihood")
  return [dict(zip(names, values, strict=True)) for values in ranked]


def _usage(rows: Sequence[Generation], n: int, made: int) -> dict[str, int]:
  """Counts the tokens of inputs and answers, but not of soft prompts.

  Args:
    rows: The samples.
    n: The number of samples of each input.
    made: The tokens of all answers.
  """
  given = sum(len(row.tokens) for row in rows[::n])
  return {
    "prompt_tokens": given,
    "completion_tokens": made,
    "total_tokens": given + made,
  }


def _choice(
  index: int, text: str, log_probs: dict[str, Any] | None, reason: str | None
) -> dict[str, Any]:
  return {
    "index": index,
    "text": text,
    "logprobs": log_probs,
    "finish_reason": reason,
  }


class _Stream:
  """Answers in pieces: server-sent events, as the tokens come."""

  def __init__(
    self,
    service: Service,
    body: Completion,
    texts: Detokenizer,
    rows: Sequence[Generation],
    head: dict[str, Any],
  ):
    """Hands the rows to the engine.

    Raises:
      ApiError: if the engine refuses them.
      QueueFullError: if it has no room for them.
      ClosedError: if it takes no more.
    """
    self._service, self._body, self._head = service, body, head
    self._rows, self._texts = rows, texts
    self._streams = [texts.stream() for _ in rows]
    # The number of tokens of each row whose log probabilities were sent.
    self._num_sent = [0] * len(rows)
    self._loop = asyncio.get_running_loop()
    # (row, token), or (row, None) at its end. `max_tokens` bounds it if the
    # client is slow.
    self._queue: asyncio.Queue[tuple[int, Token | None]] = asyncio.Queue()
    with errors.refusing():
      self._tickets = service.engine.submit(
        [
          dataclasses.replace(row, on_token=functools.partial(self._put, i))
          for i, row in enumerate(rows)
        ]
      )
    for i, ticket in enumerate(self._tickets):
      ticket.add_done_callback(lambda _, i=i: self._put(i, None))

  def _put(self, index: int, token: Token | None) -> None:
    """Adds to the queue, from the engine's thread."""
    self._loop.call_soon_threadsafe(self._queue.put_nowait, (index, token))

  async def events(self) -> AsyncIterator[str]:
    """Yields the events."""
    try:
      async for chunk in self._chunks():
        yield _event({**self._head, **chunk})
    except TimeoutError:
      yield _event(self._service.timeout().body)
    except Exception as error:
      yield _event(errors.api_error(error).body)
    yield "data: [DONE]\n\n"

  def cancel(self) -> None:
    """Cancels the rows that the engine has not finished."""
    for ticket in self._tickets:
      ticket.cancel()

  async def _chunks(self) -> AsyncIterator[dict[str, Any]]:
    left = len(self._rows)
    deadline = self._loop.time() + self._service.limits.answer_seconds
    while left:
      # Without the `yield`: a slow client does not exceed the time.
      async with asyncio.timeout_at(deadline):
        index, token = await self._queue.get()
      stream = self._streams[index]
      if stream.was_cut:
        continue  # Its end was sent.
      if token is None:
        left -= 1
        generated = self._tickets[index].result()
        assert isinstance(generated, Generated)
        yield self._chunk(index, stream.rest(), generated.finish_reason)
        continue
      text = stream.add(token)
      if stream.was_cut:
        left -= 1
        self._tickets[index].cancel()  # More tokens are of no use.
        yield self._chunk(index, text, "stop")
      elif text:
        yield self._chunk(index, text)
    self._service.metrics.count_answers(
      self._body.model, "generate", len(self._rows)
    )
    options = self._body.stream_options
    if options is not None and options.include_usage:
      made = sum(len(stream.tokens) for stream in self._streams)
      usage = _usage(self._rows, self._body.n, made)
      yield {"choices": [], "usage": usage}

  def _chunk(
    self, index: int, text: str, reason: str | None = None
  ) -> dict[str, Any]:
    """Returns new text of a row, with the log probabilities of new tokens."""
    log_probs, tokens = None, self._streams[index].tokens
    sent, self._num_sent[index] = self._num_sent[index], len(tokens)
    if self._body.logprobs is not None and sent < len(tokens):
      log_probs = self._texts.log_probs(tokens, self._body.logprobs, sent)
    return {"choices": [_choice(index, text, log_probs, reason)]}


def _event(content: dict[str, Any]) -> str:
  return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
