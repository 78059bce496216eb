"""Answers of many lengths, by an engine whose requests join running batches."""

from collections.abc import Sequence
import concurrent.futures
import dataclasses
import time
from typing import Any

import numpy as np

import harness
import prompt_tuning as pt
from prompt_tuning.inference.batch_queue import Settings, Shapes
from prompt_tuning.inference.engine import Engine
from prompt_tuning.inference.requests import Generation
from traffic import mixed

LONGEST = 128
CLIENTS = 32
_LENGTH = 64


def joining(
  model: pt.Model, task: str, number: int, rounds: int
) -> dict[str, Any]:
  """Compares an engine with one whose batches end before others start.

  Args:
    model: The frozen model. It loses its end of sequence, so that an answer is
      as long as its request allows.
    task: The task of the inputs.
    number: Requests of a turn, each from the first client that is free.
    rounds: Turns of each side.

  Returns:
    Seconds of each turn, and the number of equal answers.
  """
  model.network.eos_id = -1
  found = mixed.make_prompts(model, [1, 2, 5, 10, 20])
  rng = np.random.default_rng(3)
  requests = [
    Generation(
      model.encode(text)[: _LENGTH - 20],
      found[rng.integers(len(found))],
      int(rng.integers(1, LONGEST + 1)),
    )
    for text in mixed.texts(model, task, number)
  ]
  shapes = Shapes(lengths=(_LENGTH,), steps=(LONGEST,), labels=(16,), beams=())
  settings = Settings(shapes=shapes, longest_prompt=20, room=number)
  # Nothing joins a batch that decodes all of its tokens at once.
  apart = dataclasses.replace(settings, chunk=LONGEST)
  sides: dict[str, list[float]] = {"joined": [], "apart": []}
  with Engine(model, settings) as one, Engine(model, apart) as other:
    engines = dict(zip(sides, (one, other), strict=True))
    first, second = (_answer(x, requests) for x in engines.values())
    for _ in range(rounds):
      for name, engine in engines.items():
        start = time.monotonic()
        _answer(engine, requests)
        sides[name].append(time.monotonic() - start)
  return {
    "requests": number,
    "clients": CLIENTS,
    "tokens": sum(x.max_tokens for x in requests),
    "seconds": sides,
    "same": sum(x == y for x, y in zip(first, second, strict=True)),
  }


def _answer(engine: Engine, requests: Sequence[Generation]) -> list[list[int]]:
  def ask(request: Generation) -> list[int]:
    (ticket,) = engine.submit([request])
    return [token.id for token in ticket.result().tokens]

  with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
    return list(pool.map(ask, requests))


def values(record: dict[str, Any]) -> dict[str, Any]:
  """See `serving.rows`."""
  seconds = {k: np.array(v) for k, v in record["seconds"].items()}
  return {
    "rate": record["tokens"] / np.median(seconds["joined"]),
    "over_apart": harness.spread(seconds["apart"] / seconds["joined"]),
  }
