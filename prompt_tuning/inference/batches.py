"""Batches: requests as arrays, and results as answers."""

from collections.abc import Sequence
from typing import Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np

from prompt_tuning.inference.compiled import Compiled
from prompt_tuning.inference.programs import PROMPT_TOKEN, Sampling
from prompt_tuning.inference.prompt_table import PromptTable
from prompt_tuning.inference.requests import (
  Generated,
  Generation,
  Prompt,
  Ranking,
  Request,
  Ticket,
  Token,
)
from prompt_tuning.inference.shapes import Shape


class Batch(Protocol):
  """Requests that are worked on together.

  Attributes:
    tickets: The requests.
    output_tokens: Tokens that were made so far.
  """

  tickets: Sequence[Ticket]
  output_tokens: int

  def advance(self) -> bool:
    """Does some of the work; returns whether there is more."""
    ...


def make(
  compiled: Compiled,
  table: PromptTable,
  tickets: Sequence[Ticket],
  shape: Shape,
  rows: int,
  sizes: Sequence[int],
  chunk: int,
  eos_id: int,
) -> Batch:
  """Begins a batch.

  Args:
    compiled: Its programs.
    table: The prompts.
    tickets: The requests, at most `rows`.
    shape: Which they fit into.
    rows: Of the batch.
    sizes: The numbers of rows that are compiled.
    chunk: Steps of decoding at a time.
    eos_id: The end of sequence.
  """
  requests = [ticket.request for ticket in tickets]
  if shape.kind != "generate":
    encoded, tokens = _encode(compiled, table, requests, shape, rows)
    if shape.kind == "rank":
      return _Ranking(compiled, tickets, shape, encoded, tokens)
    return _Search(compiled, tickets, shape, encoded, tokens, eos_id)
  inputs, distinct = _distinct(requests)
  # Samples of one input share it, where that makes a smaller batch.
  size = next(x for x in sizes if x >= len(distinct))
  if size == rows:
    inputs, distinct = list(range(rows)), requests
  encoded, tokens = _encode(compiled, table, distinct, shape, size)
  return _Decoding(
    compiled,
    tickets,
    shape,
    encoded,
    tokens,
    np.array([*inputs, *[0] * (rows - len(inputs))], np.int32),
    chunk,
    eos_id,
  )


def _distinct(requests: Sequence[Request]) -> tuple[list[int], list[Request]]:
  """Returns which of the distinct inputs each request has, and these."""
  numbers: dict[tuple[tuple[int, ...], Prompt | None], int] = {}
  distinct, inputs = [], []
  for request in requests:
    number = numbers.setdefault((request.tokens, request.prompt), len(distinct))
    if number == len(distinct):
      distinct.append(request)
    inputs.append(number)
  return inputs, distinct


def _encode(
  compiled: Compiled,
  table: PromptTable,
  requests: Sequence[Request],
  shape: Shape,
  rows: int,
) -> tuple[jax.Array, np.ndarray]:
  """Returns inputs behind their prompts: encoded [rows, T, H], and tokens."""
  tokens = np.zeros((rows, shape.length), np.int32)
  lengths = np.zeros(rows, np.int32)
  prompts = [request.prompt for request in requests]
  for i, (request, prompt) in enumerate(zip(requests, prompts, strict=True)):
    ids = request.tokens
    lengths[i] = prompt.length if prompt else 0
    tokens[i, : lengths[i]] = PROMPT_TOKEN
    tokens[i, lengths[i] : lengths[i] + len(ids)] = ids
  slots = table.slots_of([*prompts, *[None] * (rows - len(prompts))])
  return compiled.encode(table.array, tokens, slots, lengths), tokens


