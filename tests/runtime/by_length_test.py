"""Tests that training by length equals training on padded batches."""

import functools
from unittest import mock

import jax
import numpy as np
import optax
import pytest
import tiny

from t5x import by_length, optimizers, trainer
from t5x.configuration import identity, reading, resolution

LONGEST, TARGETS = 160, 5
ROWS = 16


def _batches(number):
  """Yields batches of mostly short inputs, up to 160 tokens, and targets."""
  rng = np.random.default_rng(0)
  for _ in range(number):
    sizes = (2 + 158 * rng.random(ROWS) ** 3).astype(int)[:, None]
    inputs = rng.integers(3, 200, (ROWS, LONGEST), np.int32)
    targets = rng.integers(3, 200, (ROWS, TARGETS), np.int32)
    targets *= np.arange(TARGETS) < rng.integers(1, TARGETS + 1, (ROWS, 1))
    yield tiny.features(inputs * (np.arange(LONGEST) < sizes), targets)


def _start(trainer_cls, factor=None, dropout_rate=0.0):
  """Makes a trainer whose updates of the prompt are its gradients.

  A mock counts the calls of the loss, one for each compilation.
  """
  sgd = optimizers.OptaxWrapper(optax.sgd(1.0))
  model = tiny.make_model(
    tiny.multi_optimizer((".*/prompt/.*", sgd)),
    loss_normalizing_factor=factor,
    dropout_rate=dropout_rate,
  )
  model.loss_fn = mock.Mock(wraps=model.loss_fn)
  return tiny.make_trainer(trainer_cls, model, rate=1.0)


# Metrics that any two ways of cutting a batch share.
METRICS = {"loss", "z_loss", "accuracy", "loss_per_nonpadding_target_token"}
IN_THREE = functools.partial(by_length.Trainer, num_lengths=3)
IN_EQUAL_PARTS = functools.partial(trainer.Trainer, num_microbatches=4)


@functools.cache
def _outcome(trainer_cls, factor):
  """Returns the gradient, metrics and evaluation of one batch."""
  (batch,) = _batches(1)
  loop, evaluated, done = _start(trainer_cls, factor), {}, []
  if factor == "NUM_REAL_TARGET_TOKENS":
    evaluated = loop.eval({"task": [batch]}, done.append)["task"]
    assert done == [ROWS]
  (before,) = jax.device_get(jax.tree.leaves(loop.train_state.trainable))
  metrics = loop.train_steps(iter([batch]), 1)
  (after,) = jax.device_get(jax.tree.leaves(loop.train_state.trainable))
  return before - after, metrics, evaluated


@pytest.mark.parametrize(
  "cut", [IN_THREE, pytest.param(IN_EQUAL_PARTS, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
  "factor",
  [
    pytest.param(None, marks=pytest.mark.slow),
    pytest.param(7.0, marks=pytest.mark.slow),
    "NUM_REAL_TARGET_TOKENS",
    pytest.param("NUM_TOTAL_TARGET_TOKENS", marks=pytest.mark.slow),
    pytest.param("AVERAGE_PER_SEQUENCE", marks=pytest.mark.slow),
  ],
)
def test_loss_and_gradient_are_those_of_the_padded_batch(factor, cut):
  gradient, *padded = _outcome(trainer.Trainer, factor)
  other, *short = _outcome(cut, factor)
  scale = np.abs(gradient).max()
  assert scale > 1e-4
  np.testing.assert_allclose(other / scale, gradient / scale, atol=1e-5)
  for ours, theirs, names in zip(
    short, padded, (METRICS, METRICS & padded[1].keys()), strict=True
  ):
    for name in names:
      np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5)
  # Most of the padded batch is padding.
  share = "nonpadding_fraction"
  assert (short[0][share] > 1.3 * padded[0][share]) == (cut is IN_THREE)


@pytest.mark.slow
def test_as_many_programs_are_compiled_as_there_are_shapes():
  # The next test uses the same programs.
  loop = _start(IN_THREE, dropout_rate=0.1)
  loop._add_gradients = mock.Mock(wraps=loop._add_gradients)
  loop.train_steps(_batches(10), 10)
  calls = loop._add_gradients.call_args_list
  shapes = {x.args[2]["encoder_input_tokens"].shape for x in calls}
  assert 1 < len(shapes) <= 3
  # One more call finds the shapes of gradients and sums; it compiles nothing.
  assert loop.model.loss_fn.call_count == len(shapes) + 1


@pytest.mark.slow
@pytest.mark.parametrize("trainer_cls", [trainer.Trainer, IN_THREE])
def test_dropout_depends_on_the_step_and_on_nothing_else(trainer_cls):
  loop = _start(trainer_cls, dropout_rate=0.1)
  state = jax.device_get(loop.train_state)
  (batch,) = _batches(1)

  def loss(step):
    opt_state = state.opt_state.replace(step=np.int32(step))
    loop.train_state = jax.device_put(
      state.replace(opt_state=opt_state), loop.train_state_axes
    )
    return loop.train_steps(iter([batch]), 1)["loss"]

  assert loss(5) == loss(5)
  assert loss(5) != loss(6)
  if trainer_cls is trainer.Trainer:  # The step is compiled once.
    assert loop.model.loss_fn.call_count == 1


def test_number_of_lengths_is_a_setting_of_the_run():
  read = resolution.Bindings(
    ["gin/runs/train.gin", "gin/runs/by_length.gin"],
    paths=reading.search_paths(),
  )
  recorded = identity.RunConfiguration.from_bindings("train", read).settings
  assert "t5x.Trainer.num_lengths" in recorded
  assert not [name for name in recorded if "microbatches" in name]
  with pytest.raises(ValueError, match="num_lengths to be int above 0"):
    _start(functools.partial(by_length.Trainer, num_lengths=0))


def test_joined_inputs_and_targets_are_refused():
  joined = {"decoder_target_tokens": np.ones((2, 3), np.int32)}
  with pytest.raises(ValueError, match="got decoder_target_tokens: leave gin"):
    _start(IN_THREE).train_steps(iter([joined]), 1)
