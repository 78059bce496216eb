"""Requests as the arrays of a batch, and its results as answers.

`run` is a generator: it does some of the work each time, so that the engine can
run batches in turn.
"""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from prompt_tuning.inference import ranking
from prompt_tuning.inference.batch_queue import Shape
from prompt_tuning.inference.compiled import CompiledPrograms
from prompt_tuning.inference.programs import PROMPT_TOKEN, Sampling
from prompt_tuning.inference.requests import (
  Generated,
  Generation,
  Prompt,
  Ranking,
  Request,
  Ticket,
  Token,
)


def pack_rows(
  inputs: Sequence[Sequence[int]],
  prompt_lengths: Sequence[int],
  rows: int,
  length: int,
) -> tuple[np.ndarray, np.ndarray]:
  """Lays out inputs behind the positions of their prompts.

  Args:
    inputs: Tokens of each, with the end of sequence.
    prompt_lengths: Positions of each input's prompt; 0: no prompt.
    rows: B, at least the number of inputs.
    length: T.

  Returns:
    [B, T] tokens and [B] prompt lengths, for `Network.encode`.
  """
  tokens = np.zeros((rows, length), np.int32)
  lengths = np.zeros(rows, np.int32)
  lengths[: len(inputs)] = prompt_lengths
  for row, ids, positions in zip(tokens, inputs, prompt_lengths, strict=False):
    row[:positions] = PROMPT_TOKEN
    row[positions : positions + len(ids)] = ids
  return tokens, lengths


def run(
  programs: CompiledPrograms,
  tickets: Sequence[Ticket],
  shape: Shape,
  rows: int,
  chunk: int,
) -> Iterator[int]:
  """Answers the requests of a batch.

  Args:
    programs: The model.
    tickets: The requests, at most `rows`.
    shape: A shape that they fit into.
    rows: Rows of the batch, B.
    chunk: Steps of decoding at a time.

  Yields:
    The number of tokens generated since the last time.
  """
  if shape.kind == "generate":
    return _decode(programs, tickets, shape, rows, chunk)
  answer = _rank if shape.kind == "rank" else _search
  return answer(programs, tickets, shape, rows)


def _encode(
  programs: CompiledPrograms,
  requests: Sequence[Request],
  shape: Shape,
  rows: int,
) -> tuple[jax.Array, np.ndarray]:
  """Returns the inputs behind their prompts: encoded [B, T, H], and tokens."""
  prompts = [request.prompt for request in requests]
  tokens, lengths = pack_rows(
    [request.tokens for request in requests],
    [prompt.length if prompt else 0 for prompt in prompts],
    rows,
    shape.length,
  )
  slots = programs.table.slots_of([*prompts, *[None] * (rows - len(prompts))])
  table = programs.table.array
  return programs("encode", table, tokens, slots, lengths), tokens


def _distinct(requests: Sequence[Request]) -> tuple[list[int], list[Request]]:
  """Returns the index of each request's input, and the distinct inputs."""
  numbers: dict[tuple[tuple[int, ...], Prompt | None], int] = {}
  distinct, inputs = [], []
  for request in requests:
    number = numbers.setdefault((request.tokens, request.prompt), len(distinct))
    if number == len(distinct):
      distinct.append(request)
    inputs.append(number)
  return inputs, distinct


def _sampling(requests: Sequence[Generation], rows: int) -> Sampling:
  def column(values: list, dtype: type) -> np.ndarray:
    return np.array(values + [0] * (rows - len(values)), dtype)

  return Sampling(
    limits=column([x.max_tokens for x in requests], np.int32),
    temperatures=column([x.temperature for x in requests], np.float32),
    seeds=column([x.seed for x in requests], np.uint32),
    choices=column([x.choice for x in requests], np.uint32),
    wants_top=np.bool_(any(x.top_log_probs for x in requests)),
  )


