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
  keys = masks.key_mask(inputs, P)
  for name, mask in {
    # Our masks do not depend on the query, even where it is padding.
    "encoder": keys & jnp.swapaxes(keys, 2, 3),
    "decoder": masks.decoder_mask(targets),
    "encoder_decoder": keys & (targets > 0)[:, None, :, None],
    "encoder_decoder_one_decode_step": keys,
  }.items():
    np.testing.assert_array_equal(mask, conformance.expected(f"masks/{name}"))


def test_packed_examples_do_not_see_each_other():
  inputs = jnp.array([[5, 6, 7, 0]])
  targets = jnp.array([[8, 9, 9]])
  segments = jnp.array([[1, 2, 2, 0]])
  target_segments = jnp.array([[1, 2, 2]])
  np.testing.assert_array_equal(
    masks.key_mask(inputs, 0, segments, segments)[0, 0],
    [[1, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]],
  )
  np.testing.assert_array_equal(
    masks.decoder_mask(targets, target_segments)[0, 0],
    [[1, 0, 0], [0, 1, 0], [0, 1, 1]],
  )
  np.testing.assert_array_equal(
    masks.key_mask(inputs, 0, target_segments, segments)[0, 0],
    [[1, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0]],
  )


def test_packed_examples_cannot_share_a_prompt():
  tokens = jnp.array([[5, 6]])
  with pytest.raises(ValueError, match="pack = False"):
    masks.key_mask(tokens, 3, None, jnp.array([[1, 2]]))
