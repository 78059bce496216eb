"""Equal layers are traced once, and compute what flax's own layers do."""

import functools

import conformance
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning import prompts
from prompt_tuning.injections import Injections
from prompt_tuning.methods import adapter, ia3, lora, prefix_tuning
from prompt_tuning.t5 import layers, network, stack

METHODS = {
  "prompt": Injections(prompt=functools.partial(prompts.Prompt, 3)),
  "everything": Injections(
    prefix=functools.partial(prefix_tuning.Prefix, length=2),
    delta=functools.partial(lora.LowRankDelta, rank=2, alpha=4),
    adapter=functools.partial(adapter.Bottleneck, bottleneck=2),
    rescale=ia3.Rescale,
  ),
  "some layers": Injections(
    delta=functools.partial(lora.LowRankDelta, rank=2, alpha=4),
    delta_targets=".*coder/layers_[02]/mlp/.*",
  ),
}
INPUTS = conformance.network_inputs(conformance.batch())


def transformer(num_layers, method="prompt", **overrides):
  config = conformance.config(
    num_encoder_layers=num_layers, num_decoder_layers=num_layers, **overrides
  )
  return network.Transformer(config, METHODS[method])


def shapes_of(model):
  return jax.eval_shape(
    lambda rng: model.init(rng, *INPUTS, enable_dropout=False),
    jax.random.key(0),
  )["params"]


def random_params(model):
  """Random values everywhere: some methods begin with zeros."""
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype),
    shapes_of(model),
  )


def lowered_step(num_layers, on_trace=lambda: None, **overrides):
  """A gradient of the prompt, with dropout, as it is given to XLA."""
  model = transformer(num_layers, dropout_rate=0.1, **overrides)
  frozen = shapes_of(model)
  prompt = frozen["encoder"].pop("prompt")
  on_trace()

  def loss(prompt, frozen, rng):
    encoder = {**frozen["encoder"], "prompt": prompt}
    logits = model.apply(
      {"params": {**frozen, "encoder": encoder}},
      *INPUTS,
      enable_dropout=True,
      rngs={"dropout": rng},
    )
    return logits.sum()

  return jax.jit(jax.grad(loss)).lower(prompt, frozen, jax.random.key(0))


@pytest.mark.parametrize("remat", [False, True])
def test_a_layer_is_traced_once_however_many_there_are(monkeypatch, remat):
  traced = []
  gated = layers._gated

  def count(*arguments):
    traced.append(arguments)
    return gated(*arguments)

  monkeypatch.setattr(layers, "_gated", count)
  lowered_step(4, on_trace=traced.clear, remat=remat)
  assert len(traced) == 2  # One of the encoder, one of the decoder.


@pytest.mark.parametrize("remat", [False, True])
def test_a_layer_more_is_a_call_more(remat):
  """Each is differentiated and lowered once too."""
  two, four = (
    lowered_step(layers, remat=remat).as_text().splitlines()
    for layers in (2, 4)
  )
  functions = [
    [line for line in lines if "func.func" in line] for lines in (two, four)
  ]
  assert len(functions[0]) == len(functions[1])
  print(len(two), len(four))
  assert len(four) - len(two) < 0.1 * len(two)


@pytest.mark.parametrize("method", METHODS)
def test_logits_and_dropout_are_those_of_layers_apart(method, monkeypatch):
  model = transformer(3, method, dropout_rate=0.5)

  def logits_and_sown(params, rng):
    return model.apply(
      {"params": params},
      *INPUTS,
      enable_dropout=True,
      rngs={"dropout": rng},
      capture_intermediates=lambda module, _: isinstance(module, layers.Mlp),
      mutable=["intermediates"],
    )

  arguments = random_params(model), jax.random.key(1)
  together = jax.jit(logits_and_sown)(*arguments)
  monkeypatch.setattr(stack, "_is_staged", lambda _: False)
  jax.clear_caches()
  apart = jax.jit(logits_and_sown)(*arguments)
  expected, actual = (
    traverse_util.flatten_dict({"logits": logits, **sown}, sep="/")
    for logits, sown in (apart, together)
  )
  assert expected.keys() == actual.keys()
  assert len(actual) == 1 + 2 * 3
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, atol=1e-5), actual, expected
  )
