"""A prompt for several tasks: shared positions, and a row for each task.

The prompt of an example is the shared prompt, [P, H], plus the row, [H], of its
task at every position. A task costs H parameters instead of P * H, and common
knowledge is learned once. Multitask Prompt Tuning (Wang et al., 2023) uses a
product of rank one instead of the sum.

The input of an example must start with the task's name, as T5's multi-task
inputs do ("boolq passage: ..."): the seqio tasks `*_prefixed`. So a batch may
mix tasks, and training, evaluation and generation need no additional feature.
The frozen model reads the name as well.
"""

from collections.abc import Callable, Sequence
import functools
import itertools
import re
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from pydantic import PositiveInt

from prompt_tuning.methods.parameters import parameter
from prompt_tuning.prompts import Prompt, Vocabulary, random_uniform
from prompt_tuning.types import Array, Initializer


class MultitaskPrompt(nn.Module):
  """The parameters `shared/prompt`, [P, H], and `task_<name>`, [H], in float32.

  The rows are separate parameters, not a matrix, so that a checkpoint names the
  task of each row: it cannot be restored for other tasks, or in another order,
  by mistake. They are initially zero.

  Attributes:
    length: Positions, P.
    prefixes: The first word of the inputs of each task, such as "boolq ".
    vocabulary: The model's.
    prompt_init: Initialiser of the shared prompt.
  """

  length: int
  prefixes: Sequence[str]
  vocabulary: Vocabulary
  prompt_init: Initializer = random_uniform()

  replicated_axes: ClassVar[tuple[str, ...]] = ("prompt", "prompt_embed")

  @nn.compact
  def __call__(self, tokens: Array, embedded: Array) -> Array:
    """Returns the prompts of a batch.

    Args:
      tokens: [B, T] Token ids.
      embedded: [B, T, H] The embedded tokens.

    Returns:
      [B, P, H] in the dtype of `embedded`; NaN for an input that starts with
      none of the prefixes, unless it is all padding. NaN ends a training run by
      its loss, but generation turns it into an arbitrary answer without an
      error. `superglue.prefixes_of` refuses tasks without prefixes; a user
      of TASK_PREFIXES has to ensure that all inputs have one.

    Raises:
      ValueError: if two tasks have the same name, or one prefix is the start of
        another, so that an input could match both.
    """
    pieces = {
      re.sub(r"\W+", "_", prefix).strip("_"): list(
        self.vocabulary.encode(prefix)
      )
      for prefix in self.prefixes
    }
    every = pieces.values()
    if len(pieces) < len(self.prefixes) or not pieces or not all(every):
      raise ValueError(
        f"Expected one prefix for each task, got {list(self.prefixes)}. Give "
        "every task once."
      )
    for (name, ids), (other, longer) in itertools.permutations(
      pieces.items(), 2
    ):
      if longer[: len(ids)] == ids:
        raise ValueError(
          "Expected prefixes that tell the tasks apart, but the prefix of "
          f"{other!r} starts with that of {name!r}. Leave one of them out."
        )
    shared = Prompt(self.length, self.prompt_init, name="shared")
    prompt = shared(tokens, embedded)[None]  # [1, P, H]
    is_padding = (tokens == 0).all(axis=1, keepdims=True)  # [B, 1]
    row, zeros = jnp.where(is_padding, 0.0, jnp.nan), nn.initializers.zeros
    for name, ids in pieces.items():
      own = parameter(
        f"task_{name}", zeros, embedded.shape[-1:], ("prompt_embed",)
      )
      # Shapes may be traced with fewer positions than the prefix has.
      start = jnp.pad(tokens, ((0, 0), (0, len(ids))))[:, : len(ids)]
      is_own = (start == jnp.asarray(ids)[None]).all(axis=1, keepdims=True)
      row = jnp.where(is_own, own[None], row)  # [B, H]
    return prompt + row[:, None].astype(embedded.dtype)


def prompt_factory(
  length: PositiveInt,
  prefixes: Sequence[str],
  vocabulary: Vocabulary,
  prompt_init: Initializer,
) -> Callable[..., MultitaskPrompt]:
  """Configures `MultitaskPrompt` in gin files; see `prompts.prompt_factory`."""
  return functools.partial(
    MultitaskPrompt,
    length=length,
    prefixes=prefixes,
    vocabulary=vocabulary,
    prompt_init=prompt_init,
  )
