"""Requests as the arrays of a batch, and its results as answers."""

from collections.abc import Iterable, Iterator, Sequence
import dataclasses
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from prompt_tuning.inference import ranking
from prompt_tuning.inference.batch_queue import Shape
from prompt_tuning.inference.compiled import CompiledPrograms
from prompt_tuning.inference.programs import Sampling, pack_rows
from prompt_tuning.inference.requests import (
  Generated,
  Generation,
  Request,
  Ticket,
  Token,
)


@dataclasses.dataclass(eq=False)
class Batch:
  """A batch in progress, or a finished one.

  Attributes:
    tickets: Its requests.
    shape: A shape that they fit into.
    rows: Number of rows, B, unused ones included.
    started: Time of its start, on `time.monotonic`.
    first_answer: Time of its first tokens or scores, on the same clock; 0 if
      it has none, as it failed.
    output_tokens: Tokens generated so far.
    busy: Seconds that the engine worked on it so far.
    seconds: From its start to its end.
  """

  tickets: Sequence[Ticket]
  shape: Shape
  rows: int
  started: float
  first_answer: float = 0.0
  output_tokens: int = 0
  busy: float = 0.0
  seconds: float = 0.0

  @property
  def requests(self) -> list[Any]:
    """The requests of its rows."""
    return [ticket.request for ticket in self.tickets]

  @property
  def input_tokens(self) -> int:
    """Positions of prompts and tokens of inputs."""
    return sum(len(x.tokens) + x.prompt_length for x in self.requests)


def run(programs: CompiledPrograms, batch: Batch, chunk: int) -> Iterator[None]:
  """Answers the requests of a batch, some of the work each time.

  Args:
    programs: The model.
    batch: The requests.
    chunk: Steps of decoding at a time.
  """
  if batch.shape.kind == "generate":
    return _decode(programs, batch, chunk)
  others = {"rank": _rank, "beam": _search, "embed": _embed}
  return others[batch.shape.kind](programs, batch)


def _encode(
  programs: CompiledPrograms,
  requests: Sequence[Request],
  length: int,
  rows: int,
) -> tuple[Any, np.ndarray]:
  """Returns the inputs behind their prompts: encoded, and tokens."""
  tokens, lengths = pack_rows(
    [request.tokens for request in requests],
    [request.prompt_length for request in requests],
    rows,
    length,
  )
  prompts = [request.prompt for request in requests]
  slots = programs.table.slots_of([*prompts, *[None] * (rows - len(prompts))])
  table = programs.table.array
  return programs("encode", table, tokens, slots, lengths), tokens


def _decode(
  programs: CompiledPrograms, batch: Batch, chunk: int
) -> Iterator[None]:
  """Decodes greedily or samples, some steps at a time."""
  requests: list[Generation] = batch.requests
  tickets, shape, rows = batch.tickets, batch.shape, batch.rows

  def column(values: Iterable, dtype: type) -> np.ndarray:
    padded = np.zeros(rows, dtype)
    padded[: len(requests)] = list(values)
    return padded

  numbers: dict[Any, int] = {}
  inputs = [
    numbers.setdefault((x.tokens, x.prompt), len(numbers)) for x in requests
  ]
  distinct = [requests[inputs.index(i)] for i in range(len(numbers))]
  # Samples of one input share it, if that makes the batch smaller.
  size = next(x for x in programs.shapes.rows_of(shape) if x >= len(distinct))
  if size == rows:
    inputs, distinct = range(len(requests)), requests
  encoded, tokens = _encode(programs, distinct, shape.length, size)
  inputs = column(inputs, np.int32)
  sampling = Sampling(
    limits=column((x.max_tokens for x in requests), np.int32),
    temperatures=column((x.temperature for x in requests), np.float32),
    seeds=column((x.seed for x in requests), np.uint32),
    choices=column((x.choice for x in requests), np.uint32),
    wants_top=np.bool_(any(x.top_log_probs for x in requests)),
  )
  if any(request.on_token for request in requests):
    chunk = 1
  state, attended = programs(
    "begin", encoded, tokens, inputs, sampling.limits, steps=shape.steps
  )
  if size < rows:
    tokens = tokens[inputs]
  done = 0
  while not all(ticket.done() for ticket in tickets):
    for i, ticket in enumerate(tickets):
      if ticket.done():  # It may have been cancelled: decode no further.
        sampling.limits[i] = 0
    until = jnp.int32(min(done + chunk, shape.steps))
    state = programs("advance", attended, tokens, sampling, state, until)
    index, *arrays = jax.device_get(
      (state.decoded, state.tokens, state.log_probs)
      + ((state.top, state.top_log_probs) if sampling.wants_top else ())
    )
    for i, ticket in enumerate(tickets):
      if not ticket.done():
        row = [array[i] for array in arrays]
        batch.output_tokens += _hand_over(
          ticket, row, done, int(index), programs.network.eos_id
        )
    done = int(index)
    yield


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


def _search(programs: CompiledPrograms, batch: Batch) -> Iterator[None]:
  """Answers by beam search, in one step."""
  shape, eos_id = batch.shape, programs.network.eos_id
  encoded, tokens = _encode(programs, batch.requests, shape.length, batch.rows)
  found, scores = jax.device_get(
    programs("search", encoded, tokens, steps=shape.steps, beams=shape.beams)
  )
  for ticket, beams, values in zip(batch.tickets, found, scores, strict=False):
    best = beams[-1].tolist()
    is_ended = eos_id in best
    if is_ended:
      best = best[: best.index(eos_id)]
    batch.output_tokens += len(best)
    ticket.finish(
      Generated(
        tuple(Token(x, float("nan")) for x in best),
        "stop" if is_ended else "length",
        float(values[-1]),
      )
    )
  yield


def _rank(programs: CompiledPrograms, batch: Batch) -> Iterator[None]:
  """Scores the labels of every row, in one step."""
  shape, given = batch.shape, [x.labels for x in batch.requests]
  encoded, tokens = _encode(programs, batch.requests, shape.length, batch.rows)
  labels = ranking.pack_labels(given, batch.rows, shape.steps)
  log_probs = programs("score", encoded, tokens, labels)
  scores = ranking.label_scores(labels, log_probs)
  for ticket, own, row in zip(batch.tickets, given, scores, strict=False):
    ticket.finish(tuple(row[: len(own)].tolist()))
  yield


def _embed(programs: CompiledPrograms, batch: Batch) -> Iterator[None]:
  """Averages the encoded tokens of every input, in one step.

  A decoder gives its output at the last token.
  """
  encoded, _ = _encode(programs, batch.requests, batch.shape.length, batch.rows)
  is_decoder = not isinstance(encoded, jax.Array)
  rows = np.asarray(encoded.last if is_decoder else encoded, np.float32)
  for ticket, request, row in zip(
    batch.tickets, batch.requests, rows, strict=False
  ):
    start = request.prompt_length
    own = slice(start, start + len(request.tokens))
    ticket.finish(row if is_decoder else row[own].mean(axis=0))
  yield
