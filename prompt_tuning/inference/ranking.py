"""Rank classification: the answer is the label that the model finds likeliest.

T5 answers by generating text, which need not be a legal label. Ranking scores
every label and takes the best, so the answer is always legal. The encoder runs
once per example.

`rank_labels` takes the place of a decoding function of T5X, and so works with
every method and every command that decodes. The server and the Python door
score all labels in one pass of the decoder; see `programs.Network.score`.
"""

from collections.abc import Callable, Sequence
import types
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
from pydantic import Field

if TYPE_CHECKING:
  from seqio import Vocabulary
else:  # seqio brings TensorFlow, which ranking does without.
  Vocabulary = Any


def num_labels(labels: Sequence[str]) -> int:
  """Returns the number of labels, which T5X calls `num_decodes`."""
  return len(labels)


def rank_labels(
  inputs: jax.Array,
  cache: Any,
  tokens_to_logits: Callable[[Any], tuple[jax.Array, Any]],
  eos_id: int,
  num_decodes: int,
  labels: Annotated[Sequence[str], Field(min_length=1)],
  vocabulary: Vocabulary,
  normalize: bool = False,
  **unused: Any,
) -> tuple[jax.Array, jax.Array]:
  """Scores the labels of a task; a decoding function for `t5x.models`.

  Args:
    inputs: [B, S] Only the shape is used.
    cache: The decoder's empty cache for B rows.
    tokens_to_logits: Decodes one token of B * L rows: an object with
      `cur_index`, `cur_token` [B * L, 1] and `cache` -> logits [B * L, V] and
      the cache.
    eos_id: The vocabulary's end of sequence, which is scored too.
    num_decodes: L, the number of labels.
    labels: The labels to choose from.
    vocabulary: The model's vocabulary.
    normalize: Whether to divide a score by its number of tokens, so that long
      labels are not at a disadvantage.
    **unused: Arguments of other decoding functions.

  Returns:
    [B, L, S] The labels and [B, L] their log likelihoods in nats, the best
    last.

  Raises:
    ValueError: if `num_decodes` is not L, a label is longer than S, or for the
      reasons of `encode_labels`.
  """
  del unused
  B, S = inputs.shape
  L = len(labels)
  if num_decodes != L:
    raise ValueError(
      f"Expected num_decodes to be the number of labels, {L}, got "
      f"{num_decodes}."
    )
  padded, lengths = _padded_labels(labels, vocabulary, eos_id, S)
  steps = int(lengths.max())

  def score_token(carried, column):
    token, counts = column  # [L]
    state = types.SimpleNamespace(**carried)
    logits, cache = tokens_to_logits(state)
    token = jnp.tile(token, B)[:, None]  # [B * L, 1]
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    score = jnp.take_along_axis(log_probs, token, axis=1)[:, 0]
    index = state.cur_index + 1
    carried = {"cur_index": index, "cur_token": token, "cache": cache}
    return carried, jnp.where(jnp.tile(counts, B), score, 0.0)

  cache = jax.tree.map(
    lambda x: jnp.repeat(x, L, axis=0) if jnp.ndim(x) else x, cache
  )
  token = jnp.zeros((B * L, 1), jnp.int32)
  _, scores = lax.scan(
    score_token,
    {"cur_index": jnp.int32(0), "cur_token": token, "cache": cache},
    (
      jnp.asarray(padded.T[:steps]),
      jnp.asarray(np.arange(steps)[:, None] < lengths),
    ),
  )
  scores = scores.sum(axis=0).reshape(B, L)
  if normalize:
    scores /= lengths[None]
  order = jnp.argsort(scores, axis=1)
  return (
    jnp.asarray(padded)[order],
    jnp.take_along_axis(scores, order, axis=1),
  )


def _padded_labels(
  labels: Sequence[str], vocabulary: Vocabulary, eos_id: int, length: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns [L, length] tokens, and [L] their number without padding.

  Raises:
    ValueError: as `rank_labels`.
  """
  encoded = encode_labels(labels, vocabulary, eos_id)
  padded = np.zeros((len(labels), length), np.int32)
  for label, row, tokens in zip(labels, padded, encoded, strict=True):
    if len(tokens) > length:
      raise ValueError(
        f"The label {label!r} has {len(tokens)} tokens, the targets {length}. "
        "Set longer targets: for t5x.train with "
        "--gin.infer_eval/utils.DatasetConfig.task_feature_lengths, for "
        "t5x.eval with --gin.utils.DatasetConfig.task_feature_lengths, for "
        "t5x.infer with --gin.TASK_FEATURE_LENGTHS."
      )
    row[: len(tokens)] = tokens
  return padded, np.array(list(map(len, encoded)))


def encode_labels(
  labels: Sequence[str], vocabulary: Vocabulary, eos_id: int
) -> list[tuple[int, ...]]:
  """Returns the tokens of each label, with the end of sequence.

  Raises:
    ValueError: if the vocabulary does not know a label, or it writes two labels
      the same way.
  """
  encoded = [(*vocabulary.encode(label), eos_id) for label in labels]
  unknown = getattr(vocabulary, "unk_id", None)
  for label, tokens in zip(labels, encoded, strict=True):
    if len(tokens) < 2 or unknown in tokens:
      raise ValueError(
        f"Expected labels that the vocabulary knows, got {label[:80]!r}, which "
        f"has the tokens {list(tokens[:-1])}, where {unknown} means unknown. "
        "Check the labels (in gin, RANKED_LABELS)."
      )
  if len(set(encoded)) < len(encoded):
    shown = ", ".join(map(repr, labels))[:200]
    raise ValueError(
      f"Expected labels that differ in their tokens, got {shown}."
    )
  return encoded


class PackedLabels(NamedTuple):
  """The labels of every row of a batch, one after another.

  Attributes:
    tokens: [B, U] int32; 0 after the last label.
    inputs: [B, U] The same, each label shifted one to the right.
    numbers: [B, U] The number of the label that a token belongs to, from 1.
  """

  tokens: Any
  inputs: Any
  numbers: Any


def pack_labels(
  labels: Sequence[Sequence[Sequence[int]]], rows: int, length: int
) -> PackedLabels:
  """Packs the labels of each row for scoring in one pass of the decoder.

  Args:
    labels: For each row, the tokens of its labels.
    rows: B, at least as many.
    length: U, at least the number of tokens of each row's labels.
  """
  shape = (3, rows, length)
  packed = PackedLabels(*np.zeros(shape, np.int32))
  for row, own in enumerate(labels):
    start = 0
    for number, label in enumerate(own, 1):
      place = slice(start, start + len(label))
      packed.tokens[row, place] = label
      packed.inputs[row, place] = [0, *label[:-1]]
      packed.numbers[row, place] = number
      start += len(label)
  return packed


def label_scores(labels: PackedLabels, log_probs: Any) -> np.ndarray:
  """Sums the log probabilities of tokens [B, U] by label.

  Returns:
    [B, L] Log likelihoods in nats, L the most labels of a row.
  """
  count = int(labels.numbers.max()) + 1
  sums = [
    np.bincount(numbers, values, minlength=count)
    for numbers, values in zip(
      labels.numbers, np.asarray(log_probs), strict=True
    )
  ]
  return np.stack(sums)[:, 1:]
