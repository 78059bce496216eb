"""The programs of every batch shape, compiled before they are needed."""

from collections.abc import Callable, Iterator, Mapping
import concurrent.futures
import ctypes
import functools
import os
from typing import Any

import jax
import jax.numpy as jnp

from prompt_tuning.inference.batch_queue import Shape, Shapes
from prompt_tuning.inference.programs import Network, Sampling
from prompt_tuning.inference.prompt_table import PromptTable
from prompt_tuning.inference.ranking import PackedLabels

# A method of `Network`, its arguments after the parameters, and its keywords.
_Call = tuple[str, tuple[Any, ...], dict[str, int]]


class CompiledPrograms:
  """The compiled methods of a network; none is ever compiled by a call.

  Attributes:
    network: The functions.
    table: The prompts.
    shapes: The shapes of batches.
  """

  def __init__(
    self,
    network: Network,
    params: Mapping[str, Any],
    table: PromptTable,
    shapes: Shapes,
  ):
    """Compiles nothing yet.

    Args:
      network: The functions.
      params: The model's parameters, which all programs share.
      table: The prompts.
      shapes: The shapes of batches.
    """
    self.network = network
    self.table = table
    self.shapes = shapes
    self._params = params
    self._programs: dict[Any, Callable[..., Any]] = {}

  def compile(self, should_stop: Callable[[], bool]) -> None:
    """Compiles the programs of all shapes, several at a time.

    Args:
      should_stop: Called before each; True skips the rest.
    """

    def compiled(call: _Call) -> Callable[..., Any] | None:
      if should_stop():
        return None
      name, arguments, keywords = call
      program = jax.jit(
        functools.partial(getattr(self.network, name), **keywords),
        # The old state of decoding; its memory is used again.
        donate_argnums=4 if name == "advance" else (),
      )
      return program.lower(self._params, *arguments).compile()

    wanted = {_key(*call): call for call in self._calls()}
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
      found = zip(wanted, pool.map(compiled, wanted.values()), strict=True)
      self._programs.update({key: x for key, x in found if x is not None})
    _return_memory()

  def __len__(self) -> int:
    return len(self._programs)

  def __call__(self, name: str, *arguments: Any, **keywords: int) -> Any:
    """Calls the method `name` of the network; it must have been compiled."""
    program = self._programs[_key(name, arguments, keywords)]
    return program(self._params, *arguments)

  def _calls(self) -> Iterator[_Call]:
    """Yields every call that a batch makes, some more than once."""
    for shape in self.shapes:
      for rows in self.shapes.rows_of(shape):
        yield from self._calls_of(shape, rows)

  def _calls_of(self, shape: Shape, B: int) -> Iterator[_Call]:
    config = self.network.config
    tokens = _array(B, shape.length)
    rows = _array(B)
    yield "encode", (self.table.array, tokens, rows, rows), {}
    dtype = jnp.dtype(config.dtype)
    encoded = _array(B, shape.length, config.emb_dim, dtype=dtype)
    if shape.kind == "rank":
      labels = PackedLabels(*[_array(B, shape.steps)] * 3)
      yield "score", (encoded, tokens, labels), {}
      return
    keywords = {"steps": shape.steps}
    if shape.kind == "beam":
      yield "search", (encoded, tokens), {**keywords, "beams": shape.beams}
      return
    for all_rows in self.shapes.rows_of(shape):
      if all_rows >= B:  # Rows may share inputs.
        more = _array(all_rows)
        yield "begin", (encoded, tokens, more, more), keywords
    state, attended = jax.eval_shape(
      functools.partial(self.network.begin, **keywords),
      self._params,
      encoded,
      tokens,
      rows,
      rows,
    )
    sampling = Sampling(
      rows,
      _array(B, dtype=jnp.float32),
      *[_array(B, dtype=jnp.uint32)] * 2,
      _array(dtype=jnp.bool_),
    )
    yield "advance", (attended, tokens, sampling, state, _array()), {}


def _key(name: str, arguments: Any, keywords: dict[str, int]) -> Any:
  shapes = [x.shape for x in jax.tree.leaves(arguments)]
  return name, *shapes, *keywords.items()


def _return_memory() -> None:
  """Returns memory that compiling has freed, which glibc would keep."""
  trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
  if trim is not None:
    trim(0)


def _array(*shape: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, dtype)
