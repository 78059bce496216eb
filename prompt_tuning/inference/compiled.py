"""The programs of every shape of a batch, compiled before they are needed."""

from collections.abc import Callable, Iterator, Mapping
import concurrent.futures
import ctypes
import functools
import os
from typing import Any

import jax
import jax.numpy as jnp

from prompt_tuning.inference.programs import Network, Sampling
from prompt_tuning.inference.prompt_table import PromptTable
from prompt_tuning.inference.shapes import Shape, Shapes

# (name, rows, length), and steps or labels and beams where they count.
_Key = tuple[str | int, ...]
# A function of jax.jit's, and the shapes of what follows the parameters.
_Program = tuple[Any, tuple[Any, ...]]


class Compiled:
  """Compiled functions of batches; what is not there is never compiled."""

  def __init__(
    self, network: Network, params: Mapping[str, Any], shapes: Shapes
  ):
    """Compiles nothing yet.

    Args:
      network: The functions.
      params: Of the model; all programs share them.
      shapes: Of batches.
    """
    self._network = network
    self._params = params
    self._shapes = shapes
    self._programs: dict[_Key, Callable[..., Any]] = {}

  def compile(
    self, table: PromptTable, should_stop: Callable[[], bool]
  ) -> None:
    """Compiles the programs of all shapes, some at a time.

    Args:
      table: Of prompts.
      should_stop: Asked before each; True leaves the others out.
    """

    def compiled(program: _Program) -> Callable[..., Any] | None:
      return None if should_stop() else self._compile(program)

    wanted = dict(self._wanted(table))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
      made = zip(wanted, pool.map(compiled, wanted.values()), strict=True)
      self._programs.update({key: x for key, x in made if x is not None})
    _give_back()

  def __len__(self) -> int:
    return len(self._programs)

  def encode(self, table: jax.Array, tokens: Any, *rows: Any) -> jax.Array:
    """See `Network.encode`."""
    return self._run("encode", *tokens.shape)(
      self._params, table, tokens, *rows
    )

  def begin(
    self, shape: Shape, encoded: Any, tokens: Any, inputs: Any, limits: Any
  ) -> Any:
    """See `Network.begin`."""
    return self._run("begin", *tokens.shape, len(limits), shape.steps)(
      self._params, encoded, tokens, inputs, limits
    )

  def advance(
    self, attended: Any, tokens: Any, sampling: Sampling, state: Any, until: int
  ) -> Any:
    """See `Network.advance`; the memory of `state` is used again."""
    return self._run("advance", *tokens.shape, state.tokens.shape[1])(
      self._params, attended, tokens, sampling, state, jnp.int32(until)
    )

  def search(self, shape: Shape, encoded: Any, tokens: Any) -> Any:
    """See `Network.search`."""
    return self._run("search", *tokens.shape, shape.steps, shape.beams)(
      self._params, encoded, tokens
    )

  def score(self, encoded: Any, tokens: Any, labels: Any, *rows: Any) -> Any:
    """See `Network.score`."""
    return self._run("score", *tokens.shape, labels.shape[1])(
      self._params, encoded, tokens, labels, *rows
    )

  def _run(self, *key: str | int) -> Callable[..., Any]:
    return self._programs[key]

  def _compile(self, program: _Program) -> Callable[..., Any]:
    fn, arguments = program
    return fn.lower(self._params, *arguments).compile()

  def _wanted(self, table: PromptTable) -> Iterator[tuple[_Key, _Program]]:
    """Yields what there is to compile, once or more often."""
    for shape in self._shapes:
      for B in self._shapes.rows_of(shape):
        yield from self._of_shape(shape, B, table)

  def _of_shape(
    self, shape: Shape, B: int, table: PromptTable
  ) -> Iterator[tuple[_Key, _Program]]:
    network, size = self._network, (B, shape.length)
    tokens = _like(*size)
    rows = _like(B)
    yield (
      ("encode", *size),
      (jax.jit(network.encode), (table.array, tokens, rows, rows)),
    )
    config = network.config
    encoded = _like(*size, config.emb_dim, dtype=jnp.dtype(config.dtype))
    if shape.kind == "rank":
      labels = _like(B, shape.steps)
      yield (
        ("score", *size, shape.steps),
        (jax.jit(network.score), (encoded, tokens, labels, labels, labels)),
      )
    elif shape.kind == "beam":
      search = functools.partial(
        network.search, steps=shape.steps, beams=shape.beams
      )
      yield (
        ("search", *size, shape.steps, shape.beams),
        (jax.jit(search), (encoded, tokens)),
      )
    else:
      begin = functools.partial(network.begin, steps=shape.steps)
      for all_rows in self._shapes.rows_of(shape):
        if all_rows >= B:  # Rows may share inputs.
          more = _like(all_rows)
          yield (
            ("begin", *size, all_rows, shape.steps),
            (jax.jit(begin), (encoded, tokens, more, more)),
          )
      state, attended = jax.eval_shape(
        begin, self._params, encoded, tokens, rows, rows
      )
      sampling = Sampling(
        rows,
        _like(B, dtype=jnp.float32),
        *[_like(B, dtype=jnp.uint32)] * 2,
        _like(dtype=jnp.bool_),
      )
      yield (
        ("advance", *size, shape.steps),
        (
          jax.jit(network.advance, donate_argnums=4),
          (attended, tokens, sampling, state, _like()),
        ),
      )


def _give_back() -> None:
  """Returns to the system what compiling has freed, which glibc would keep."""
  trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
  if trim is not None:
    trim(0)


def _like(*shape: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, dtype)
