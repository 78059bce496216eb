"""Attention masks that count prompt positions. True means visible.

A prompt of P positions precedes every example and is never padding. Token 0 is
padding. Query rows of padding see nothing, and their outputs are discarded.
"""

import jax.numpy as jnp

from prompt_tuning.types import Array


def encoder_mask(
  encoder_input_tokens: Array,
  prompt_length: int = 0,
  encoder_segment_ids: Array | None = None,
) -> Array:
  """Lets every position that is not padding see all of its example.

  Args:
    encoder_input_tokens: [B, T] Token ids, without the prompt.
    prompt_length: Positions, P.
    encoder_segment_ids: [B, T] The number of the packed example of each token;
      None if each row is one example.

  Returns:
    [B, 1, P + T, P + T]

  Raises:
    ValueError: if packed examples would have to share a prompt.
  """
  _refuse_packed_prompt(prompt_length, encoder_segment_ids)
  visible = prepend_visible(encoder_input_tokens > 0, prompt_length)
  mask = _outer(visible, visible)
  return mask & _same_segment(encoder_segment_ids, encoder_segment_ids)


def key_mask(encoder_input_tokens: Array, prompt_length: int = 0) -> Array:
  """Lets every query see the prompt and the tokens that are not padding.

  This suffices if each row is one example: the outputs of padding queries do
  not affect other positions.

  Args:
    encoder_input_tokens: [B, T] Token ids, without the prompt.
    prompt_length: Positions, P.

  Returns:
    [B, 1, 1, P + T]
  """
  visible = prepend_visible(encoder_input_tokens > 0, prompt_length)
  return visible[:, None, None, :]


def decoder_mask(
  decoder_target_tokens: Array, decoder_segment_ids: Array | None = None
) -> Array:
  """Lets every target see itself and the targets before it.

  Args:
    decoder_target_tokens: [B, S] Token ids. Not the decoder's inputs, whose
      first token is 0 too.
    decoder_segment_ids: [B, S] As in `encoder_mask`.

  Returns:
    [B, 1, S, S]
  """
  visible = decoder_target_tokens > 0
  positions = jnp.arange(decoder_target_tokens.shape[1])
  mask = _outer(visible, visible) & causal_mask(positions, positions)
  return mask & _same_segment(decoder_segment_ids, decoder_segment_ids)


def encoder_decoder_mask(
  decoder_target_tokens: Array,
  encoder_input_tokens: Array,
  prompt_length: int = 0,
  decoder_segment_ids: Array | None = None,
  encoder_segment_ids: Array | None = None,
) -> Array:
  """Lets every target see the prompt and the input.

  Args:
    decoder_target_tokens: [B, S] Token ids; ones when decoding, where every
      query counts.
    encoder_input_tokens: [B, T] Token ids, without the prompt.
    prompt_length: Positions, P.
    decoder_segment_ids: [B, S] As in `encoder_mask`.
    encoder_segment_ids: [B, T] As in `encoder_mask`.

  Returns:
    [B, 1, S, P + T]

  Raises:
    ValueError: if packed examples would have to share a prompt.
  """
  _refuse_packed_prompt(prompt_length, encoder_segment_ids)
  mask = _outer(
    decoder_target_tokens > 0,
    prepend_visible(encoder_input_tokens > 0, prompt_length),
  )
  return mask & _same_segment(decoder_segment_ids, encoder_segment_ids)


def causal_mask(query_positions: Array, key_positions: Array) -> Array:
  """[1, 1, Q, K] Lets a query see keys at its position and before it."""
  return (key_positions[None, :] <= query_positions[:, None])[None, None]


def prepend_visible(visible: Array, prompt_length: int) -> Array:
  """[B, T] -> [B, P + T]: the positions of the prompt are visible."""
  return jnp.pad(visible, ((0, 0), (prompt_length, 0)), constant_values=True)


def _outer(queries: Array, keys: Array) -> Array:
  return queries[:, None, :, None] & keys[:, None, None, :]


def _same_segment(queries: Array | None, keys: Array | None) -> Array | bool:
  if queries is None or keys is None:
    return True
  return queries[:, None, :, None] == keys[:, None, None, :]


def _refuse_packed_prompt(
  prompt_length: int, encoder_segment_ids: Array | None
) -> None:
  if prompt_length and encoder_segment_ids is not None:
    raise ValueError(
      "A prompt needs one example per row, but got packed examples "
      "(encoder_segment_ids). Set utils.DatasetConfig.pack = False."
    )
