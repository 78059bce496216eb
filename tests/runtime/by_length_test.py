"""Training by length is training on padded batches, with less work."""

import functools

from flax import traverse_util
import jax
import numpy as np
import optax
import pytest
import tiny

from prompt_tuning.methods import trainable
from t5x import by_length, models, optimizers, trainer
from t5x.configuration import reading, resolution, run_configuration
from t5x.runs import initialization

LONGEST, TARGETS = 160, 5
ROWS = 16


def _batches(number, seed=0):
  """Inputs of 2 to 160 tokens, most of them short; targets of 1 to 5."""
  rng = np.random.default_rng(seed)
  for _ in range(number):
    sizes = (2 + 158 * rng.random(ROWS) ** 3).astype(int)[:, None]
    inputs = rng.integers(3, 200, (ROWS, LONGEST), np.int32)
    targets = rng.integers(3, 200, (ROWS, TARGETS), np.int32)
    targets *= np.arange(TARGETS) < rng.integers(1, TARGETS + 1, (ROWS, 1))
    yield {
      "encoder_input_tokens": inputs * (np.arange(LONGEST) < sizes),
      "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
      "decoder_target_tokens": targets,
      "decoder_loss_weights": (targets > 0).astype(np.int32),
    }


class _Counting(models.EncoderDecoderModel):
  """Counts how often its loss is traced: as often as it is compiled."""

  traces = 0

  def loss_fn(self, *args, **kwargs):
    type(self).traces += 1
    return super().loss_fn(*args, **kwargs)


def _start(trainer_cls, factor=None, **kwargs):
  """A trainer whose updates of the prompt are its gradients."""
  sgd = optimizers.MultiOptimizer(
    (
      (
        traverse_util.ModelParamTraversal(
          trainable.matches_any([".*/prompt/.*"])
        ),
        optimizers.OptaxWrapper(optax.sgd(1.0)),
      ),
    )
  )
  plain = tiny.make_model(sgd, dropout_rate=kwargs.pop("dropout_rate", 0.0))
  _Counting.traces = 0
  model = _Counting(
    plain.module,
    plain.input_vocabulary,
    plain.output_vocabulary,
    sgd,
    z_loss=1e-4,
    loss_normalizing_factor=factor,
  )
  partitioner = tiny.make_partitioner()
  initializer = initialization.TrainStateInitializer(
    sgd, model.get_initial_variables, tiny.input_shapes(), partitioner
  )
  return trainer_cls(
    model=model,
    train_state=initializer.from_scratch(jax.random.key(0)),
    partitioner=partitioner,
    train_state_axes=initializer.train_state_axes,
    rng=jax.random.key(1),
    learning_rate_fn=lambda step: 1.0,
    **kwargs,
  )


def test_step_is_compiled_once():
  loop = _start(trainer.Trainer)
  loop.train_steps(_batches(3), 3)
  assert _Counting.traces == 1


def _prompt(loop):
  return np.asarray(loop.train_state.trainable["encoder"]["prompt"]["prompt"])


# What two ways of cutting a batch share.
METRICS = {"loss", "z_loss", "accuracy", "loss_per_nonpadding_target_token"}
IN_THREE = functools.partial(by_length.Trainer, num_lengths=3)
IN_EQUAL_PARTS = functools.partial(trainer.Trainer, num_microbatches=4)


@pytest.mark.parametrize("cut", [IN_THREE, IN_EQUAL_PARTS])
@pytest.mark.parametrize(
  "factor",
  [
    None,
    7.0,
    "NUM_REAL_TARGET_TOKENS",
    "NUM_TOTAL_TARGET_TOKENS",
    "AVERAGE_PER_SEQUENCE",
  ],
)
def test_loss_and_gradient_are_those_of_the_padded_batch(factor, cut):
  (batch,) = _batches(1)
  outcomes = []
  for trainer_cls in (trainer.Trainer, cut):
    loop = _start(trainer_cls, factor)
    evaluated = {} if factor else loop.eval({"task": [batch]})["task"]
    before = _prompt(loop)
    metrics = loop.train_steps(iter([batch]), 1)
    outcomes.append((before - _prompt(loop), metrics, evaluated))
  (gradient, *padded), (other, *short) = outcomes
  scale = np.abs(gradient).max()
  assert scale > 1e-4
  np.testing.assert_allclose(other / scale, gradient / scale, atol=1e-5)
  for ours, theirs in zip(short, padded, strict=True):
    for name in METRICS & theirs.keys():
      np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5)
  # Most of the padded batch is padding.
  share = "nonpadding_fraction"
  assert (short[0][share] > 1.3 * padded[0][share]) == (cut is IN_THREE)


def test_as_many_programs_are_compiled_as_there_are_shapes(monkeypatch):
  loop = _start(by_length.Trainer, num_lengths=3)
  shapes = set()
  add = loop._add_gradients

  def noted(state, total, batch, *rest):
    shapes.add(batch["encoder_input_tokens"].shape)
    return add(state, total, batch, *rest)

  monkeypatch.setattr(loop, "_add_gradients", noted)
  loop.train_steps(_batches(30), 30)
  assert 1 < len(shapes) <= 3
  # Once more for the shapes of gradients and sums, which compiles nothing.
  assert _Counting.traces == len(shapes) + 1


def test_a_step_depends_on_its_number_whenever_a_run_is_stopped():
  """Dropout too."""
  loop = _start(IN_THREE, dropout_rate=0.1)
  state = jax.device_get(loop.train_state)
  prompts = []
  for parts in ([3], [1, 2]):
    loop.train_state = jax.device_put(state, loop._axes)
    batches = _batches(3)
    for steps in parts:
      loop.train_steps(batches, steps)
    prompts.append(_prompt(loop))
  np.testing.assert_array_equal(*prompts)


@pytest.mark.parametrize("number", ["None", "4"])
def test_number_of_microbatches_reaches_the_trainer_and_no_record(number):
  read = resolution.Bindings(
    ["gin/runs/train.gin", "gin/runs/by_length.gin"],
    [f"NUM_MICROBATCHES = {number}"],
    reading.search_paths(),
  )
  told = {x.name: x.text for x in resolution.resolve(read, "train")}
  assert told["t5x.Trainer.refused_microbatches"] == number
  recorded = run_configuration.of_bindings("train", read).settings
  assert "t5x.Trainer.num_lengths" in recorded
  assert not [name for name in recorded if "microbatches" in name]


def test_microbatches_of_another_kind_are_refused():
  for settings, message in (
    ({"num_microbatches": 2}, "NUM_MICROBATCHES"),
    ({"refused_microbatches": 2}, "NUM_MICROBATCHES"),
    ({"num_lengths": 0}, "num_lengths of at least 1"),
  ):
    with pytest.raises(ValueError, match=message):
      _start(functools.partial(by_length.Trainer, **settings))
