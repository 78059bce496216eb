"""Attention masks that count prompt positions. True means visible.

A prompt of P positions precedes every example and is never padding. Token 0 is
padding. The outputs of queries of padding are discarded.
"""

import jax.numpy as jnp

from prompt_tuning.types import Array


def key_mask(
  encoder_input_tokens: Array,
  prompt_length: int = 0,
  query_segment_ids: Array | None = None,
  encoder_segment_ids: Array | None = None,
) -> Array:
  """Lets every query see the prompt and the tokens of its example.

  The queries are positions of the encoder, or of the decoder. Those of padding
  need no exception: their outputs do not affect other positions.

  Args:
    encoder_input_tokens: [B, T] Token ids, without the prompt.
    prompt_length: Positions, P.
    query_segment_ids: [B, Q] The number of the packed example of each query;
      None if each row is one example.
    encoder_segment_ids: [B, T] The same for each token.

  Returns:
    [B, 1, 1, P + T], or [B, 1, Q, T] for packed examples.

  Raises:
    ValueError: if packed examples would have to share a prompt.
  """
  if prompt_length and encoder_segment_ids is not None:
    raise ValueError(
      "A prompt needs one example per row, but got packed examples "
      "(encoder_segment_ids). Set utils.DatasetConfig.pack = False."
    )
  visible = prepend_visible(encoder_input_tokens > 0, prompt_length)
  same = _same_segment(query_segment_ids, encoder_segment_ids)
  return visible[:, None, None, :] & same


def decoder_mask(
  decoder_target_tokens: Array, decoder_segment_ids: Array | None = None
) -> Array:
  """Lets every target see itself and the targets before it.

  Args:
    decoder_target_tokens: [B, S] Token ids. Not the decoder's inputs, whose
      first token is 0 too.
    decoder_segment_ids: [B, S] As in `key_mask`.

  Returns:
    [B, 1, S, S]
  """
  visible = decoder_target_tokens > 0
  positions = jnp.arange(decoder_target_tokens.shape[1])[None]
  mask = visible[:, None, :, None] & visible[:, None, None, :]
  mask &= position_mask(positions, positions)
  return mask & _same_segment(decoder_segment_ids, decoder_segment_ids)


def position_mask(
  query_positions: Array,
  key_positions: Array,
  before: int | None = None,
  after: int = 0,
) -> Array:
  """Lets a query see keys at its position and around it.

  Args:
    query_positions: [B or 1, Q]
    key_positions: [B or 1, K]
    before: How far before the query a key may be; None is any distance.
    after: How far after it.

  Returns:
    [B or 1, 1, Q, K]
  """
  distance = query_positions[:, :, None] - key_positions[:, None, :]
  mask = -distance <= after
  if before is not None:
    mask &= distance <= before
  return mask[:, None]


def prepend_visible(visible: Array, prompt_length: int) -> Array:
  """[B, T] -> [B, P + T]: the positions of the prompt are visible."""
  return jnp.pad(visible, ((0, 0), (prompt_length, 0)), constant_values=True)


def _same_segment(queries: Array | None, keys: Array | None) -> Array | bool:
  if queries is None or keys is None:
    return True
  return queries[:, None, :, None] == keys[:, None, None, :]
