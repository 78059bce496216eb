"""The soft prompt `[P, H]`: its initialisers, its module and its position.

An initialiser is `init(rng, [P, H], dtype) -> [P, H]`, as in
`flax.linen.initializers`; each function below returns one. They take arrays,
not paths: an initialiser runs inside traces, once in each process, and cannot
read checkpoints or files there.
"""

from collections.abc import Callable, Sequence
import functools
from typing import ClassVar, Protocol

import flax.linen as nn
from flax.linen import partitioning
import jax
import jax.numpy as jnp
import numpy as np
from pydantic import PositiveInt

from prompt_tuning.types import Array, DType, Initializer, PRNGKey


class Vocabulary(Protocol):
  """The part of seqio.Vocabulary that this module needs.

  It may have the attributes `unk_id`, the id of unknown pieces, and
  `of_inputs`, the vocabulary of inputs if they are encoded differently.
  """

  def encode(self, s: str) -> Sequence[int]: ...


def random_uniform(minval: float = -0.5, maxval: float = 0.5) -> Initializer:
  """Samples from U[minval, maxval).

  The paper says U[-0.5, 0.5] (section 3.2); the code released with it samples
  from [0, 0.5).
  """

  def init(
    rng: PRNGKey, shape: tuple[int, int], dtype: DType = jnp.float32
  ) -> Array:
    return jax.random.uniform(rng, shape, dtype, minval, maxval)

  return init


def sampled_vocab(
  embeddings: Array | np.ndarray, population_size: int = 5000
) -> Initializer:
  """Copies the embeddings of distinct tokens drawn from the most frequent ones.

  Section 3.2 of the paper. SentencePiece ids are ordered by frequency.

  Args:
    embeddings: [V, H] The token embeddings of the frozen model.
    population_size: Number of tokens to draw from, at the start of the
      vocabulary.

  Returns:
    An initialiser, which raises ValueError if the prompt has more positions
    than `population_size`, or if the widths differ.

  Raises:
    ValueError: if there are fewer tokens than `population_size`.
  """
  table = _check_table(embeddings)
  if population_size > len(table):
    raise ValueError(
      f"Expected at least population_size={population_size} token embeddings "
      f"to sample from, got {len(table)}. Lower it: "
      f"--gin.prompts.sampled_vocab.population_size={len(table)}, or less "
      "if the last rows are not tokens."
    )
  # A copy, because the initialiser outlives the table.
  population = np.array(table[:population_size])

  def init(
    rng: PRNGKey, shape: tuple[int, int], dtype: DType = jnp.float32
  ) -> Array:
    _check_width(population, shape)
    if shape[0] > population_size:
      raise ValueError(
        f"A prompt of {shape[0]} positions needs as many different tokens, "
        f"but population_size is {population_size}. Raise it, or shorten the "
        "prompt (--gin.prompts.sampled_vocab.population_size, PROMPT_LENGTH)."
      )
    rows = jax.random.choice(rng, population_size, shape[:1], replace=False)
    return jnp.asarray(population, dtype)[rows]

  return init


def class_labels(
  embeddings: Array | np.ndarray,
  vocabulary: Vocabulary,
  labels: Sequence[str],
  rest: Initializer,
) -> Initializer:
  """Starts from the words that the model should answer with.

  As in section 3.2 of the paper, each label initialises one position, with the
  mean embedding of its pieces. `rest` initialises the other positions.

  Args:
    embeddings: [V, H] The token embeddings of the frozen model.
    vocabulary: Splits a label into pieces.
    labels: The words for the first positions of the prompt.
    rest: Initialiser of the other positions, for example
      `sampled_vocab(embeddings)`.

  Returns:
    An initialiser, which raises ValueError if there are more labels than
    positions, or the widths differ.

  Raises:
    ValueError: if a label has no pieces, or an unknown piece.
  """
  table = _check_table(embeddings)
  unknown = getattr(vocabulary, "unk_id", None)
  means = np.zeros((len(labels), table.shape[1]), np.float32)
  for row, label in zip(means, labels, strict=True):
    pieces = list(vocabulary.encode(label))
    if not pieces or max(pieces) >= len(table) or unknown in pieces:
      raise ValueError(
        f"Expected class label {label!r} to have known pieces with ids below "
        f"{len(table)}, got {pieces}"
        + (f", of which {unknown} is unknown" if unknown in pieces else "")
        + ". Check CLASS_LABELS, and that the vocabulary is the model's."
      )
    row[:] = table[pieces].mean(axis=0)

  def init(
    rng: PRNGKey, shape: tuple[int, int], dtype: DType = jnp.float32
  ) -> Array:
    if len(labels) > shape[0]:
      raise ValueError(
        f"Got {len(labels)} class labels for a prompt of length {shape[0]}. "
        f"Lengthen it, --gin.PROMPT_LENGTH={len(labels)} or more, "
        "or choose the labels, --gin.CLASS_LABELS='[...]'."
      )
    _check_width(means, shape)
    return rest(rng, shape, dtype).at[: len(labels)].set(means.astype(dtype))

  return init


