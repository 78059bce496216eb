"""The routes that answer inputs, in OpenAI's format, and `/v1/rank`."""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Sequence
import dataclasses
import functools
import inspect
import json
import random
import time
from typing import Any

import fastapi
from fastapi import responses, routing
import numpy as np

from prompt_tuning.data.chat_templates import Message
from prompt_tuning.inference import ranking
from prompt_tuning.inference.requests import (
  Embedding,
  Generated,
  Generation,
  Ranking,
  Token,
)
from prompt_tuning.serving import errors, schemas
from prompt_tuning.serving.detokenizing import Answer
from prompt_tuning.serving.schemas import Chat, Completion, Input, Rank
from prompt_tuning.serving.service import EventStream, Service


def add_routes(app: fastapi.FastAPI, service: Service) -> None:
  """Adds the routes to an application."""
  vocabulary = service.engine.model.vocabulary

  async def complete(request: fastapi.Request, body: Completion):
    return await _answer(service, request, body)

  async def chat(request: fastapi.Request, body: Chat):
    return await _answer(service, request, body)

  async def embed(request: fastapi.Request, body: schemas.Embedding):
    prompt = await service.prompt(body.model)
    width = service.engine.model.config.emb_dim
    if body.dimensions not in (None, width):
      raise errors.invalid(f"dimensions: Expected {width}.", "dimensions")
    inputs = _inputs(service, body.input, field="input")
    rows = [Embedding(tokens, prompt) for tokens in inputs]
    with errors.refusing("input"):
      found = await service.answers(rows, request)
    service.metrics.count_answers(body.model, "embed", rows)
    data = [
      {
        "object": "embedding",
        "index": i,
        "embedding": vector.tolist()
        if body.encoding_format == "float"
        else base64.b64encode(vector.astype("<f4").tobytes()).decode(),
      }
      for i, vector in enumerate(found)
    ]
    return _list(body.model, data, inputs)

  async def rank(request: fastapi.Request, body: Rank):
    prompt = await service.prompt(body.model)
    with errors.refusing("labels"):
      eos_id = service.engine.model.network.eos_id
      labels = tuple(ranking.encode_labels(body.labels, vocabulary, eos_id))
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
    return _list(body.model, data, inputs)

  add = functools.partial(
    app.router.add_api_route, methods=["POST"], route_class_override=_Route
  )
  add("/v1/completions", complete)
  add("/v1/chat/completions", chat)
  add("/v1/embeddings", embed)
  add("/v1/rank", rank)


class _Route(routing.APIRoute):
  """A route that reads valid JSON bodies itself, because FastAPI is slow."""

  def get_route_handler(self) -> Callable[..., Any]:
    """Returns the function that answers a request."""
    others = super().get_route_handler()
    schema = inspect.signature(self.endpoint).parameters["body"].annotation

    async def handle(request: fastapi.Request) -> fastapi.Response:
      if request.headers.get("content-type") != "application/json":
        return await others(request)
      content = await request.body()
      try:
        body = schema.model_validate(json.loads(content))
      except Exception:  # FastAPI finds the same error, and reports it.
        return await others(request)
      answer = await self.endpoint(request, body)
      is_whole = isinstance(answer, dict)
      return responses.JSONResponse(answer) if is_whole else answer

    return handle


def _list(
  model: str, data: list[Any], inputs: Sequence[Sequence[int]]
) -> dict[str, Any]:
  """Returns the response for inputs that generate no tokens."""
  total = sum(map(len, inputs))
  usage = {"prompt_tokens": total, "total_tokens": total}
  return {"object": "list", "model": model, "data": data, "usage": usage}


async def _answer(
  service: Service, request: fastapi.Request, body: Completion | Chat
) -> EventStream | dict[str, Any]:
  """Generates answers, complete or as a stream."""
  prompt = await service.prompt(body.model)
  vocabulary = service.engine.model.vocabulary
  stops = [x for x in body.stop if x]
  # A stream cancels its rows itself.
  may_end = bool(stops) and not body.stream
  seed = random.getrandbits(32) if body.seed is None else body.seed % 2**32
  most = max(service.engine.settings.shapes.steps)
  if body.num_beams and body.n > 1:
    raise errors.invalid("A beam search has one result, so n must be 1.", "n")
  if body.num_beams and body.top is not None:
    raise errors.invalid("A beam search has no logprobs.", "logprobs")
  messages = body.conversation if isinstance(body, Chat) else ()
  inputs = _inputs(service, body.given, body.n, body.field, messages)
  rows = [
    Generation(
      tokens,
      prompt,
      min(body.limit or most, most),
      temperature=body.temperature,
      seed=seed,
      # Samples differ even for equal inputs.
      choice=i * body.n + j,
      num_beams=body.num_beams,
      top_log_probs=body.top or 0,
      is_enough=Answer(vocabulary, stops).has_stop if may_end else None,
    )
    for i, tokens in enumerate(inputs)
    for j in range(body.n)
  ]
  answers = [Answer(vocabulary, stops) for _ in rows]
  head = {
    "id": f"cmpl-{random.randbytes(12).hex()}",
    "object": body.chunk if body.stream else body.kind,
    "created": int(time.time()),
    "model": body.model,
  }
  with errors.refusing(body.field):
    if body.stream:
      return _stream(service, body, rows, answers, head)
    found = await service.answers(rows, request)
  choices = []
  for i, (answer, generated) in enumerate(zip(answers, found, strict=True)):
    text = answer.add_all(generated.tokens)
    reason = "stop" if answer.was_cut else generated.finish_reason
    choices.append(_choice(body, i, answer, text, reason))
  service.metrics.count_answers(body.model, "generate", rows)
  return {**head, "choices": choices, "usage": _usage(rows, body.n, answers)}


