"""Batches whose inputs and targets are joined, T5X's format for decoders."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

Batch = Mapping[str, jax.Array]


def take_apart(batch: Batch) -> Batch:
  """Separates the inputs and targets of a decoder's batch.

  Args:
    batch: A batch of `seqio.DecoderFeatureConverter`, whose
      `decoder_causal_attention` is 1 for the start token and the inputs. Other
      batches are returned unchanged.

  Returns:
    The features of `seqio.EncDecFeatureConverter`, each as long as before.

  Raises:
    ValueError: if several examples share a row.
  """
  if "decoder_causal_attention" not in batch:
    return batch
  if "decoder_segment_ids" in batch:
    raise ValueError(
      "Expected one example per row, got packed examples. Set "
      "utils.DatasetConfig.pack = False."
    )
  tokens = batch["decoder_target_tokens"]
  widths = jnp.sum(batch["decoder_causal_attention"], axis=1, keepdims=True) - 1
  places = jnp.arange(tokens.shape[1])[None]
  # [B, S] The columns of the targets, followed by zeros.
  columns = jnp.minimum(places + widths, tokens.shape[1] - 1)
  is_inside = places + widths < tokens.shape[1]

  def targets(x: jax.Array) -> jax.Array:
    return jnp.where(is_inside, jnp.take_along_axis(x, columns, axis=1), 0)

  moved = targets(tokens)
  return {
    "encoder_input_tokens": jnp.where(places < widths, tokens, 0),
    "decoder_target_tokens": moved,
    "decoder_input_tokens": jnp.pad(moved, ((0, 0), (1, 0)))[:, :-1],
    "decoder_loss_weights": targets(batch["decoder_loss_weights"]),
  }
