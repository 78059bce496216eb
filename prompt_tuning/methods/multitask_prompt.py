"""A prompt for several tasks: shared positions, and a row for each task.

The prompt of an example is the shared prompt, [P, H], plus the row, [H], of its
task at every position. A task costs H parameters instead of P * H, and common
knowledge is learned once. Multitask Prompt Tuning (MPT; Wang et al., 2023) has
a product of rank one instead of the sum, and learns from the prompts of single
tasks too: see `teacher`.

The input of an example must start with the task's name, as T5's multi-task
inputs do ("boolq passage: ..."): the seqio tasks `*_prefixed`. So a batch may
mix tasks, and training, evaluation and generation need no additional feature.
The frozen model reads the name as well.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
import itertools
import re
import string
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from pydantic import PositiveInt

from prompt_tuning.injections import Injections
from prompt_tuning.methods.parameters import parameter
from prompt_tuning.prompts import Prompt, Vocabulary, random_uniform
from prompt_tuning.types import Array, Initializer


class MultitaskPrompt(nn.Module):
  """The parameters `shared/prompt`, [P, H], and those of each task, in float32.

  They are `task_<name>`, [H], which is added and initially zero. In a product,
  they are factors that are initially one: `task_<name>_positions`, [P], and
  `task_<name>_features`, [H].

  The tasks have separate parameters, not rows of a matrix, so that a checkpoint
  names the task of each: it cannot be restored for other tasks, or in another
  order, by mistake.

  Attributes:
    length: Positions, P.
    prefixes: The first word of the inputs of each task, such as "boolq ".
    vocabulary: The model's.
    prompt_init: Initialiser of the shared prompt.
    is_product: Whether the tasks have factors, as in MPT.
  """

  length: int
  prefixes: Sequence[str]
  vocabulary: Vocabulary
  prompt_init: Initializer = random_uniform()
  is_product: bool = False

  replicated_axes: ClassVar[tuple[str, ...]] = ("prompt", "prompt_embed")

  @nn.compact
  def __call__(self, tokens: Array, embedded: Array) -> Array:
    """Returns the prompts of a batch.

    Args:
      tokens: [B, T] Token ids.
      embedded: [B, T, H] The embedded tokens.

    Returns:
      [B, P, H] in the dtype of `embedded`; NaN for an input that starts with
      none of the prefixes, unless it is all padding. NaN in the loss ends a
      training run, but generation turns it into an arbitrary answer without an
      error. `task_rows.prefixes_of` refuses tasks without prefixes; a user
      of TASK_PREFIXES has to ensure that all inputs have one.

    Raises:
      ValueError: if two tasks have the same name, or one prefix is the start of
        another, so that an input could match both.
    """
    pieces = _pieces(self.prefixes, self.vocabulary)
    shared = Prompt(self.length, self.prompt_init, name="shared")
    prompt = shared(tokens, embedded)[None]  # [1, P, H]
    start = nn.initializers.ones if self.is_product else nn.initializers.zeros

    def own(name: str, size: int, axis: str) -> Array:
      return parameter(f"task_{name}", start, (size,), (axis,))

    def of_task(name: str) -> Array:
      width = embedded.shape[-1]
      if not self.is_product:
        return own(name, width, "prompt_embed")[None]
      positions = own(f"{name}_positions", self.length, "prompt")
      features = own(f"{name}_features", width, "prompt_embed")
      return positions[:, None] * features[None]

    of_tasks = [of_task(name) for name in pieces]
    row = _choose(tokens, pieces, of_tasks).astype(embedded.dtype)
    return prompt * row if self.is_product else prompt + row


class _Teachers(nn.Module):
  """The prompts of single tasks, each for the inputs of its task.

  Attributes:
    prompts: Prefix -> [P, H].
    vocabulary: The model's.
  """

  prompts: Mapping[str, np.ndarray]
  vocabulary: Vocabulary

  @nn.compact
  def __call__(self, tokens: Array, embedded: Array) -> Array:
    """Returns the prompts of a batch, as `MultitaskPrompt` does."""
    pieces = _pieces([*self.prompts], self.vocabulary)
    prompts = [jnp.asarray(x) for x in self.prompts.values()]
    return _choose(tokens, pieces, prompts).astype(embedded.dtype)


def teacher(
  prompts: Mapping[str, np.ndarray], vocabulary: Vocabulary
) -> Callable[[nn.Module], nn.Module]:
  """Configures the teachers of MPT in gin files, for `t5x.models`.

  Args:
    prompts: Prefix -> [P, H], of one length.
    vocabulary: The model's.

  Returns:
    A function from the network that trains to the same network with the
    teachers' prompts.

  Raises:
    ValueError: if the lengths differ.
  """
  if len({x.shape for x in prompts.values()}) != 1:
    shapes = {prefix: x.shape for prefix, x in prompts.items()}
    raise ValueError(f"Expected teachers of one shape, got {shapes}.")
  made = functools.partial(_Teachers, prompts=prompts, vocabulary=vocabulary)
  return lambda module: module.clone(injections=Injections(prompt=made))


def _pieces(
  prefixes: Sequence[str], vocabulary: Vocabulary
) -> dict[str, list[int]]:
  """Returns the first token ids of inputs by the names of their tasks."""
  pieces = {
    re.sub(r"\W+", "_", prefix).strip("_"): _start_of_inputs(prefix, vocabulary)
    for prefix in prefixes
  }
  if len(pieces) < len(prefixes) or not pieces or not all(pieces):
    raise ValueError(
      f"Expected one prefix for each task, got {list(prefixes)}. Give "
      "every task once."
    )
  for (name, ids), (other, longer) in itertools.permutations(pieces.items(), 2):
    if longer[: len(ids)] == ids:
      raise ValueError(
        "Expected prefixes that tell the tasks apart, but the prefix of "
        f"{other!r} starts with that of {name!r}. Leave one of them out."
      )
  return pieces


def _start_of_inputs(prefix: str, vocabulary: Vocabulary) -> list[int]:
  """Returns the token ids that all inputs with a prefix start with.

  A chat template or a start token comes before the prefix, and the prefix's
  last space may be one piece with the word that follows.
  """
  of_inputs = getattr(vocabulary, "of_inputs", vocabulary)
  inputs = [of_inputs.encode(prefix + x) for x in string.ascii_letters]
  same = itertools.takewhile(
    lambda ids: len(set(ids)) == 1, zip(*inputs, strict=False)
  )
  return [ids[0] for ids in same]


def _choose(
  tokens: Array, pieces: Mapping[str, list[int]], of_tasks: Sequence[Array]
) -> Array:
  """Returns for each input the array, [1 or P, H], of the task it starts with.

  The array is NaN for an input that belongs to no task, and zero for padding.
  """
  is_padding = (tokens == 0).all(axis=1)[:, None, None]
  chosen = jnp.where(is_padding, 0.0, jnp.nan)  # [B, 1, 1]
  for ids, own in zip(pieces.values(), of_tasks, strict=True):
    # Shapes may be traced with fewer positions than the prefix has.
    start = jnp.pad(tokens, ((0, 0), (0, len(ids))))[:, : len(ids)]
    is_own = (start == jnp.asarray(ids)[None]).all(axis=1)[:, None, None]
    chosen = jnp.where(is_own, own[None], chosen)
  return chosen


def prompt_factory(
  length: PositiveInt,
  prefixes: Sequence[str],
  vocabulary: Vocabulary,
  prompt_init: Initializer,
  is_product: bool = False,
) -> Callable[..., MultitaskPrompt]:
  """Configures `MultitaskPrompt` in gin files; see `prompts.prompt_factory`."""
  return functools.partial(
    MultitaskPrompt,
    length=length,
    prefixes=prefixes,
    vocabulary=vocabulary,
    prompt_init=prompt_init,
    is_product=is_product,
  )
