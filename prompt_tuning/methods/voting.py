"""Several prompts in one batch, and their vote (section 6 of the paper).

An ensemble of tuned models needs all of the models. An ensemble of prompts runs
one model on one batch, which has every example once for each prompt, and takes
the most frequent answer.
"""

from collections.abc import Callable
import functools
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from pydantic import PositiveInt

from prompt_tuning.methods.parameters import parameter
from prompt_tuning.types import Array, Initializer


class Prompts(nn.Module):
  """The parameter `prompt`, [K, P, H], in float32.

  Attributes:
    num_prompts: Number of prompts, K.
    length: Positions of each prompt, P.
    prompt_init: Initialiser.
  """

  num_prompts: PositiveInt
  length: PositiveInt
  prompt_init: Initializer

  replicated_axes: ClassVar = ("prompts", "prompt", "prompt_embed")

  @nn.compact
  def __call__(self, tokens: Array, embedded: Array) -> Array:
    """Returns a prompt for each row: row i gets prompt i mod K.

    Args:
      tokens: [B, T] Token ids. Unused.
      embedded: [B, T, H] The embedded tokens.

    Returns:
      [B, P, H] in the dtype of `embedded`.
    """
    del tokens
    B, _, H = embedded.shape
    shape = (self.num_prompts, self.length, H)
    prompts = parameter("prompt", self.prompt_init, shape, self.replicated_axes)
    return jnp.resize(prompts.astype(embedded.dtype), (B, self.length, H))


def prompts_factory(
  num_prompts: PositiveInt, length: PositiveInt, prompt_init: Initializer
) -> Callable[..., Prompts]:
  """Configures `Prompts` in gin files; see `prompts.prompt_factory`."""
  return functools.partial(
    Prompts, num_prompts=num_prompts, length=length, prompt_init=prompt_init
  )


def majority(answers: Array) -> tuple[Array, Array]:
  """Finds the most frequent answer.

  Args:
    answers: [B, K, S] Token ids.

  Returns:
    [B, S] The answer, which is the first one in a tie, and [B] the share of
    prompts that give it.
  """
  same = (answers[:, :, None] == answers[:, None]).all(axis=-1)  # [B, K, K]
  votes = same.mean(axis=-1)
  winner = jnp.argmax(votes, axis=1)[:, None]
  answer = jnp.take_along_axis(answers, winner[..., None], axis=1)[:, 0]
  return answer, jnp.take_along_axis(votes, winner, axis=1)[:, 0]
