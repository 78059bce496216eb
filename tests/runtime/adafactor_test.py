import zlib

import conformance
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x import adafactor, optimizers

SEED = 20210426
# The settings of prompt tuning, `train_prompt` in the reference.
PROMPT_TUNING = adafactor.Adafactor(
  multiply_by_parameter_scale=False, weight_decay_rate=1e-5
)


def normal(name, shape):
  rng = np.random.default_rng(zlib.crc32(name.encode()) + SEED)
  return rng.standard_normal(shape)


def rms(x):
  return np.sqrt(np.mean(np.square(np.asarray(x, np.float64))))


def moments(state, field):
  """Returns the `field` of the only FactoredState in `state`."""
  (value,) = [
    leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    if jax.tree_util.GetAttrKey(field) in path
  ]
  return value


@pytest.mark.parametrize("start", [0, 1_100_000])
def test_factored_steps_equal_reference(start):
  def expected(name):
    return conformance.expected(f"adafactor_alone/start{start}/{name}")

  shape = (conformance.LONG_PROMPT_LENGTH, 160)
  params = {"prompt": jnp.float32(0.5 * normal("adafactor/param", shape))}
  state = PROMPT_TUNING.init_state(params).replace(step=jnp.int32(start))
  apply_gradient = jax.jit(PROMPT_TUNING.apply_gradient)

  update_rms = []
  for i in range(10):
    grads = {"prompt": jnp.float32(0.01 * normal(f"adafactor/grad/{i}", shape))}
    new_params, state = apply_gradient(
      {"learning_rate": 0.3}, params, state, grads
    )
    update_rms.append(rms(new_params["prompt"] - params["prompt"]))
    params = new_params

  prompt = params["prompt"]
  np.testing.assert_allclose(update_rms, expected("update_rms"), rtol=1e-5)
  np.testing.assert_allclose(
    prompt[:8], expected("final_first_rows"), atol=2e-5
  )
  np.testing.assert_allclose(
    np.linalg.norm(prompt), expected("final_l2"), rtol=1e-6
  )
  for field in ("v_row", "v_col"):
    np.testing.assert_allclose(
      moments(state, field), expected(field), rtol=1e-5
    )


def test_restored_step_makes_every_early_update_as_large_as_the_rate():
  params = {"prompt": jnp.ones((5, 4))}
  state = PROMPT_TUNING.init_state(params).replace(step=jnp.int32(1_100_000))

  for i in range(3):
    grads = {"prompt": jnp.float32(normal(f"grad/{i}", (5, 4)))}
    new_params, state = PROMPT_TUNING.apply_gradient(
      {"learning_rate": 0.3}, params, state, grads
    )
    change = rms(new_params["prompt"] - (1 - 1e-5) * params["prompt"])
    assert change == pytest.approx(0.3, rel=1e-5)
    params = new_params


@pytest.mark.parametrize(
  ("shape", "factored"),
  [
    ((100, 512), False),
    ((127, 512), False),
    ((128, 512), True),
    ((512,), False),
  ],
)
def test_size_alone_decides_what_is_factored(shape, factored):
  optimizer_def = adafactor.Adafactor()
  state = optimizer_def.init_state({"w": jnp.zeros(shape)})

  assert (moments(state, "v").shape == shape) == (not factored)
  assert (moments(state, "v_row").size > 1) == factored


@pytest.mark.parametrize(
  ("settings", "rate", "values"),
  [
    # Weight decay is not multiplied by the rate.
    ({"weight_decay_rate": 0.01}, 0.0, [10.0, 9.9]),
    # The rate is relative to the parameter.
    ({}, 0.1, [10.0, 9.0]),
    ({}, 0.1, [0.0, -0.1 * 1e-3]),
    # Momentum averages updates.
    (
      {"beta1": 0.9, "multiply_by_parameter_scale": False},
      1.0,
      [0.0, -0.1, -0.1 - 0.19],
    ),
  ],
)
def test_steps_of_a_constant_parameter(settings, rate, values):
  params = {"w": jnp.full((2, 2), values[0])}
  optimizer_def = adafactor.Adafactor(**settings)
  state = optimizer_def.init_state(params)
  ones = jax.tree.map(jnp.ones_like, params)

  for value in values[1:]:
    params, state = optimizer_def.apply_gradient(
      {"learning_rate": rate}, params, state, ones
    )
    np.testing.assert_allclose(params["w"], value, rtol=1e-5)


def test_step_offset_restarts_the_decay():
  params = {"w": jnp.zeros((2, 2))}
  grads = {"w": jnp.float32(normal("grad", (2, 2)))}
  v = []
  for step in (0, 1000):
    definition = adafactor.Adafactor(step_offset=step)
    state = definition.init_state(params).replace(step=jnp.int32(step))
    _, state = definition.apply_gradient(
      {"learning_rate": 1.0}, params, state, grads
    )
    v.append(moments(state, "v"))
  np.testing.assert_array_equal(*v)


def test_offset_beyond_the_step_is_refused():
  """As in T5X, the decay would be the power of a negative number there."""
  everything = traverse_util.ModelParamTraversal(lambda path, _: True)
  late = adafactor.Adafactor(step_offset=1000)
  optimizer_def = optimizers.MultiOptimizer([(everything, late)])
  optimizer_def.check_start(1000)
  with pytest.raises(ValueError, match="step_offset to be at most 999, the"):
    optimizer_def.check_start(999)


def test_definition_with_rules_can_be_static_under_jit():
  rules = adafactor.standard_logical_factor_rules()
  init_state = jax.jit(
    lambda optimizer_def: optimizer_def.init_state({"w": jnp.zeros((2, 2))}),
    static_argnums=0,
  )
  assert init_state(adafactor.Adafactor(logical_factor_rules=rules)).step == 0


@pytest.mark.parametrize("name", ["heads", "layers"])
def test_parameters_of_three_axes_are_refused(name):
  """Those of scanned layers have one more, that of the layers."""
  shape = (2, 3, 4) if name == "heads" else (5, 2, 3, 4)
  with pytest.raises(ValueError, match=rf"{name}/kernel of shape \(2, 3, 4\)"):
    adafactor.Adafactor().init_state({name: {"kernel": jnp.ones(shape)}})