def _decode(
  programs: CompiledPrograms,
  tickets: Sequence[Ticket],
  shape: Shape,
  rows: int,
  chunk: int,
) -> Iterator[int]:
  """Decodes greedily or samples, some steps at a time."""
  requests = [cast(Generation, ticket.request) for ticket in tickets]
  inputs, distinct = _distinct(requests)
  # Samples of one input share it, if that makes the batch smaller.
  sizes = programs.shapes.rows_of(shape)
  size = next(x for x in sizes if x >= len(distinct))
  if size == rows:
    inputs, distinct = list(range(rows)), requests
  encoded, tokens = _encode(programs, distinct, shape, size)
  inputs = np.array([*inputs, *[0] * (rows - len(inputs))], np.int32)
  sampling = _sampling(requests, rows)
  if any(request.on_token for request in requests):
    chunk = 1
  state, attended = programs(
    "begin", encoded, tokens, inputs, sampling.limits, steps=shape.steps
  )
  tokens = tokens[inputs]
  done = 0
  while not all(ticket.is_over for ticket in tickets):
    for i, ticket in enumerate(tickets):
      if ticket.is_over:  # It may have been cancelled: decode no further.
        sampling.limits[i] = 0
    until = jnp.int32(min(done + chunk, shape.steps))
    state = programs("advance", attended, tokens, sampling, state, until)
    index, *arrays = jax.device_get(
      (state.decoded, state.tokens, state.log_probs)
      + ((state.top, state.top_log_probs) if sampling.wants_top else ())
    )
    made = 0
    for i, ticket in enumerate(tickets):
      if not ticket.is_over:
        row = [array[i] for array in arrays]
        made += _hand_over(
          ticket, row, done, int(index), programs.network.eos_id
        )
    done = int(index)
    yield made


def _hand_over(
  ticket: Ticket,
  row: Sequence[np.ndarray],
  done: int,
  index: int,
  eos_id: int,
) -> int:
  """Hands over a row's new tokens, and its answer once it is complete.

  Args:
    ticket: The request.
    row: [S] tokens and [S] their log probabilities, in nats; if a row of the
      batch wants them, [S, TOP] the likeliest tokens and [S, TOP] theirs.
    done: Tokens of the row that were handed over before.
    index: Tokens of the row now.
    eos_id: The end of sequence.

  Returns:
    The number of new tokens.
  """
  request = cast(Generation, ticket.request)
  ids, log_probs, *top = row
  ends = np.flatnonzero(ids[:index] == eos_id)
  is_ended = len(ends) > 0
  end = int(ends[0]) if is_ended else min(index, request.max_tokens)

  def token(step: int) -> Token:
    likeliest: Any = [x[step, : request.top_log_probs].tolist() for x in top]
    return Token(
      int(ids[step]),
      float(log_probs[step]),
      tuple(zip(*likeliest, strict=True)),
    )

  if request.on_token is not None:
    for step in range(done, end):
      request.on_token(token(step))
  if is_ended or end == request.max_tokens:
    ticket.finish(
      Generated(
        tuple(token(step) for step in range(end)),
        "stop" if is_ended else "length",
        float(log_probs[: end + is_ended].sum()),
      )
    )
  return max(0, end - done)


def _search(
  programs: CompiledPrograms,
  tickets: Sequence[Ticket],
  shape: Shape,
  rows: int,
) -> Iterator[int]:
  """Answers by beam search, in one step."""
  requests = [ticket.request for ticket in tickets]
  encoded, tokens = _encode(programs, requests, shape, rows)
  found, scores = jax.device_get(
    programs("search", encoded, tokens, steps=shape.steps, beams=shape.beams)
  )
  made = 0
  for ticket, beams, values in zip(tickets, found, scores, strict=False):
    best = beams[-1].tolist()
    is_ended = programs.network.eos_id in best
    if is_ended:
      best = best[: best.index(programs.network.eos_id)]
    made += len(best)
    ticket.finish(
      Generated(
        tuple(Token(x, float("nan")) for x in best),
        "stop" if is_ended else "length",
        float(values[-1]),
      )
    )
  yield made


def _rank(
  programs: CompiledPrograms,
  tickets: Sequence[Ticket],
  shape: Shape,
  rows: int,
) -> Iterator[int]:
  """Scores the labels of every row, in one step."""
  requests = [cast(Ranking, ticket.request) for ticket in tickets]
  encoded, tokens = _encode(programs, requests, shape, rows)
  labels = ranking.pack_labels([x.labels for x in requests], rows, shape.steps)
  log_probs = programs("score", encoded, tokens, labels)
  scores = ranking.label_scores(labels, log_probs)
  for ticket, request, row in zip(tickets, requests, scores, strict=False):
    ticket.finish(tuple(row[: len(request.labels)].tolist()))
  yield 0
