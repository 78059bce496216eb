"""The programs of every batch shape, and the prompts that they read."""

from collections.abc import Callable, Iterator, Sequence
import concurrent.futures
import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from prompt_tuning.inference.batch_queue import Settings, Shape
from prompt_tuning.inference.frozen_model import FrozenModel
from prompt_tuning.inference.ranking import PackedLabels
from prompt_tuning.inference.requests import TunedPrompt
from prompt_tuning.inference.sampling import Sampling
from t5x.files import kept_programs
from t5x.formats import stored_arrays

# A method of `Network`, its arguments after the parameters, and its keywords.
_Call = tuple[str, tuple[Any, ...], dict[str, int]]


@functools.partial(jax.jit, donate_argnums=0)
def _put(table: Any, slots: jax.Array, rows: Any) -> Any:
  """Puts rows in their slots; a slot that does not exist leaves one out."""
  return jax.tree.map(
    lambda x, new: x.at[slots].set(new, mode="drop"), table, rows
  )


class PromptTable:
  """A table of prompts, for one thread.

  Prompts are copied to the device when a batch first needs them, into the slots
  that were used least recently. No copy compiles a program.

  Attributes:
    arrays: The results of `compute` for the prompts, with the slots as axis 0.
      The positions after the end of a prompt are computed from zeros.
    swaps: Number of prompts that were copied in.
  """

  def __init__(
    self,
    slots: int,
    longest: int,
    width: int,
    compute: Callable[[Any], Any] = lambda prompts: prompts,
    sizes: Sequence[int] = (1,),
  ):
    """Makes a table of zeros, and compiles the copies.

    Args:
      slots: Number of prompts that it holds.
      longest: Positions of the longest prompt.
      width: H.
      compute: `Network.table`, of some prompts, [n, longest, H].
      sizes: How many prompts may be copied at once, increasing from 1.
    """
    self._shape = (longest, width)
    self._compute = compute
    self._sizes = sizes
    self._number = slots
    self.swaps = 0
    self._slots: dict[TunedPrompt, int] = {}  # The oldest use is first.
    row = jax.eval_shape(compute, np.zeros((1, *self._shape), np.float32))
    self.arrays = jax.tree.map(
      lambda x: jnp.zeros((slots, *x.shape[1:]), x.dtype), row
    )
    for size in sizes:
      self._copy([None] * size, [slots] * size)

  @property
  def nbytes(self) -> int:
    """The memory of the table."""
    return sum(x.nbytes for x in jax.tree.leaves(self.arrays))

  @property
  def is_lost(self) -> bool:
    """True after a failed copy that had taken over the old table's memory."""
    return any(x.is_deleted() for x in jax.tree.leaves(self.arrays))

  @property
  def occupied(self) -> int:
    """Number of prompts that it holds."""
    return len(self._slots)

  def slots_of(self, prompts: Sequence[TunedPrompt | None]) -> np.ndarray:
    """Returns the slots of a batch's prompts, [B] int32; 0 for no prompt.

    Args:
      prompts: The prompt of each row; at most as many different ones as slots.
    """
    needed = {prompt for prompt in prompts if prompt is not None}
    assert len(needed) <= self._number
    for prompt in needed & self._slots.keys():
      self._slots[prompt] = self._slots.pop(prompt)
    new = list(needed - self._slots.keys())
    for start in range(0, len(new), self._sizes[-1]):
      some = new[start : start + self._sizes[-1]]
      free = [*range(self.occupied, self._number)][: len(some)]
      # The batch does not need the oldest.
      oldest = list(self._slots)[: len(some) - len(free)]
      slots = [*free, *(self._slots[prompt] for prompt in oldest)]
      # It can run out of memory; the oldest then keep their slots.
      self._copy(some, slots)
      for prompt in oldest:
        del self._slots[prompt]
      self._slots.update(zip(some, slots, strict=True))
      self.swaps += len(some)
    places = [0 if x is None else self._slots[x] for x in prompts]
    return np.array(places, np.int32)

  def _copy(
    self, prompts: Sequence[TunedPrompt | None], slots: Sequence[int]
  ) -> None:
    size = next(x for x in self._sizes if x >= len(prompts))
    rows = np.zeros((size, *self._shape), np.float32)
    for row, prompt in zip(rows, prompts, strict=False):
      if prompt is not None:
        row[: prompt.length] = prompt.array
    places = np.full(size, self._number, np.int32)
    places[: len(slots)] = slots
    self.arrays = _put(self.arrays, places, self._compute(jax.device_put(rows)))