class _Decoding:
  """Greedy decoding and sampling, some steps at a time."""

  def __init__(
    self,
    compiled: Compiled,
    tickets: Sequence[Ticket],
    shape: Shape,
    encoded: jax.Array,
    tokens: np.ndarray,
    inputs: np.ndarray,
    chunk: int,
    eos_id: int,
  ):
    self.tickets = tickets
    self.output_tokens = 0
    self._compiled = compiled
    self._tokens = tokens[inputs]
    self._steps, self._eos_id = shape.steps, eos_id
    requests = [cast(Generation, ticket.request) for ticket in tickets]
    streams = any(x.on_token for x in requests)
    self._chunk = 1 if streams else chunk

    def column(values: list, dtype: type) -> np.ndarray:
      return np.array(values + [0] * (len(inputs) - len(values)), dtype)

    self._sampling = Sampling(
      limits=column([x.max_tokens for x in requests], np.int32),
      temperatures=column([x.temperature for x in requests], np.float32),
      seeds=column([x.seed for x in requests], np.uint32),
      choices=column([x.choice for x in requests], np.uint32),
      wants_top=np.bool_(any(x.top_log_probs for x in requests)),
    )
    self._state, self._attended = compiled.begin(
      shape, encoded, tokens, inputs, self._sampling.limits
    )
    self._told = 0

  def advance(self) -> bool:
    for i, ticket in enumerate(self.tickets):
      if ticket.is_over:  # Cancelled, perhaps: no more steps for it.
        self._sampling.limits[i] = 0
    state = self._compiled.advance(
      self._attended,
      self._tokens,
      self._sampling,
      self._state,
      min(self._told + self._chunk, self._steps),
    )
    self._state = state
    index, *arrays = jax.device_get(
      (state.decoded, state.tokens, state.log_probs)
      + ((state.top, state.top_log_probs) if self._sampling.wants_top else ())
    )
    for i, ticket in enumerate(self.tickets):
      if not ticket.is_over:
        self._tell(ticket, int(index), *(array[i] for array in arrays))
    self._told = int(index)
    return not all(ticket.is_over for ticket in self.tickets)

  def _tell(
    self,
    ticket: Ticket,
    index: int,
    ids: np.ndarray,
    log_probs: np.ndarray,
    top: np.ndarray | None = None,
    top_log_probs: np.ndarray | None = None,
  ) -> None:
    """Hands over what is new of a row, and its answer once it is whole."""
    request = cast(Generation, ticket.request)
    ends = np.flatnonzero(ids[:index] == self._eos_id)
    is_ended = len(ends) > 0
    end = int(ends[0]) if is_ended else min(index, request.max_tokens)

    def token(step: int) -> Token:
      likeliest = ()
      if top is not None and top_log_probs is not None:
        number = request.top_log_probs
        likeliest = tuple(
          zip(
            top[step, :number].tolist(),
            top_log_probs[step, :number].tolist(),
            strict=True,
          )
        )
      return Token(int(ids[step]), float(log_probs[step]), likeliest)

    self.output_tokens += max(0, end - self._told)
    if request.on_token is not None:
      for step in range(self._told, end):
        request.on_token(token(step))
    if is_ended or end == request.max_tokens:
      ticket.finish(
        Generated(
          tuple(token(step) for step in range(end)),
          "stop" if is_ended else "length",
          float(log_probs[: end + is_ended].sum()),
        )
      )


class _Search:
  """Beam search, in one step."""

  def __init__(
    self,
    compiled: Compiled,
    tickets: Sequence[Ticket],
    shape: Shape,
    encoded: jax.Array,
    tokens: np.ndarray,
    eos_id: int,
  ):
    self.tickets = tickets
    self.output_tokens = 0
    self._results = compiled.search(shape, encoded, tokens)
    self._eos_id = eos_id

  def advance(self) -> bool:
    tokens, scores = jax.device_get(self._results)
    for ticket, beams, values in zip(
      self.tickets, tokens, scores, strict=False
    ):
      best = beams[-1].tolist()
      is_ended = self._eos_id in best
      if is_ended:
        best = best[: best.index(self._eos_id)]
      self.output_tokens += len(best)
      ticket.finish(
        Generated(
          tuple(Token(x, float("nan")) for x in best),
          "stop" if is_ended else "length",
          float(values[-1]),
        )
      )
    return False


class _Ranking:
  """The labels of every row, in one step."""

  def __init__(
    self,
    compiled: Compiled,
    tickets: Sequence[Ticket],
    shape: Shape,
    encoded: jax.Array,
    tokens: np.ndarray,
  ):
    self.tickets = tickets
    self.output_tokens = 0
    labels = np.zeros((len(tokens), shape.steps), np.int32)
    inputs, numbers = np.zeros_like(labels), np.zeros_like(labels)
    for row, ticket in enumerate(tickets):
      start = 0
      for number, label in enumerate(cast(Ranking, ticket.request).labels, 1):
        place = slice(start, start + len(label))
        labels[row, place] = label
        inputs[row, place] = [0, *label[:-1]]
        numbers[row, place] = number
        start += len(label)
    self._numbers = numbers
    self._log_probs = compiled.score(
      encoded, tokens, *map(jnp.asarray, (labels, inputs, numbers))
    )

  def advance(self) -> bool:
    log_probs = np.asarray(self._log_probs)
    for ticket, numbers, values in zip(
      self.tickets, self._numbers, log_probs, strict=False
    ):
      count = len(cast(Ranking, ticket.request).labels)
      sums = np.bincount(numbers, values, minlength=count + 1)
      ticket.finish(tuple(sums[1:].tolist()))
    return False
