"""Tests of Adafactor alone, and of toy T5s that it trains as in T5X."""

import conformance
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio
import tiny

from t5x import adafactor, models, train_state


def train(optimizer_def, rate, num_steps, prompt_length, size, starts=(0,)):
  """Yields the loss before each step and the trained weights of each start."""
  vocabulary = seqio.PassThroughVocabulary(size=256, eos_id=1)
  model = models.EncoderDecoderModel(
    conformance.transformer(prompt_length, size),
    vocabulary,
    vocabulary,
    optimizer_def,
    z_loss=1e-4,
  )

  @jax.jit
  def train_step(state, batch):
    grads, sums = models.value_and_grad(
      model, state.trainable, state.frozen, batch, jax.random.PRNGKey(0)
    )
    trainable, opt_state = state.optimizer_def.apply_gradient(
      {"learning_rate": rate}, state.trainable, state.opt_state, grads
    )
    state = state.replace(trainable=trainable, opt_state=opt_state)
    return state, sums["loss"]

  for start in starts:
    state = train_state.TrainState.create(
      optimizer_def, conformance.parameters(prompt_length, size)
    )
    opt_state = state.opt_state.replace(step=jnp.int32(start))
    state = state.replace(opt_state=opt_state)
    losses = []
    for i in range(num_steps):
      state, loss = train_step(state, conformance.batch(i % 4))
      losses.append(loss)
    assert state.step == start + num_steps
    yield losses, traverse_util.flatten_dict(state.trainable, sep="/")


@pytest.mark.parametrize(
  ("name", "num_steps", "prompt_length", "size"),
  [
    ("train_prompt", 20, conformance.PROMPT_LENGTH, "toy"),
    pytest.param(
      *("train_prompt_long", 10, conformance.LONG_PROMPT_LENGTH, "toy"),
      marks=pytest.mark.slow,
    ),
    ("train_prompt_factored", 10, conformance.LONG_PROMPT_LENGTH, "wide"),
  ],
)
def test_prompt_tuning_equals_reference(name, num_steps, prompt_length, size):
  """From step 1,100,000, each early update is as large as the rate."""
  starts = (0, 1_100_000)
  optimizer_def = tiny.prompt_optimizer()
  trained = train(optimizer_def, 0.3, num_steps, prompt_length, size, starts)
  for start, (losses, params) in zip(starts, trained, strict=True):
    expected = f"{name}/start{start}"
    np.testing.assert_allclose(
      losses, conformance.expected(f"{expected}/losses"), rtol=0, atol=5e-4
    )
    assert list(params) == ["encoder/prompt/prompt"]
    np.testing.assert_allclose(
      params["encoder/prompt/prompt"],
      conformance.expected(f"{expected}/final_prompt"),
      rtol=0,
      atol=2e-4,
    )


@pytest.mark.parametrize(
  ("name", "size", "kept"),
  [
    (
      "train_full",
      "toy",
      [
        "decoder/layers_1/mlp/wo/kernel",
        "decoder/relpos_bias/rel_embedding",
        "encoder/encoder_norm/scale",
        "encoder/layers_0/attention/query/kernel",
      ],
    ),
    pytest.param(
      "train_full_factored",
      "wide",
      [
        "decoder/decoder_norm/scale",
        "decoder/logits_dense/kernel",
        "encoder/layers_0/mlp/wi_1/kernel",
      ],
      marks=pytest.mark.slow,
    ),
  ],
)
def test_model_tuning_equals_reference(name, size, kept):
  """Compares the norms of all parameters and the values of some."""
  ((losses, params),) = train(adafactor.Adafactor(), 0.001, 10, 0, size)
  np.testing.assert_allclose(
    losses, conformance.expected(f"{name}/losses"), rtol=0, atol=5e-4
  )
  for path, norm in conformance.FACTS[f"{name}/final_l2"].items():
    np.testing.assert_allclose(
      np.linalg.norm(params[path]), norm, rtol=1e-5, err_msg=path
    )
  for path in kept:
    expected = conformance.expected(f"{name}/final/{path}")
    np.testing.assert_allclose(
      params[path], expected, rtol=0, atol=5e-6, err_msg=path
    )


def moment(state, field):
  """Returns the `field` of the only FactoredState in `state`."""
  (value,) = [
    leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    if jax.tree_util.GetAttrKey(field) in path
  ]
  return value


@pytest.mark.parametrize("shape", [(100, 512), (127, 512), (128, 512), (512,)])
def test_size_alone_decides_what_is_factored(shape):
  state = adafactor.Adafactor().init_state({"w": jnp.zeros(shape)})
  is_factored = shape == (128, 512)
  assert (moment(state, "v").shape == shape) == (not is_factored)
  assert (moment(state, "v_row").size > 1) == is_factored


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
  grads = {"w": jnp.array([[1.0, -2.0], [3.0, 4.0]])}
  v = []
  for step in (0, 1000):
    definition = adafactor.Adafactor(step_offset=step)
    definition.check_start(step)
    state = definition.init_state(params).replace(step=jnp.int32(step))
    _, state = definition.apply_gradient(
      {"learning_rate": 1.0}, params, state, grads
    )
    v.append(moment(state, "v"))
  np.testing.assert_array_equal(*v)


def test_definition_with_rules_can_be_static_under_jit():
  init_state = jax.jit(adafactor.Adafactor.init_state, static_argnums=0)
  rules = adafactor.standard_logical_factor_rules()
  definition = adafactor.Adafactor(logical_factor_rules=rules)
  assert init_state(definition, {"w": jnp.zeros((2, 2))}).step == 0


@pytest.mark.parametrize("name", ["heads", "layers"])
def test_parameters_of_three_axes_are_refused(name):
  """The axis of scanned layers does not count as one of the three."""
  shape = (2, 3, 4) if name == "heads" else (5, 2, 3, 4)
  with pytest.raises(ValueError, match=rf"{name}/kernel of shape \(2, 3, 4\)"):
    adafactor.Adafactor().init_state({name: {"kernel": jnp.ones(shape)}})
