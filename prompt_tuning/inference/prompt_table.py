"""Prompts on the device: one array, whose places prompts take in turn."""

from collections import OrderedDict
from collections.abc import Sequence
import functools

import jax
import jax.numpy as jnp
import numpy as np

from prompt_tuning.inference.requests import Prompt


@functools.partial(jax.jit, donate_argnums=0)
def _put(table: jax.Array, slot: jax.Array, rows: jax.Array) -> jax.Array:
  return jax.lax.dynamic_update_slice(table, rows[None], (slot, 0, 0))


class PromptTable:
  """A table of prompts, [slots, longest, H] float32, for one thread.

  A prompt is copied to the device when a batch first needs it, in the place of
  the one that was not used for longest. Nothing is compiled for that after the
  first time.

  Attributes:
    array: The table. Rows behind the end of a prompt are zero.
    swaps: Prompts that were copied in, so far.
  """

  def __init__(self, slots: int, longest: int, width: int):
    """Makes a table of zeros.

    Args:
      slots: Prompts that it holds.
      longest: Positions of the longest prompt.
      width: H.
    """
    self.array = _put(
      jnp.zeros((slots, longest, width), jnp.float32),
      jnp.int32(0),
      jnp.zeros((longest, width), jnp.float32),
    )
    self.swaps = 0
    self._slots: OrderedDict[Prompt, int] = OrderedDict()  # Oldest use first.

  @property
  def size(self) -> int:
    """How many prompts it can hold."""
    return len(self.array)

  @property
  def is_lost(self) -> bool:
    """Whether a copy failed that took the table with it."""
    return self.array.is_deleted()

  @property
  def held(self) -> int:
    """How many prompts it holds."""
    return len(self._slots)

  def slots_of(self, prompts: Sequence[Prompt | None]) -> np.ndarray:
    """Returns where the prompts of a batch are, [B] int32; 0 for none.

    Args:
      prompts: Of each row; no more different ones than there are slots.
    """
    needed = {prompt for prompt in prompts if prompt is not None}
    assert len(needed) <= self.size
    for prompt in needed & self._slots.keys():
      self._slots.move_to_end(prompt)
    for prompt in needed - self._slots.keys():
      self._load(prompt)
    return np.array(
      [0 if prompt is None else self._slots[prompt] for prompt in prompts],
      np.int32,
    )

  def _load(self, prompt: Prompt) -> None:
    oldest, slot = None, self.held
    if slot == self.size:  # Those that the batch needs are the last.
      oldest, slot = next(iter(self._slots.items()))
    rows = np.zeros(self.array.shape[1:], np.float32)
    rows[: prompt.length] = prompt.array
    # Either may fail, for want of memory; then the oldest keeps its slot.
    copied = jnp.asarray(rows)
    self.array = _put(self.array, jnp.int32(slot), copied)
    if oldest is not None:
      del self._slots[oldest]
    self._slots[prompt] = slot
    self.swaps += 1