def _inputs(
  service: Service,
  given: Input,
  samples: int = 1,
  field: str = "prompt",
  messages: Sequence[Message] = (),
) -> list[tuple[int, ...]]:
  """Returns the tokens of each input, up to the end of sequence.

  Args:
    service: The service, whose engine limits the number of inputs.
    given: The inputs.
    samples: The number of samples of each.
    field: The request's field with the inputs.
    messages: The conversation that a single input ends.

  Raises:
    ApiError: if the list is empty or too long, or a token is unknown.
  """
  vocabulary = service.engine.model.vocabulary
  if isinstance(given, str):
    given = [given]
  if not given:
    raise errors.invalid("Expected an input, got none.", field)
  if isinstance(given[0], int):
    given = [given]  # pyright: ignore[reportAssignmentType]
  room, inputs = service.engine.settings.room, []
  if (number := len(given) * samples) > room:  # Before any work on inputs.
    raise errors.invalid(
      f"Expected at most {room} inputs, samples included, got {number}.",
      field,
    )
  for one in given:
    if isinstance(one, str):
      with errors.refusing(field):
        inputs.append(service.engine.model.encode(one, messages))
      continue
    assert isinstance(one, list)
    if not one or min(one) < 1 or max(one) >= vocabulary.vocab_size:
      raise errors.invalid(
        f"Expected tokens from 1 to {vocabulary.vocab_size - 1}.", field
      )
    end = service.engine.model.input_end
    end = () if one[-1] == vocabulary.eos_id else end
    inputs.append((*one, *end))
  return inputs


def _usage(
  rows: Sequence[Generation], n: int, answers: Sequence[Answer]
) -> dict[str, int]:
  """Counts the tokens of inputs, each with n samples, and of answers."""
  given = sum(len(row.tokens) for row in rows[::n])
  made = sum(len(answer.tokens) for answer in answers)
  return {
    "prompt_tokens": given,
    "completion_tokens": made,
    "total_tokens": given + made,
  }


def _choice(
  body: Completion | Chat,
  index: int,
  answer: Answer,
  text: str,
  reason: str | None = None,
  first: int = 0,
) -> dict[str, Any]:
  """Returns an answer, or a piece of it that starts with the token `first`."""
  shown = {"index": index, "finish_reason": reason, "logprobs": None}
  if body.top is not None and (first < len(answer.tokens) or not body.stream):
    shown["logprobs"] = body.log_probs(answer.log_probs(body.top, first))
  return shown | body.content(text, first)


def _stream(
  service: Service,
  body: Completion | Chat,
  rows: Sequence[Generation],
  answers: Sequence[Answer],
  head: dict[str, Any],
) -> EventStream:
  """Submits rows to the engine; returns their answers as tokens arrive."""
  loop = asyncio.get_running_loop()
  start = loop.time()
  # (row, token), or (row, None) at the row's end. If the client is slow,
  # `max_tokens` bounds its size.
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

  def event(content: dict[str, Any]) -> str:
    # In ASCII, because many clients end lines at Unicode's line separators.
    return f"data: {json.dumps(content)}\n\n"

  async def events() -> AsyncIterator[str]:
    open_rows, num_sent = set(range(len(rows))), [0] * len(rows)
    try:
      while open_rows:
        # The `yield` is outside, so that a slow client uses up no time.
        async with service.in_time(start):
          index, token = await queue.get()
        if index not in open_rows:
          continue  # A stop sequence ended the row.
        answer, reason = answers[index], None
        if token is None:
          generated = tickets[index].result()
          assert isinstance(generated, Generated)
          text, reason = answer.rest(), generated.finish_reason
        else:
          text = answer.add(token)
          if answer.was_cut:
            tickets[index].cancel()  # No more tokens are needed.
            reason = "stop"
        if text or reason:
          first, num_sent[index] = num_sent[index], len(answer.tokens)
          choice = _choice(body, index, answer, text, reason, first)
          yield event({**head, "choices": [choice]})
        if reason:
          open_rows.remove(index)
      service.metrics.count_answers(body.model, "generate", rows)
      if body.stream_options is not None and body.stream_options.include_usage:
        usage = _usage(rows, body.n, answers)
        yield event({**head, "choices": [], "usage": usage})
    except Exception as error:
      yield event(errors.api_error(error).body)
    yield "data: [DONE]\n\n"

  def cancel() -> None:
    for ticket in tickets:
      ticket.cancel()

  return EventStream(events(), cancel)
