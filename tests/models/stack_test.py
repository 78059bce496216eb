"""Tests of stacks of layers, scanned or traced once, with every method."""

import dataclasses
import functools

import conformance
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning import prompts
from prompt_tuning.injections import Injections
from prompt_tuning.methods import adapter, ia3, lora, prefix_tuning
from prompt_tuning.models import layers, stack
from prompt_tuning.models.t5 import network

EVERYTHING = Injections(
  prompt=functools.partial(prompts.Prompt, length=3),
  prefix=functools.partial(prefix_tuning.Prefix, length=2),
  delta=functools.partial(lora.LowRankDelta, rank=2, alpha=4),
  adapter=functools.partial(adapter.Bottleneck, bottleneck=2),
  rescale=ia3.Rescale,
)
LAYERS = 2
INPUTS = conformance.network_inputs(conformance.batch())


def transformer(num_layers=LAYERS, injections=EVERYTHING, **overrides):
  config = conformance.config(
    num_encoder_layers=num_layers, num_decoder_layers=num_layers, **overrides
  )
  return network.Transformer(config, injections)


@functools.partial(jax.jit, static_argnums=0)
def loss_and_gradient(model, params):
  def loss(params):
    logits = model.apply({"params": params}, *INPUTS, enable_dropout=False)
    return jnp.mean(jnp.sin(logits)), logits

  return jax.grad(loss, has_aux=True)(params)


@pytest.fixture(scope="module")
def unrolled():
  """Parameters, and the gradient and logits of unrolled layers."""
  params = conformance.random_params(transformer(), 0.3)
  return params, *loss_and_gradient(transformer(), params)


def _assert_equal(a, b, atol):
  check = functools.partial(np.testing.assert_allclose, atol=atol)
  jax.tree.map(check, a, b)


@pytest.mark.slow
@pytest.mark.parametrize("remat", [False, True])
def test_scanned_layers_compute_the_same(unrolled, remat):
  params, gradient, logits = unrolled
  scanned = transformer(scan_layers=True, remat=remat)
  stacked = functools.partial(conformance.stacked, scanned)
  found = loss_and_gradient(scanned, stacked(params))
  _assert_equal(found, (stacked(gradient), logits), atol=2e-5)


@pytest.mark.slow
def test_scanned_layers_decode_the_same_with_a_cache(unrolled):
  params, _, expected = unrolled
  model = transformer(scan_layers=True)
  batch = conformance.batch()
  params = conformance.stacked(model, params)
  logits = conformance.decode_step_by_step(model, params, batch)
  real = batch["decoder_target_tokens"] > 0
  np.testing.assert_allclose(logits[real], expected[real], atol=2e-5)
  # The batch is the first axis of cached arrays.
  cache = conformance.variable_shapes(model, decode=True)["cache"]
  sizes = {x.shape[:2] for x in jax.tree.leaves(cache) if x.ndim}
  assert sizes == {(len(INPUTS[0]), LAYERS)}


def test_a_method_of_single_scanned_layers_is_refused():
  single = Injections(
    delta=EVERYTHING.delta, delta_targets="encoder/layers_0/.*"
  )
  with pytest.raises(ValueError, match="delta_targets that treat all layers"):
    conformance.variable_shapes(
      transformer(injections=single, scan_layers=True)
    )


def test_dropout_differs_between_scanned_layers():
  """With a single mask, all layers would drop the same features."""
  model = transformer(scan_layers=True, dropout_rate=0.5)

  def program(rng):
    return model.apply(
      model.init(rng, *INPUTS, enable_dropout=False),
      *INPUTS,
      enable_dropout=True,
      rngs={"dropout": rng},
    )

  jaxpr = str(jax.make_jaxpr(program)(jax.random.key(0)))
  assert f"random_split[shape=({LAYERS},)]" in jaxpr


@pytest.mark.slow
def test_a_scanned_program_does_not_grow_with_depth():
  def lines(num_layers):
    delta = Injections(delta=EVERYTHING.delta)
    model = transformer(num_layers, delta, scan_layers=True, remat=True)
    shapes = conformance.variable_shapes(model)["params"]
    return loss_and_gradient.lower(model, shapes).as_text().count("\n")

  assert lines(12) == lines(2)


def lowered_step(num_layers, on_trace, **overrides):
  """Lowers a gradient of the prompt, with dropout."""
  prompt_alone = Injections(prompt=EVERYTHING.prompt)
  model = transformer(num_layers, prompt_alone, dropout_rate=0.1, **overrides)
  frozen = conformance.variable_shapes(model)["params"]
  prompt = frozen["encoder"].pop("prompt")
  on_trace()

  def loss(prompt, frozen, rng):
    logits = model.apply(
      {"params": conformance.with_prompt(frozen, prompt)},
      *INPUTS,
      enable_dropout=True,
      rngs={"dropout": rng},
    )
    return logits.sum()

  lowered = jax.jit(jax.grad(loss)).lower(prompt, frozen, jax.random.key(0))
  return lowered.as_text()


@pytest.mark.slow
@pytest.mark.parametrize("remat", [False, True])
def test_an_unrolled_layer_is_traced_once(monkeypatch, remat):
  """A layer is also lowered once; every further layer is only a call."""
  traced = []
  gated = layers._gated

  def count(*arguments):
    traced.append(arguments)
    return gated(*arguments)

  monkeypatch.setattr(layers, "_gated", count)
  functions, lines = [], []
  for num_layers in (2, 4):
    text = lowered_step(num_layers, traced.clear, remat=remat)
    assert len(traced) == 2  # One of the encoder, one of the decoder.
    functions.append(text.count("func.func"))
    lines.append(text.count("\n"))
  assert functions[0] == functions[1]
  # Measured: 50 lines for two more layers of each kind, beside 2,900.
  assert lines[1] - lines[0] < 0.03 * lines[0]


@pytest.mark.parametrize("overrides", [{}, {"remat": True}, {"scan_layers": 1}])
def test_a_trace_makes_no_class(monkeypatch, overrides):
  """Other threads that trace never see an `nn.Module` without its fields."""
  made = []
  monkeypatch.setattr(
    nn.Module, "__init_subclass__", lambda *_, **__: made.append(1)
  )
  lowered_step(2, made.clear, **overrides)
  assert not made


@pytest.mark.slow
def test_layers_traced_once_compute_the_same_with_dropout(monkeypatch):
  # Layers with different deltas are traced separately.
  injections = dataclasses.replace(
    EVERYTHING, delta_targets=".*coder/layers_[02]/mlp/.*"
  )
  model = transformer(3, injections, dropout_rate=0.5)

  def logits_and_sown(params, rng):
    logits, sown = model.apply(
      {"params": params},
      *INPUTS,
      enable_dropout=True,
      rngs={"dropout": rng},
      capture_intermediates=lambda module, _: isinstance(module, layers.Mlp),
      mutable=["intermediates"],
    )
    return {"logits": logits, **sown}

  arguments = conformance.random_params(model, 0.3), jax.random.key(1)

  def run():
    return jax.jit(lambda *x: logits_and_sown(*x))(*arguments)

  together = run()
  monkeypatch.setattr(stack, "_is_staged", lambda _: False)
  apart = run()
  # Logits, the decoder's last hidden states, two stacks' three layers each.
  assert len(jax.tree.leaves(together)) == 2 + 2 * 3
  _assert_equal(together, apart, atol=1e-5)