class CompiledPrograms:
  """The compiled methods of a network; calls never compile anything.

  Attributes:
    network: The functions.
    table: The prompts.
    shapes: The shapes of batches.
  """

  def __init__(self, model: FrozenModel, settings: Settings):
    """Compiles nothing yet."""
    self.network = model.network
    table, sizes = model.network.table, settings.shapes.rows
    if model.network.keeps_prompts:
      # Not more than there are, as each is computed.
      table, sizes = jax.jit(table), (1,)
    self.table = PromptTable(
      settings.slots,
      settings.longest_prompt,
      model.config.emb_dim,
      functools.partial(table, model.params),
      sizes,
    )
    self.shapes = settings.shapes
    self._chunk = settings.chunk
    self._params = model.params
    self._programs: dict[Any, jax.stages.Compiled] = {}

  def compile(self, should_stop: Callable[[], bool]) -> None:
    """Compiles the programs of all shapes, several at a time.

    Args:
      should_stop: Called before each; True skips the rest.
    """

    with (
      kept_programs.keeping("prompt_tuning", "t5x") as compile_or_read,
      concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
    ):

      def compiled(call: _Call) -> jax.stages.Compiled | None:
        if should_stop():
          return None
        name, arguments, keywords = call
        program = jax.jit(
          functools.partial(getattr(self.network, name), **keywords),
          # The old state of decoding; its memory is used again.
          donate_argnums={"advance": 4, "join": 1}.get(name, ()),
        )

        lower = functools.partial(program.lower, self._params, *arguments)
        return compile_or_read(lower, self._description(call))

      for calls in self._encoding, self._beginning, self._continuing:
        wanted = {
          _key(*call): call
          for shape in self.shapes
          for rows in self.shapes.rows_of(shape)
          for call in calls(shape, rows)
        }
        found = dict(
          zip(wanted, pool.map(compiled, wanted.values()), strict=True)
        )
        self._programs |= {k: x for k, x in found.items() if x is not None}
        if None in found.values():  # It was stopped.
          break
    stored_arrays.return_freed_memory()  # What compiling has taken.

  def _description(self, call: _Call) -> str:
    """Returns what tells a program from all others; see `kept_programs`."""
    name, arguments, keywords = call
    leaves, tree = jax.tree.flatten((self._params, *arguments))
    types = [f"{x.dtype}{x.shape}" for x in leaves]
    network = self.network.config, self.network.eos_id
    return repr((name, keywords, network, types, str(tree)))

  def __len__(self) -> int:
    return len(self._programs)

  def __call__(self, name: str, *arguments: Any, **keywords: int) -> Any:
    """Calls the method `name` of the network; it must have been compiled."""
    program = self._programs[_key(name, arguments, keywords)]
    return program(self._params, *arguments)

  def _outputs(self, call: _Call) -> Any:
    """Returns what a compiled call makes, as shapes."""
    made = self._programs[_key(*call)].out_info
    return jax.tree.map(lambda x: _array(*x.shape, dtype=x.dtype), made)

  # What a batch of B rows calls first, then, and then again and again. Another
  # batch may make the same calls.

  def _encoding(self, shape: Shape, B: int) -> Iterator[_Call]:
    rows = _array(B)
    inputs = (self.table.arrays, _array(B, shape.length), rows, rows)
    yield "encode", inputs, {}

  def _beginning(self, shape: Shape, B: int) -> Iterator[_Call]:
    (encode,) = self._encoding(shape, B)
    inputs = (self._outputs(encode), _array(B, shape.length))
    keywords = {"steps": shape.steps}
    if shape.kind == "rank":
      labels = PackedLabels(*[_array(B, shape.steps)] * 3)
      yield "score", (*inputs, labels), {}
    elif shape.kind == "beam":
      yield "search", inputs, {**keywords, "beams": shape.beams}
    else:
      for all_rows in self.shapes.rows_of(shape):
        if all_rows >= B:  # Rows may share inputs.
          yield "begin", (*inputs, *[_array(all_rows)] * 2), keywords

  def _continuing(self, shape: Shape, B: int) -> Iterator[_Call]:
    first = next(self._beginning(shape, B))
    if first[0] != "begin":
      return
    begun = state, attended = self._outputs(first)
    for all_rows in self.shapes.rows_of(shape):
      if all_rows > B and shape.steps > self._chunk:
        running = jax.tree.map(
          lambda x, n=all_rows: _array(n, *x.shape[1:], dtype=x.dtype), begun
        )
        yield "join", (running, begun, _array(B)), {}
    sampling = Sampling(
      _array(B),
      _array(B, dtype=jnp.float32),
      *[_array(B, dtype=jnp.uint32)] * 2,
      _array(dtype=jnp.bool_),
    )
    tokens = _array(B, shape.length)
    yield "advance", (attended, tokens, sampling, state, _array()), {}


def _key(name: str, arguments: Any, keywords: dict[str, int]) -> Any:
  shapes = [x.shape for x in jax.tree.leaves(arguments)]
  return name, *shapes, *keywords.items()


def _array(*shape: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, dtype)
