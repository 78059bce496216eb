import conformance
import jax.numpy as jnp
import numpy as np
import pytest

from t5x import losses


@pytest.fixture
def batch():
  return {key: jnp.asarray(x) for key, x in conformance.batch().items()}


@pytest.mark.parametrize(
  ("model", "label_smoothing", "normalizer", "name"),
  [
    ("plain", 0.0, None, "loss_ls0.0"),
    ("plain", 0.1, None, "loss_ls0.1"),
    ("prompt", 0.0, None, "loss_ls0.0"),
    ("prompt", 0.1, None, "loss_ls0.1"),
    ("prompt", 0.0, 233472, "loss_norm_233472"),
    ("prompt", 0.0, "num_real_target_tokens", "loss_norm_real_tokens"),
  ],
)
def test_loss_equals_reference(batch, model, label_smoothing, normalizer, name):
  factor, weights = losses.get_loss_normalizing_factor_and_weights(
    normalizer, batch
  )
  loss, z_loss, weight_sum = losses.compute_weighted_cross_entropy(
    jnp.asarray(conformance.expected(f"{model}/logits")),
    batch["decoder_target_tokens"],
    weights,
    label_smoothing=label_smoothing,
    z_loss=1e-4,
    loss_normalizing_factor=factor,
  )

  expected = conformance.expected(f"{model}/{name}")
  np.testing.assert_allclose(loss, expected, rtol=1e-6)
  expected = conformance.expected(f"{model}/z_loss_ls{label_smoothing}")
  np.testing.assert_allclose(z_loss * (factor or 1), expected, rtol=1e-5)
  assert weight_sum == 14


def test_loss_of_large_logits_is_stable():
  loss, _, _ = losses.compute_weighted_cross_entropy(
    jnp.array([[[1e4, 1e4, -1e4]]], jnp.bfloat16), jnp.array([[0]])
  )
  assert loss.dtype == jnp.float32
  np.testing.assert_allclose(loss, np.log(2.0), rtol=1e-6)


def test_average_per_sequence_separates_packed_sequences():
  packed = {
    "decoder_target_tokens": jnp.array([[5, 6, 1, 7, 1, 0]]),
    "decoder_loss_weights": jnp.array([[1, 1, 1, 1, 1, 0]]),
    "decoder_segment_ids": jnp.array([[1, 1, 1, 2, 2, 0]]),
  }

  factor, weights = losses.get_loss_normalizing_factor_and_weights(
    losses.SpecialLossNormalizingFactor.AVERAGE_PER_SEQUENCE, packed
  )

  assert factor == pytest.approx(2.0)
  np.testing.assert_allclose(
    weights, [[1 / 3, 1 / 3, 1 / 3, 1 / 2, 1 / 2, 0]], rtol=1e-6
  )
  # An example may have no targets and be the only one of a microbatch.
  empty = packed | {"decoder_loss_weights": jnp.zeros((1, 6))}
  for name in losses.SpecialLossNormalizingFactor:
    assert losses.get_loss_normalizing_factor_and_weights(name, empty)[0] > 0


def test_total_tokens_count_padding_and_other_words_are_refused(batch):
  factor, _ = losses.get_loss_normalizing_factor_and_weights(
    "NUM_TOTAL_TARGET_TOKENS", batch
  )
  assert factor == 20
  with pytest.raises(ValueError, match="NUM_REAL_TARGET_TOKENS"):
    losses.get_loss_normalizing_factor_and_weights("mean", batch)
  with pytest.raises(ValueError, match=r"\(2, 3, 4\) and \(2, 4\)"):
    losses.compute_weighted_cross_entropy(
      jnp.zeros((2, 3, 4)), jnp.zeros((2, 4), jnp.int32)
    )
