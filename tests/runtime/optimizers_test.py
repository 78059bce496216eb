from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import multi_optimizer

from t5x import adafactor, optimizers, train_state

# Flax warns that traversals are deprecated, but T5X's interface uses them.
pytestmark = pytest.mark.filterwarnings(
  "ignore:`flax.traverse_util.Traversal`:DeprecationWarning"
)


def sgd(learning_rate):
  return optimizers.OptaxWrapper(optax.sgd(learning_rate))


@pytest.fixture
def params():
  return {
    "decoder": {"wo": {"kernel": jnp.ones((3, 2))}},
    "encoder": {
      "prompt": {"prompt": jnp.ones((2, 3))},
      "wi": {"kernel": jnp.ones((3, 4))},
    },
  }


def test_what_no_traversal_matches_is_frozen(params):
  trainable = adafactor.Adafactor().trainable(params)
  assert trainable == jax.tree.map(lambda _: True, params)

  optimizer_def = multi_optimizer((".*/prompt/.*", sgd(0.1)))
  for given in (params, jax.eval_shape(lambda: params)):
    assert optimizer_def.trainable(given) == {
      "decoder": {"wo": {"kernel": False}},
      "encoder": {"prompt": {"prompt": True}, "wi": {"kernel": False}},
    }


@pytest.mark.parametrize(
  ("patterns", "message"),
  [
    ([[".*/prompts/.*"]], r"prompts.*\['encoder/prompt/prompt'"),
    # Each pattern has to match a parameter.
    ([[".*/prompt/.*", ".*/promt/.*"]], r"\['\.\*/promt/\.\*'\], matches none"),
    ([[".*/kernel"], [".*/wi/.*"]], "Traversals 0 and 1 .* encoder/wi/kernel"),
    ([], "at least one"),
  ],
)
def test_traversals_that_do_not_fit_are_refused(params, patterns, message):
  with pytest.raises(ValueError, match=message):
    multi_optimizer(*((*x, sgd(0.1)) for x in patterns)).trainable(params)


def test_each_parameter_trains_with_its_optimizer(params):
  del params["decoder"]  # Frozen.
  optimizer_def = multi_optimizer(
    (".*/prompt/.*", sgd(0.1)), (".*/wi/.*", sgd(0.5))
  )
  state = optimizer_def.init_state(params)
  grads = jax.tree.map(jnp.ones_like, params)

  new_params, new_state = jax.jit(optimizer_def.apply_gradient)(
    {"learning_rate": 1.0}, params, state, grads
  )

  np.testing.assert_allclose(new_params["encoder"]["prompt"]["prompt"], 0.9)
  np.testing.assert_allclose(new_params["encoder"]["wi"]["kernel"], 0.5)
  assert jax.tree.structure(new_state) == jax.tree.structure(state)


def test_optax_wrapper_keeps_its_own_schedule(params):
  optimizer_def = optimizers.OptaxWrapper(
    optax.sgd(optax.piecewise_constant_schedule(1.0, {1: 0.5}))
  )
  state = optimizer_def.init_state(params).replace(step=jnp.int32(100))
  ones = jax.tree.map(jnp.ones_like, params)

  for expected in (0.0, -0.5):
    params, state = optimizer_def.apply_gradient(
      {"learning_rate": 7.0}, params, state, ones
    )
    np.testing.assert_allclose(params["decoder"]["wo"]["kernel"], expected)


def test_bfloat16_parameters_have_float32_state(params):
  params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  optimizer_def = multi_optimizer((".*", adafactor.Adafactor()))
  state = optimizer_def.init_state(params)
  assert (state.step, state.step.dtype) == (0, jnp.int32)
  state = state.replace(step=jnp.int32(1_100_000))

  new_params, new_state = optimizer_def.apply_gradient(
    {"learning_rate": 0.3}, params, state, params
  )

  # Steps count from the restored step.
  assert new_state.step == 1_100_001
  dtypes = {x.dtype for x in jax.tree.leaves(new_state)}
  assert dtypes == {jnp.dtype("int32"), jnp.dtype("float32")}
  dtypes = {x.dtype for x in jax.tree.leaves(new_params)}
  assert dtypes == {jnp.dtype("bfloat16")}


