import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x import schedules


@pytest.mark.parametrize(
  ("factors", "bindings", "expected"),
  [
    ("constant", {"base_learning_rate": 0.3}, {0: 0.3, 1_100_000: 0.3}),
    ("linear_warmup", {"warmup_steps": 10}, {5: 0.5, 10: 1.0, 99: 1.0}),
    (
      "constant * rsqrt_decay",
      {"base_learning_rate": 1.0, "warmup_steps": 100},
      {0: 0.1, 100: 0.1, 10_000: 0.01},
    ),
    (
      "linear_decay",
      {"base_learning_rate": 2.0, "warmup_steps": 10, "decay_factor": 0.01},
      {5: 1.0, 10: 2.0, 60: 1.0, 1000: 1e-8},
    ),
    (
      "constant*linear_warmup",
      {"base_learning_rate": 4.0, "warmup_steps": 4, "step_offset": 1000},
      {0: 1e-8, 1000: 1e-8, 1001: 1.0, 1004: 4.0},
    ),
  ],
)
def test_schedule(factors, bindings, expected):
  learning_rate_fn = jax.jit(
    schedules.create_learning_rate_scheduler(factors, **bindings)
  )

  for step, value in expected.items():
    learning_rate = learning_rate_fn(jnp.int32(step))
    assert learning_rate.dtype == jnp.float32
    np.testing.assert_allclose(learning_rate, value, rtol=1e-5)


def test_default_is_the_pretraining_schedule():
  learning_rate_fn = schedules.create_learning_rate_scheduler()

  np.testing.assert_allclose(learning_rate_fn(500), 0.25 * 1000**-0.5)
  np.testing.assert_allclose(
    learning_rate_fn(4000), 0.5 * 4000**-0.5, rtol=1e-6
  )


def test_unknown_factor_lists_the_known_ones():
  with pytest.raises(ValueError, match=r"\['cosine'\].*rsqrt_decay"):
    schedules.create_learning_rate_scheduler("constant * cosine")


def test_warmup_over_no_steps_is_refused():
  with pytest.raises(ValueError, match=r"linear_warmup.*got 0"):
    schedules.create_learning_rate_scheduler(
      "constant * linear_warmup", warmup_steps=0
    )