def from_array(prompt: Array | np.ndarray) -> Initializer:
  """Starts from a trained prompt.

  Args:
    prompt: [P, H] The trained prompt, or [K, P, H] for several.

  Returns:
    An initialiser, which raises ValueError for any other shape.
  """
  array = np.asarray(prompt, np.float32)

  def init(
    rng: PRNGKey, shape: tuple[int, int], dtype: DType = jnp.float32
  ) -> Array:
    del rng
    if array.shape != tuple(shape):
      raise ValueError(
        f"Expected a prompt of shape {tuple(shape)}, got {array.shape}. Set "
        "PROMPT_LENGTH to its length, NUM_PROMPTS to the number of files, and "
        "use it with a model of the size it was trained for."
      )
    return jnp.asarray(array, dtype)

  return init


class Prompt(nn.Module):
  """The parameter `prompt`, [P, H], in float32.

  Attributes:
    length: Positions, P.
    prompt_init: Initialiser.
  """

  length: int
  prompt_init: Initializer = random_uniform()

  replicated_axes: ClassVar[tuple[str, ...]] = ("prompt", "prompt_embed")

  @nn.compact
  def __call__(self, tokens: Array, embedded: Array) -> Array:
    """Returns the prompt for a batch.

    Args:
      tokens: [B, T] Token ids. Unused: every example gets the same prompt.
      embedded: [B, T, H] The embedded tokens.

    Returns:
      [P, H] in the dtype of `embedded`.
    """
    del tokens
    prompt = partitioning.param_with_axes(
      "prompt",
      self.prompt_init,
      (self.length, embedded.shape[-1]),
      jnp.float32,
      axes=("prompt", "prompt_embed"),
    )
    return prompt.astype(embedded.dtype)


def prompt_factory(
  length: PositiveInt, prompt_init: Initializer
) -> Callable[..., Prompt]:
  """Configures the `Prompt` of a model in gin files.

  gin makes the initialiser once, when it calls this function, before the model
  exists. If gin bound `Prompt` itself, it would make one in every trace.

  Args:
    length: Positions, P.
    prompt_init: Initialiser.

  Returns:
    A function from a name to the module, for `Injections.prompt`.
  """
  return functools.partial(Prompt, length=length, prompt_init=prompt_init)


def prepend_prompt(prompt: Array, embedded: Array) -> Array:
  """Puts the prompt in front of every example.

  Args:
    prompt: [P, H], shared by the batch, or [B, P, H], one for each example.
    embedded: [B, T, H] Embedded input tokens.

  Returns:
    [B, P + T, H] The prompted input, in the dtype of `embedded`.

  Raises:
    ValueError: if the two disagree on H or, for [B, P, H], on B.
  """
  batch, _, width = embedded.shape
  if prompt.ndim == 2:
    prompt = jnp.broadcast_to(prompt, (batch, *prompt.shape))
  if prompt.ndim != 3 or prompt.shape[::2] != (batch, width):
    raise ValueError(
      f"Expected a prompt of shape [P, {width}] or [{batch}, P, {width}], "
      f"got {list(prompt.shape)}."
    )
  return jnp.concatenate([prompt.astype(embedded.dtype), embedded], axis=1)


def _check_table(embeddings: Array | np.ndarray) -> np.ndarray:
  table = np.asarray(embeddings, np.float32)
  if table.ndim != 2:
    raise ValueError(
      "Expected token embeddings of shape [V, H], got "
      f"{list(table.shape)}. Take them from the frozen model."
    )
  return table


def _check_width(rows: np.ndarray, shape: tuple[int, int]) -> None:
  if rows.shape[1] != shape[1]:
    raise ValueError(
      f"Expected token embeddings of shape [V, {shape[1]}], the width of the "
      f"prompt, got width {rows.shape[1]}. Take them from the frozen model; if "
      "they are, its checkpoint has another size than its gin file."
    )
