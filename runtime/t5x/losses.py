"""Cross entropy with z-loss, distillation, and the divisors of the loss."""

from collections.abc import Mapping
import enum
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax


class SpecialLossNormalizingFactor(enum.Enum):
  """Divisors of the loss that depend on the batch."""

  NUM_REAL_TARGET_TOKENS = "num_real_target_tokens"
  NUM_TOTAL_TARGET_TOKENS = "num_total_target_tokens"
  AVERAGE_PER_SEQUENCE = "average_per_sequence"


def cross_entropy_with_logits(
  logits: jax.Array, targets: jax.Array, z_loss: float
) -> tuple[jax.Array, jax.Array]:
  """Computes cross entropy, in float32, plus z_loss * (log Z)^2.

  Args:
    logits: [..., V] Unnormalised log probabilities.
    targets: [..., V] The distribution to predict.
    z_loss: Weight of the penalty that keeps log Z, the log of the softmax
      denominator, near zero.

  Returns:
    [...] The loss in nats, and [...] the z-loss that it includes.
  """
  logits = logits.astype(jnp.float32)
  log_z = jax.nn.logsumexp(logits, axis=-1)  # [...]
  z_losses = z_loss * jnp.square(log_z)
  cross_entropy = -jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1)
  return cross_entropy + z_losses, z_losses


def compute_weighted_cross_entropy(
  logits: jax.Array,
  targets: jax.Array,
  weights: jax.Array | None = None,
  label_smoothing: float = 0.0,
  z_loss: float = 0.0,
  loss_normalizing_factor: float | jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Sums the loss over the target tokens of a batch.

  The smoothed target gives 1 - s to the right token and s / (V - 1) to every
  other token. Its entropy is subtracted, so a perfect prediction scores 0.

  Args:
    logits: [B, S, V] Unnormalised log probabilities.
    targets: [B, S] Token ids.
    weights: [B, S] Weight of each token; None is 1 everywhere.
    label_smoothing: s, in [0, 1).
    z_loss: Weight of (log Z)^2.
    loss_normalizing_factor: The divisor of both losses; None is 1.

  Returns:
    Three float32 scalars: the loss in nats with the z-loss, the z-loss, and
    the sum of the weights.

  Raises:
    ValueError: if the shapes disagree.
  """
  if logits.shape[:-1] != targets.shape:
    raise ValueError(
      "Expected logits [B, S, V] and targets [B, S], got "
      f"{logits.shape} and {targets.shape}."
    )
  V = logits.shape[-1]
  confidence = 1.0 - label_smoothing
  other = label_smoothing / (V - 1)
  entropy = 0.0
  if label_smoothing:
    entropy = -(
      confidence * np.log(confidence) + label_smoothing * np.log(other)
    )
  soft_targets = jnp.where(
    jax.nn.one_hot(targets, V, dtype=jnp.bool_), confidence, other
  )
  loss, z_losses = cross_entropy_with_logits(logits, soft_targets, z_loss)
  loss = loss - entropy

  if weights is None:
    weights = jnp.ones(targets.shape)
  weights = weights.astype(jnp.float32)
  divisor = 1.0 if loss_normalizing_factor is None else loss_normalizing_factor
  return (
    jnp.sum(loss * weights) / divisor,
    jnp.sum(z_losses * weights) / divisor,
    jnp.sum(weights),
  )


def distance(outputs: Any, taught: Any) -> jax.Array:
  """Returns how far a model is from its teacher at each target token, [B, S].

  The terms of MPT (Wang et al., 2023): the divergence of the distribution of
  tokens from the teacher's, in nats, and the mean squared difference of the
  decoder's last hidden states. The paper does not say which states it compares.

  Args:
    outputs: The model's logits, [B, S, V], and a tree of one array: its states,
      [B, S, H].
    taught: The teacher's.
  """
  (logits, hidden), (taught_logits, taught_hidden) = (
    [array.astype(jnp.float32) for array in jax.tree.leaves(both)]
    for both in (outputs, taught)
  )
  divergence = optax.losses.kl_divergence_with_log_targets(
    jax.nn.log_softmax(logits), jax.nn.log_softmax(taught_logits)
  )
  return divergence + jnp.mean((hidden - taught_hidden) ** 2, axis=-1)


def find_loss_normalizing_factor(
  given: float | str | SpecialLossNormalizingFactor | None,
) -> float | SpecialLossNormalizingFactor | None:
  """Returns a divisor of the loss, given the divisor or its name in any case.

  Raises:
    ValueError: if the name is unknown, or the number is not above 0.
  """
  names = SpecialLossNormalizingFactor.__members__
  found = names.get(given.upper(), 0) if isinstance(given, str) else given
  if isinstance(found, int | float) and not found > 0:
    raise ValueError(
      "Expected loss_normalizing_factor to be a number above 0, None or one of "
      f"{list(names)}, got {given!r}."
    )
  return found


def get_loss_normalizing_factor_and_weights(
  loss_normalizing_factor: float | str | SpecialLossNormalizingFactor | None,
  batch: Mapping[str, jax.Array],
) -> tuple[float | jax.Array | None, jax.Array]:
  """Resolves a divisor that depends on the batch.

  Args:
    loss_normalizing_factor: A number, None for no division, or a
      `SpecialLossNormalizingFactor` or its name in any case.
    batch: `decoder_target_tokens` and `decoder_loss_weights`, both [B, S], and
      `decoder_segment_ids` [B, S] when several sequences share a row.

  Returns:
    The divisor of the loss, and the [B, S] weights of the tokens. For
    AVERAGE_PER_SEQUENCE the weights of each sequence sum to 1.

  Raises:
    ValueError: as for `find_loss_normalizing_factor`.
  """
  weights = batch["decoder_loss_weights"].astype(jnp.float32)
  factor = find_loss_normalizing_factor(loss_normalizing_factor)
  match factor:
    case SpecialLossNormalizingFactor.NUM_REAL_TARGET_TOKENS:
      return _nonzero(jnp.sum(weights)), weights
    case SpecialLossNormalizingFactor.NUM_TOTAL_TARGET_TOKENS:
      return float(batch["decoder_target_tokens"].size), weights
    case SpecialLossNormalizingFactor.AVERAGE_PER_SEQUENCE:
      segments = batch.get("decoder_segment_ids", jnp.ones(weights.shape))
      same = segments[:, :, None] == segments[:, None, :]  # [B, S, S]
      total = jnp.einsum("bst,bt->bs", same.astype(jnp.float32), weights)
      weights = weights / _nonzero(total)
      return _nonzero(jnp.sum(weights)), weights
  return factor, weights


def _nonzero(total: jax.Array) -> jax.Array:
  """Replaces 0, as for a microbatch without targets, by 1."""
  return jnp.where(total > 0, total, 1.0)
