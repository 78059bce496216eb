"""`/v1/completions` and `/v1/rank`: answers, in OpenAI's form."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
import dataclasses
import json
import secrets
import time
from typing import Any

import fastapi
import numpy as np

from prompt_tuning.inference.engine import ClosedError
from prompt_tuning.inference.requests import (
  Generated,
  Generation,
  Prompt,
  Ranking,
  Ticket,
  Token,
)
from prompt_tuning.inference.texts import Texts, TextStream
from prompt_tuning.serving import errors
from prompt_tuning.serving.errors import ApiError
from prompt_tuning.serving.forms import Completion, Input, Rank
from prompt_tuning.serving.service import EventStream, Service

# Of an answer, where a request does not say: OpenAI's.
_MAX_TOKENS = 16


def router(service: Service) -> fastapi.APIRouter:
  """Returns the routes."""
  routes = fastapi.APIRouter()
  vocabulary = service.engine.model.vocabulary

  @routes.post("/v1/completions")
  async def complete(request: fastapi.Request, body: Completion):
    prompt = await service.prompt(body.model)
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    texts = Texts(vocabulary, [stop for stop in stops if stop])
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
    tickets = service.submit(rows, "prompt")
    results = await service.results(tickets, request.is_disconnected)
    service.metrics.count_answers(body.model, "generate", len(rows))
    choices = [
      _choice(texts, i, generated, body.logprobs)
      for i, generated in enumerate(results)
    ]
    made = sum(len(texts.up_to_stop(answer.tokens)) for answer in results)
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
    tickets = service.submit(rows, "prompt")
    results = await service.results(tickets, request.is_disconnected)
    service.metrics.count_answers(body.model, "rank", len(rows))
    return {
      "object": "list",
      "model": body.model,
      "data": [
        {
          "object": "ranking",
          "index": i,
          "labels": _ranked(body.labels, scores),
        }
        for i, scores in enumerate(results)
      ],
      "usage": {"prompt_tokens": sum(len(row.tokens) for row in rows)},
    }

  return routes


def _rows(
  service: Service, body: Completion, prompt: Prompt | None
) -> Iterator[Generation]:
  """Yields each sample of each input."""
  seed = secrets.randbits(32) if body.seed is None else body.seed % 2**32
  most = max(service.engine.settings.shapes.steps)
  max_tokens = body.max_tokens or min(_MAX_TOKENS, most)
  if body.num_beams and body.n > 1:
    raise errors.invalid("A beam search has one result: n must be 1.", "n")
  for i, tokens in enumerate(_inputs(service, body.prompt, body.n)):
    for j in range(body.n):
      yield Generation(
        tokens,
        prompt,
        max_tokens,
        temperature=body.temperature,
        seed=seed,
        # Two inputs of the same text are not the same sample.
        choice=i * body.n + j,
        num_beams=body.num_beams,
        top_log_probs=body.logprobs or 0,
      )


def _inputs(
  service: Service, given: Input, samples: int = 1
) -> list[tuple[int, ...]]:
  """Returns the tokens of each input, which end with the end of sequence.

  Args:
    service: Knows the vocabulary, and how many there may be.
    given: The inputs.
    samples: Of each.

  Raises:
    ApiError: if they are none, too many, or no tokens.
  """
  vocabulary = service.engine.model.vocabulary
  if isinstance(given, str):
    given = [given]
  if not given:
    raise errors.invalid("Expected an input, got none.", "prompt")
  if isinstance(given[0], int):
    given = [given]  # pyright: ignore[reportAssignmentType]
  service.check_number(len(given) * samples, "prompt")
  inputs = []
  for one in given:
    if isinstance(one, str):
      inputs.append(service.engine.tokens_of(one))
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
  tokens = service.engine.tokens_of(label)
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
  """Returns labels, the likeliest first, with their share of probability."""
  shares = np.exp(np.array(scores) - max(scores))
  shares /= shares.sum()
  order = sorted(range(len(labels)), key=lambda i: -scores[i])
  return [
    {
      "label": labels[i],
      "probability": float(shares[i]),
      "log_likelihood": scores[i],
    }
    for i in order
  ]


def _usage(rows: Sequence[Generation], n: int, made: int) -> dict[str, int]:
  """Counts tokens; those of a prompt are no tokens.

  Args:
    rows: The samples.
    n: Of each input.
    made: Tokens of all answers.
  """
  given = sum(len(row.tokens) for row in rows[::n])
  return {
    "prompt_tokens": given,
    "completion_tokens": made,
    "total_tokens": given + made,
  }


def _choice(
  texts: Texts, index: int, generated: Generated, log_probs: int | None
) -> dict[str, Any]:
  tokens = texts.up_to_stop(generated.tokens)
  text, was_cut = texts.whole(tokens)
  return {
    "index": index,
    "text": text,
    "finish_reason": "stop" if was_cut else generated.finish_reason,
    "logprobs": None
    if log_probs is None
    else texts.log_probs(tokens, log_probs),
  }


class _Stream:
  """An answer of HTTP in pieces: server-sent events, as tokens come."""

  def __init__(
    self,
    service: Service,
    body: Completion,
    texts: Texts,
    rows: Sequence[Generation],
    head: dict[str, Any],
  ):
    """Hands the rows to the engine.

    Raises:
      ApiError: if it does not take them.
    """
    self._service, self._body, self._head = service, body, head
    self._rows, self._texts = rows, texts
    # Tokens of each row whose log probabilities were sent.
    self._num_told = [0] * len(rows)
    self._loop = asyncio.get_running_loop()
    # (row, token), or (row, None) at its end. What a client does not take is
    # bounded by max_tokens.
    self._queue: asyncio.Queue[tuple[int, Token | None]] = asyncio.Queue()
    self._tickets = service.submit(
      [self._told(i, row) for i, row in enumerate(rows)], "prompt"
    )
    for i, ticket in enumerate(self._tickets):
      ticket.future.add_done_callback(lambda _, i=i: self._put(i, None))

  def _told(self, index: int, row: Generation) -> Generation:
    return dataclasses.replace(
      row, on_token=lambda token: self._put(index, token)
    )

  def _put(self, index: int, token: Token | None) -> None:
    """Adds to the queue, from the engine's thread."""
    self._loop.call_soon_threadsafe(self._queue.put_nowait, (index, token))

  async def events(self) -> AsyncIterator[str]:
    """Yields what is sent."""
    try:
      async for chunk in self._chunks():
        yield _event({**self._head, **chunk})
    except TimeoutError:
      yield _event(self._service.late().body)
    except ApiError as error:
      yield _event(error.body)
    yield "data: [DONE]\n\n"

  def cancel(self) -> None:
    """Says that nobody waits for the rows any more."""
    for ticket in self._tickets:
      ticket.cancel()

  async def _chunks(self) -> AsyncIterator[dict[str, Any]]:
    streams = [self._texts.stream() for _ in self._rows]
    left = len(self._rows)
    deadline = self._loop.time() + self._service.limits.answer_seconds
    while left:
      # Not around what is yielded: a client may take its time.
      async with asyncio.timeout_at(deadline):
        index, token = await self._queue.get()
      stream = streams[index]
      if stream.was_cut:
        continue  # Its end was told.
      if token is None:
        left -= 1
        reason = _result(self._tickets[index]).finish_reason
        yield self._chunk(index, stream, stream.rest(), reason)
        continue
      text = stream.add(token)
      if stream.was_cut:
        left -= 1
        self._tickets[index].cancel()  # More tokens are of no use.
        yield self._chunk(index, stream, text, "stop")
      elif text:
        yield self._chunk(index, stream, text)
    self._service.metrics.count_answers(
      self._body.model, "generate", len(self._rows)
    )
    options = self._body.stream_options
    if options is not None and options.include_usage:
      made = sum(len(stream.tokens) for stream in streams)
      yield {
        "choices": [],
        "usage": _usage(self._rows, self._body.n, made),
      }

  def _chunk(
    self,
    index: int,
    stream: TextStream,
    text: str,
    reason: str | None = None,
  ) -> dict[str, Any]:
    """Returns new text of a row, and tells of the tokens that are new."""
    log_probs = None
    told, self._num_told[index] = self._num_told[index], len(stream.tokens)
    if self._body.logprobs is not None and told < len(stream.tokens):
      log_probs = self._texts.log_probs(
        stream.tokens, self._body.logprobs, told
      )
    choice = {
      "index": index,
      "text": text,
      "logprobs": log_probs,
      "finish_reason": reason,
    }
    return {"choices": [choice]}


def _result(ticket: Ticket) -> Generated:
  """Returns an answer that is there.

  Raises:
    ApiError: if the engine failed.
  """
  if ticket.future.cancelled():
    raise ApiError(500, "The server failed.", "internal_error")
  error = ticket.future.exception()
  if isinstance(error, ClosedError):
    raise errors.not_ready(str(error))
  if error is not None:
    raise ApiError(500, "The server failed.", "internal_error")
  result = ticket.future.result()
  assert isinstance(result, Generated)
  return result


def _event(content: dict[str, Any]) -> str:
  return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
