"""Rank classification: the answer is the label that the model finds likeliest.

T5 answers by generating text, which may be no legal label. Ranking scores every
label of the task and takes the best, so that an answer is always legal. It
stands in for a decoding function of the model, and so serves every command that
decodes: the encoder runs once per example, the decoder on all its labels at
once.
"""

from collections.abc import Callable, Sequence
import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from t5x import models

if TYPE_CHECKING:
  from seqio import Vocabulary
else:  # seqio brings TensorFlow, which ranking does without.
  Vocabulary = Any


class _State(NamedTuple):
  """What the decoder reads of a T5X `DecodingState`."""

  cur_index: jax.Array
  cur_token: jax.Array  # [B * L, 1]
  cache: Any


def num_labels(labels: Sequence[str]) -> int:
  """Returns how many labels there are, which T5X calls `num_decodes`."""
  return len(labels)


def rank_labels(
  inputs: jax.Array,
  cache: Any,
  tokens_to_logits: Callable[[Any], tuple[jax.Array, Any]],
  eos_id: int,
  num_decodes: int,
  labels: Sequence[str],
  vocabulary: Vocabulary,
  normalize: bool = False,
  **unused: Any,
) -> tuple[jax.Array, jax.Array]:
  """Scores the labels of a task; a decoding function for `t5x.models`.

  Args:
    inputs: [B, S] Only the shape counts.
    cache: The decoder's empty cache, for B rows.
    tokens_to_logits: Decodes one token of B * L rows: an object with
      `cur_index`, `cur_token` [B * L, 1] and `cache` -> logits [B * L, V] and
      the cache.
    eos_id: The end token, which is scored too.
    num_decodes: L, the number of labels.
    labels: What to choose from.
    vocabulary: The model's.
    normalize: Whether to divide a score by its number of tokens, so that long
      labels are not at a disadvantage.
    **unused: What other decoding functions take.

  Returns:
    [B, L, S] The labels, and [B, L] their log likelihoods in nats; the best
    comes last.

  Raises:
    ValueError: if `num_decodes` is not L, or a label does not fit into S or is
      not known to the vocabulary.
  """
  del unused
  B, S = inputs.shape
  L = len(labels)
  if num_decodes != L:
    raise ValueError(
      f"Expected num_decodes to be the number of labels, {L}, got "
      f"{num_decodes}."
    )
  padded = _label_tokens(labels, vocabulary, eos_id, S)
  lengths = (padded > 0).sum(axis=1)
  steps = int(lengths.max())

  def score_token(state, column):
    token, counts = column  # [L]
    logits, cache = tokens_to_logits(state)
    token = jnp.tile(token, B)[:, None]  # [B * L, 1]
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    score = jnp.take_along_axis(log_probs, token, axis=1)[:, 0]
    state = _State(state.cur_index + 1, token, cache)
    return state, jnp.where(jnp.tile(counts, B), score, 0.0)

  start = _State(
    jnp.zeros((), jnp.int32),
    jnp.zeros((B * L, 1), jnp.int32),
    jax.tree.map(
      lambda x: jnp.repeat(x, L, axis=0) if jnp.ndim(x) else x, cache
    ),
  )
  _, scores = lax.scan(
    score_token,
    start,
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


def _label_tokens(
  labels: Sequence[str], vocabulary: Vocabulary, eos_id: int, length: int
) -> np.ndarray:
  """Returns [L, length] tokens, the end among them, and 0 after it.

  Raises:
    ValueError: as `rank_labels`.
  """
  padded = np.zeros((len(labels), length), np.int32)
  for row, label in zip(padded, labels, strict=True):
    ids = [*vocabulary.encode(label), eos_id]
    if len(ids) > length:
      raise ValueError(
        f"The label {label!r} has {len(ids)} tokens, the targets {length}. "
        "Give longer targets: t5x.train takes them from "
        "--gin.infer_eval/utils.DatasetConfig.task_feature_lengths, t5x.eval "
        "from --gin.utils.DatasetConfig.task_feature_lengths, t5x.infer from "
        "--gin.TASK_FEATURE_LENGTHS."
      )
    if getattr(vocabulary, "unk_id", None) in ids:
      raise ValueError(
        f"Expected labels that the vocabulary knows, got {label!r}: {ids}, "
        f"where {vocabulary.unk_id} is unknown. Check RANKED_LABELS."
      )
    row[: len(ids)] = ids
  return padded


class RankingModel(models.EncoderDecoderModel):
  """A model that answers with the likeliest label."""

  def __init__(
    self,
    module: nn.Module,
    input_vocabulary: Vocabulary,
    output_vocabulary: Vocabulary,
    optimizer_def: Any,
    labels: Sequence[str],
    **kwargs: Any,
  ):
    """See `t5x.models.EncoderDecoderModel`.

    Args:
      module: The network.
      input_vocabulary: Of the encoder's tokens.
      output_vocabulary: Of the decoder's tokens, and of the labels.
      optimizer_def: Says which parameters train.
      labels: What to choose from.
      **kwargs: More of its arguments.
    """
    super().__init__(
      module,
      input_vocabulary,
      output_vocabulary,
      optimizer_def,
      decode_fn=functools.partial(
        rank_labels, labels=labels, vocabulary=output_vocabulary
      ),
      **kwargs,
    )
    self._num_labels = len(labels)

  def predict_batch_with_aux(self, *args: Any, **kwargs: Any) -> Any:
    """Decodes a batch; the number of decodes is that of the labels."""
    return super().predict_batch_with_aux(
      *args, **{**kwargs, "num_decodes": self._num_labels}
    )
