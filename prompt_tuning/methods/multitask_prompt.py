"""A prompt for several tasks: positions that they share, and a row of each.

The prompt of an example is the shared prompt, [P, H], plus the row, [H], of its
task at every position. A task costs H parameters instead of P * H, and what the
tasks have in common is learned once; Multitask Prompt Tuning (Wang et al.,
2023) does it with a product of rank one instead of a sum.

The task of an example is read off its input, which has to begin with the task's
name, as T5's multi-task inputs do ("boolq passage: ..."): the seqio tasks
`*_prefixed`. So a batch may mix tasks, and training, evaluation and generation
need no feature of their own. The frozen model reads the name as well.
"""

from collections.abc import Callable, Sequence
import functools
import itertools
import re
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from prompt_tuning.methods.parameters import parameter
from prompt_tuning.prompts import Prompt, Vocabulary, random_uniform
from prompt_tuning.types import Array, Initializer


class MultitaskPrompt(nn.Module):
  """Owns `shared/prompt`, [P, H], and `task_<name>`, [H], in float32.

  The rows are parameters with names of their own, not a matrix, so that a
  checkpoint says which row is whose: other tasks, or the same in another order,
  cannot be given to it by mistake. They begin as zeros.

  Attributes:
    length: Positions, P.
    prefixes: What the inputs of each task begin with, such as "boolq ".
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
      [B, P, H] in the dtype of `embedded`; NaN where an input begins with none
      of the prefixes and is not padding alone. That makes a training loss NaN
      and ends the run; what is generated of NaN is no error, but an arbitrary
      answer, which evaluation and inference take for the model's.
      `superglue.prefixes_of` refuses tasks without prefixes; who gives
      TASK_PREFIXES sees to it.

    Raises:
      ValueError: if two tasks have the same name, or one prefix begins with
        another, so that an input could be of both.
    """
    pieces = {
      _name(prefix): list(self.vocabulary.encode(prefix))
      for prefix in self.prefixes
    }
    _check_distinct(self.prefixes, pieces)
    shared = Prompt(self.length, self.prompt_init, name="shared")
    prompt = shared(tokens, embedded)[None]  # [1, P, H]
    is_padding = (tokens == 0).all(axis=1, keepdims=True)  # [B, 1]
    row, zeros = jnp.where(is_padding, 0.0, jnp.nan), nn.initializers.zeros
    for name, ids in pieces.items():
      own = parameter(
        f"task_{name}", zeros, embedded.shape[-1:], ("prompt_embed",)
      )
      row = jnp.where(_begins_with(tokens, ids), own[None], row)  # [B, H]
    return prompt + row[:, None].astype(embedded.dtype)


def prompt_factory(
  length: int,
  prefixes: Sequence[str],
  vocabulary: Vocabulary,
  prompt_init: Initializer,
) -> Callable[..., MultitaskPrompt]:
  """Does for `MultitaskPrompt` what `prompts.prompt_factory` does."""
  return functools.partial(
    MultitaskPrompt,
    length=length,
    prefixes=prefixes,
    vocabulary=vocabulary,
    prompt_init=prompt_init,
  )


def _name(prefix: str) -> str:
  return re.sub(r"\W+", "_", prefix).strip("_")


def _check_distinct(
  prefixes: Sequence[str], pieces: dict[str, list[int]]
) -> None:
  if len(pieces) < len(prefixes) or not pieces or not all(pieces.values()):
    raise ValueError(
      f"Expected prefixes that name a task each, got {list(prefixes)}. Give "
      "every task once."
    )
  for (name, ids), (other, longer) in itertools.permutations(pieces.items(), 2):
    if longer[: len(ids)] == ids:
      raise ValueError(
        f"Expected prefixes that tell the tasks apart, but that of {other!r} "
        f"begins with that of {name!r}. Leave one of them out."
      )


def _begins_with(tokens: Array, ids: Sequence[int]) -> Array:
  """[B, T] -> [B, 1]: whether a row begins with `ids`."""
  # Shapes may be traced with fewer positions than the prefix has.
  start = jnp.pad(tokens, ((0, 0), (0, len(ids))))[:, : len(ids)]
  return jnp.all(start == jnp.asarray(ids)[None], axis=1, keepdims=True)
