"""A table of prompts on the device, whose slots are reused."""

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

  A prompt is copied to the device when a batch first needs it, into the slot
  that was used least recently. Only the first copy compiles a program.

  Attributes:
    array: The table. Rows after the end of a prompt are zero.
    swaps: Number of prompts that were copied in.
  """

  def __init__(self, slots: int, longest: int, width: int):
    """Makes a table of zeros.

    Args:
      slots: Number of prompts that it holds.
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
    """Number of prompts that it can hold."""
    return len(self.array)

  @property
  def is_lost(self) -> bool:
    """True after a failed copy destroyed the table."""
    return self.array.is_deleted()

  @property
  def occupied(self) -> int:
    """Number of prompts that it holds."""
    return len(self._slots)

  def slots_of(self, prompts: Sequence[Prompt | None]) -> np.ndarray:
    """Returns the slots of a batch's prompts, [B] int32; 0 for no prompt.

    Args:
      prompts: The prompt of each row; at most as many different ones as slots.
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
    oldest, slot = None, self.occupied
    if slot == self.size:  # Prompts that the batch needs are not the oldest.
      oldest, slot = next(iter(self._slots.items()))
    rows = np.zeros(self.array.shape[1:], np.float32)
    rows[: prompt.length] = prompt.array
    # Both can run out of memory; the oldest prompt then keeps its slot.
    copied = jnp.asarray(rows)
    self.array = _put(self.array, jnp.int32(slot), copied)
    if oldest is not None:
      del self._slots[oldest]
    self._slots[prompt] = slot
    self.swaps += 1