def test_rate_is_logged_where_the_optimizer_has_it(params):
  prompt, rest = "/encoder/prompt/.*", "/(encoder/wi|decoder)/.*"
  for optimizer_def, logged in (
    (adafactor.Adafactor(), {"learning_rate": 0.5}),
    (sgd(0.1), {}),
    (multi_optimizer((prompt, sgd(0.1))), {}),
    (
      multi_optimizer((prompt, sgd(0.1)), (rest, adafactor.Adafactor())),
      {"learning_rate": 0.5},
    ),
  ):
    state = train_state.TrainState.create(optimizer_def, params)
    assert state.last_rate(lambda step: 0.5) == logged


def test_shardings_tell_which_leaves_mirror_a_parameter(params):
  params["decoder"]["wo"]["kernel"] = jnp.ones((130, 140))
  optimizer_def = multi_optimizer(
    ("/encoder/.*", optimizers.OptaxWrapper(optax.adam(1.0))),
    ("/decoder/.*", adafactor.Adafactor()),
  )
  state = train_state.TrainState.create(optimizer_def, params)
  paths = traverse_util.path_aware_map(lambda x, _: "/".join(x), params)

  mapped = state.shardings(paths, "other").opt_state

  assert jax.tree.structure(mapped) == jax.tree.structure(state.opt_state)
  assert mapped.step == "other"
  adam = mapped.param_states.inner_states["0"].inner_state[0]
  assert adam.count == "other"
  assert adam.mu["encoder"] == paths["encoder"]
  assert adam.nu["encoder"] == paths["encoder"]
  # A factored moment is two vectors and a placeholder, which mirror nothing.
  factored = mapped.param_states.inner_states["1"]
  assert set(jax.tree.leaves(factored)) == {"other"}


@pytest.mark.parametrize(
  ("factors", "step_offset", "expected"),
  [
    ("constant", 0, {0: 2.0, 1_100_000: 2.0}),
    ("linear_warmup", 0, {5: 0.5, 10: 1.0, 99: 1.0}),
    ("constant * rsqrt_decay", 0, {0: 0.4**0.5, 10: 0.4**0.5, 400: 0.1}),
    ("linear_decay", 0, {5: 1.0, 10: 2.0, 60: 1.0, 1000: 1e-8}),
    ("constant*linear_warmup", 1000, {0: 1e-8, 1000: 1e-8, 1001: 0.2}),
  ],
)
def test_schedule(factors, step_offset, expected):
  learning_rate_fn = jax.jit(
    optimizers.create_learning_rate_scheduler(
      factors, 2.0, 10, decay_factor=0.01, step_offset=step_offset
    )
  )

  for step, value in expected.items():
    learning_rate = learning_rate_fn(jnp.int32(step))
    assert learning_rate.dtype == jnp.float32
    np.testing.assert_allclose(learning_rate, value, rtol=1e-5)


def test_schedule_is_that_of_pretraining_unless_told_otherwise():
  learning_rate_fn = optimizers.create_learning_rate_scheduler()
  np.testing.assert_allclose(learning_rate_fn(500), 0.25 * 1000**-0.5, 1e-5)
  np.testing.assert_allclose(learning_rate_fn(4000), 0.5 * 4000**-0.5, 1e-5)


@pytest.mark.parametrize(
  ("factors", "message"),
  [
    ("constant * cosine", r"\['cosine'\].*rsqrt_decay"),
    ("constant * linear_warmup", r"linear_warmup.*got 0"),
  ],
)
def test_wrong_schedules_are_refused(factors, message):
  with pytest.raises(ValueError, match=message):
    optimizers.create_learning_rate_scheduler(factors, warmup_steps=0)
