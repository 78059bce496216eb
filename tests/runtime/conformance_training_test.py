"""Training of the toy T5s, step by step, against T5X."""

import functools

import conformance
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio

from t5x import adafactor, models, optimizers
from t5x import train_state as train_state_lib

# Flax warns that traversals will go, but T5X's interface is made of them.
pytestmark = pytest.mark.filterwarnings(
  "ignore:`flax.traverse_util.Traversal`:DeprecationWarning"
)

# The parameters of which the reference keeps the values at the end.
FINAL_PARAMETERS = {
  "train_full": [
    "decoder/layers_1/mlp/wo/kernel",
    "decoder/relpos_bias/rel_embedding",
    "encoder/encoder_norm/scale",
    "encoder/layers_0/attention/query/kernel",
  ],
  "train_full_factored": [
    "decoder/decoder_norm/scale",
    "decoder/logits_dense/kernel",
    "encoder/layers_0/mlp/wi_1/kernel",
  ],
}


@pytest.fixture(scope="module")
def prompt_tuning():
  traversal = traverse_util.ModelParamTraversal(
    lambda path, _: path == "/encoder/prompt/prompt"
  )
  optimizer = adafactor.Adafactor(
    multiply_by_parameter_scale=False, weight_decay_rate=1e-5
  )
  return optimizers.MultiOptimizer([(traversal, optimizer)])


@functools.cache
def compiled_train_step(optimizer_def, learning_rate, prompt_length, size):
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
    return state.apply_gradient(grads, learning_rate), sums["loss"]

  return train_step


def train(optimizer_def, learning_rate, num_steps, prompt_length, size, start):
  """Returns the losses before each step, and the state after the last."""
  train_step = compiled_train_step(
    optimizer_def, learning_rate, prompt_length, size
  )
  state = train_state_lib.TrainState.create(
    optimizer_def, conformance.parameters(prompt_length, size)
  )
  state = state.replace(
    opt_state=state.opt_state.replace(step=jnp.int32(start))
  )
  losses = []
  for i in range(num_steps):
    state, loss = train_step(state, conformance.batch(i % 4))
    losses.append(loss)
  return np.array(losses), state


@pytest.mark.parametrize("start", [0, 1_100_000])
@pytest.mark.parametrize(
  ("name", "num_steps", "prompt_length", "size"),
  [
    ("train_prompt", 20, conformance.PROMPT_LENGTH, "toy"),
    ("train_prompt_long", 10, conformance.LONG_PROMPT_LENGTH, "toy"),
    ("train_prompt_factored", 10, conformance.LONG_PROMPT_LENGTH, "wide"),
  ],
)
def test_prompt_tuning_equals_reference(
  prompt_tuning, name, num_steps, prompt_length, size, start
):
  losses, state = train(
    prompt_tuning, 0.3, num_steps, prompt_length, size, start
  )

  expected = f"{name}/start{start}"
  assert state.step == start + num_steps
  np.testing.assert_allclose(
    losses, conformance.expected(f"{expected}/losses"), rtol=0, atol=5e-4
  )
  (prompt,) = jax.tree.leaves(state.trainable)
  np.testing.assert_allclose(
    prompt,
    conformance.expected(f"{expected}/final_prompt"),
    rtol=0,
    atol=2e-4,
  )


@pytest.mark.parametrize(
  ("name", "size"), [("train_full", "toy"), ("train_full_factored", "wide")]
)
def test_model_tuning_equals_reference(name, size):
  losses, state = train(adafactor.Adafactor(), 0.001, 10, 0, size, start=0)

  np.testing.assert_allclose(
    losses, conformance.expected(f"{name}/losses"), rtol=0, atol=5e-4
  )
  params = {
    "/".join(path): np.asarray(value)
    for path, value in traverse_util.flatten_dict(state.trainable).items()
  }
  for path, norm in conformance.FACTS[f"{name}/final_l2"].items():
    np.testing.assert_allclose(
      np.linalg.norm(params[path]), norm, rtol=1e-5, err_msg=path
    )
  for path in FINAL_PARAMETERS[name]:
    np.testing.assert_allclose(
      params[path],
      conformance.expected(f"{name}/final/{path}"),
      rtol=0,
      atol=5e-6,
      err_msg=path,
    )
