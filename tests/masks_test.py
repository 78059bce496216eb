import conformance
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning import masks


def test_masks_count_the_prompt():
  features = conformance.batch()
  inputs = jnp.asarray(features["encoder_input_tokens"])
  targets = jnp.asarray(features["decoder_target_tokens"])
  P = conformance.PROMPT_LENGTH
  one_step = jnp.ones_like(targets[:, :1])
  for name, mask in {
    "encoder": masks.encoder_mask(inputs, P),
    "decoder": masks.decoder_mask(targets),
    "encoder_decoder": masks.encoder_decoder_mask(targets, inputs, P),
    "encoder_decoder_one_decode_step": masks.encoder_decoder_mask(
      one_step, inputs, P
    ),
  }.items():
    np.testing.assert_array_equal(mask, conformance.expected(f"masks/{name}"))


def test_packed_examples_do_not_see_each_other():
  inputs = jnp.array([[5, 6, 7, 0]])
  targets = jnp.array([[8, 9, 9]])
  segments = jnp.array([[1, 2, 2, 0]])
  target_segments = jnp.array([[1, 2, 2]])
  np.testing.assert_array_equal(
    masks.encoder_mask(inputs, 0, segments)[0, 0],
    [[1, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]],
  )
  np.testing.assert_array_equal(
    masks.decoder_mask(targets, target_segments)[0, 0],
    [[1, 0, 0], [0, 1, 0], [0, 1, 1]],
  )
  np.testing.assert_array_equal(
    masks.encoder_decoder_mask(targets, inputs, 0, target_segments, segments)[
      0, 0
    ],
    [[1, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0]],
  )


def test_packed_examples_cannot_share_a_prompt():
  tokens = jnp.array([[5, 6]])
  with pytest.raises(ValueError, match="pack = False"):
    masks.encoder_mask(tokens, 3, jnp.array([[1, 2]]))
  with pytest.raises(ValueError, match="pack = False"):
    masks.encoder_decoder_mask(tokens, tokens, 3, None, jnp.array([[1, 2]]))
