"""Requests as the arrays of a batch, and its results as answers."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, cast

import jax
import numpy as np

from prompt_tuning.inference import ranking
from prompt_tuning.inference.batch_queue import Shape
from prompt_tuning.inference.compiled import CompiledPrograms
from prompt_tuning.inference.requests import (
  Generated,
  Generation,
  Request,
  Ticket,
  Token,
)
from prompt_tuning.inference.sampling import Sampling


@dataclasses.dataclass(eq=False)
class Batch:
  """Requests that start together.

  Attributes:
    tickets: The requests.
    shape: A shape that they fit into.
    rows: Number of rows, unused ones included.
    started: Time of its start, on `time.monotonic`.
    first_answer: Time of its first tokens or scores, on the same clock; 0 if
      the batch failed before.
    output_tokens: Tokens generated so far.
    seconds: From its start to its end.
  """

  tickets: Sequence[Ticket]
  shape: Shape
  rows: int
  started: float
  first_answer: float = 0.0
  output_tokens: int = 0
  seconds: float = 0.0

  @property
  def requests(self) -> list[Any]:
    """The requests of its rows."""
    return [ticket.request for ticket in self.tickets]

  @property
  def input_tokens(self) -> int:
    """Positions of prompts and tokens of inputs."""
    return sum(len(x.tokens) + x.prompt_length for x in self.requests)

  @property
  def left(self) -> int:
    """Number of requests that have no answer yet and were not abandoned."""
    return sum(not ticket.done() for ticket in self.tickets)


def answer(programs: CompiledPrograms, batch: Batch) -> None:
  """Answers the requests of a batch that are answered in one step."""
  kinds = {"rank": _rank, "beam": _search, "embed": _embed}
  kinds[batch.shape.kind](programs, batch)


def _encode(
  programs: CompiledPrograms,
  requests: Sequence[Request],
  length: int,
  rows: int,
) -> tuple[Any, np.ndarray]:
  """Returns the inputs behind their prompts: encoded, and tokens."""
  tokens, lengths = programs.network.pack(
    [request.tokens for request in requests],
    [request.prompt_length for request in requests],
    rows,
    length,
  )
  prompts = [request.prompt for request in requests]
  slots = programs.table.slots_of([*prompts, *[None] * (rows - len(prompts))])
  table = programs.table.arrays
  return programs("encode", table, tokens, slots, lengths), tokens


@dataclasses.dataclass(eq=False)
class _Row:
  """A row of a `Decoding`, of whose answer `done` tokens were handed over."""

  ticket: Ticket
  batch: Batch
  done: int = 0

  def hand_over(
    self, index: int, eos_id: int, columns: Sequence[np.ndarray]
  ) -> None:
    """Hands over new tokens, and the answer once it is complete.

    Args:
      index: Number of the row's tokens so far.
      eos_id: The end of sequence.
      columns: [S] tokens and [S] their log probabilities, in nats; if a row of
        the batch wants them, [S, TOP] the likeliest tokens and theirs.
    """
    request = cast(Generation, self.ticket.request)
    ids, log_probs, *top = columns
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

    is_over = is_ended or end == request.max_tokens
    try:
      if request.on_token is not None:
        for step in range(self.done, end):
          request.on_token(token(step))
      if request.is_enough is not None:
        is_over = is_over or request.is_enough(ids[:end].tolist())
    except Exception as error:  # The caller's; the batch has other requests.
      self.ticket.finish(error)
    if is_over:
      self.ticket.finish(
        Generated(
          tuple(map(token, range(end))),
          "stop" if is_ended or end < request.max_tokens else "length",
          float(log_probs[: end + is_ended].sum()),
        )
      )
    self.batch.output_tokens += max(0, end - self.done)
    self.done = index


class Decoding:
  """Rows that are decoded together, each from its own start to its own end.

  A request may join in the place of one that has been answered.

  Attributes:
    shape: A shape that all requests fit into.
    rows: Number of rows, B, unused ones included.
    batches: The batches of its requests; the engine removes them.
    busy: Seconds that the engine has spent decoding.
    was_joined: Whether another batch has joined the first.
  """

  def __init__(self, programs: CompiledPrograms, batch: Batch):
    """Encodes the inputs of a batch, which gives it its shape and rows."""
    self.shape, self.rows = batch.shape, batch.rows
    self.batches: list[Batch] = []
    self.busy = 0.0
    self.was_joined = False
    self._programs = programs
    self._rows: list[_Row | None] = [None] * self.rows
    self._tokens = np.zeros((self.rows, self.shape.length), np.int32)
    # The state, and the keys and values of the inputs.
    self._state: Any = None
    self.join(batch)

  @property
  def free(self) -> list[int]:
    """The rows that have no request without an answer."""
    return [i for i, x in enumerate(self._rows) if x is None or x.ticket.done()]

  def join(self, batch: Batch) -> None:
    """Encodes the inputs of another batch, and gives them free rows.

    Args:
      batch: A batch with fewer rows than this, unless it is the first.
    """
    begun, tokens = _begin(self._programs, batch)
    count = len(batch.tickets)
    places = np.full(batch.rows, self.rows, np.int32)  # Unused rows: nowhere.
    places[:count] = self.free[:count]
    if self._state is not None:
      begun = self._programs("join", self._state, begun, places)
      self.was_joined = True
    self._state = begun
    places = places[:count]
    self._tokens[places] = tokens[:count]
    for place, ticket in zip(places, batch.tickets, strict=True):
      self._rows[place] = _Row(ticket, batch)
    self.batches.append(batch)

  def advance(self, chunk: int) -> None:
    """Decodes some tokens of every row, and hands them over.

    Args:
      chunk: The most tokens of a row; 1 if a request wants each token at once.
    """
    live = {
      i: row
      for i, row in enumerate(self._rows)
      if row is not None and not row.ticket.done()
    }
    requests: dict[int, Any] = {i: x.ticket.request for i, x in live.items()}
    if any(request.on_token for request in requests.values()):
      chunk = 1
    state, attended = self._state
    sampling = _sampling(requests, self.rows)
    state = self._programs(
      "advance", attended, self._tokens, sampling, state, np.int32(chunk)
    )
    self._state = state, attended
    decoded, *arrays = jax.device_get(
      (state.decoded, state.tokens, state.log_probs)
      + ((state.top, state.top_log_probs) if sampling.wants_top else ())
    )
    eos_id = self._programs.network.eos_id
    for i, row in live.items():
      row.hand_over(int(decoded[i]), eos_id, [array[i] for array in arrays])


def _begin(programs: CompiledPrograms, batch: Batch) -> tuple[Any, np.ndarray]:
  """Returns the state before the first tokens, and the tokens of inputs."""
  requests: list[Generation] = batch.requests
  shape, rows = batch.shape, batch.rows
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
  inputs = np.array([*inputs, *[0] * (rows - len(requests))], np.int32)
  limits = _sampling(dict(enumerate(requests)), rows).limits
  state = programs("begin", encoded, tokens, inputs, limits, steps=shape.steps)
  return state, tokens[inputs] if size < rows else tokens


def _sampling(requests: Mapping[int, Generation], rows: int) -> Sampling:
  """Returns the options of rows, on the host; those without a request end."""

  def column(name: str, dtype: type) -> np.ndarray:
    values = np.zeros(rows, dtype)
    values[[*requests]] = [getattr(x, name) for x in requests.values()]
    return values

  return Sampling(
    limits=column("max_tokens", np.int32),
    temperatures=column("temperature", np.float32),
    seeds=column("seed", np.uint32),
    choices=column("choice", np.uint32),
    wants_top=np.bool_(any(x.top_log_probs for x in requests.values())),
  )


def _search(programs: CompiledPrograms, batch: Batch) -> None:
  """Answers by beam search."""
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


def _rank(programs: CompiledPrograms, batch: Batch) -> None:
  """Scores the labels of every row."""
  shape, given = batch.shape, [x.labels for x in batch.requests]
  encoded, tokens = _encode(programs, batch.requests, shape.length, batch.rows)
  labels = ranking.pack_labels(given, batch.rows, shape.steps)
  log_probs = programs("score", encoded, tokens, labels)
  scores = ranking.label_scores(labels, log_probs)
  for ticket, own, row in zip(batch.tickets, given, scores, strict=False):
    ticket.finish(tuple(row[: len(own)].tolist()))


def _embed(programs: CompiledPrograms, batch: Batch) -> None:
  """Averages the encoded tokens of every input.

  A decoder gives its output at the last token.
  """
  encoded, _ = _encode(programs, batch.requests, batch.shape.length, batch.rows)
  is_decoder = programs.network.keeps_prompts
  rows = np.asarray(encoded.last if is_decoder else encoded, np.float32)
  for ticket, request, row in zip(
    batch.tickets, batch.requests, rows, strict=False
  ):
    start = request.prompt_length
    own = slice(start, start + len(request.tokens))
    ticket.finish(row if is_decoder else row[own].mean(axis=0))
