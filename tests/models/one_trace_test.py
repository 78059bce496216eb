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
from prompt_tuning.models.t5 import layers, network, stack

PROMPT = Injections(prompt=functools.partial(prompts.Prompt, 3))
# A delta is where layers differ: they are traced apart.
EVERYTHING = Injections(
  prompt=PROMPT.prompt,
  prefix=functools.partial(prefix_tuning.Prefix, length=2),
  delta=functools.partial(lora.LowRankDelta, rank=2, alpha=4),
  adapter=functools.partial(adapter.Bottleneck, bottleneck=2),
  rescale=ia3.Rescale,
  delta_targets=".*coder/layers_[02]/mlp/.*",
)
INPUTS = conformance.network_inputs(conformance.batch())


def transformer(num_layers, injections=PROMPT, **overrides):
  config = conformance.config(
    num_encoder_layers=num_layers, num_decoder_layers=num_layers, **overrides
  )
  return network.Transformer(config, injections)


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

  lowered = jax.jit(jax.grad(loss)).lower(prompt, frozen, jax.random.key(0))
  return lowered.as_text()


@pytest.mark.parametrize("remat", [False, True])
def test_a_layer_is_traced_once_and_one_more_is_a_call_more(monkeypatch, remat):
  """It is differentiated and lowered once too."""
  traced = []
  gated = layers._gated

  def count(*arguments):
    traced.append(arguments)
    return gated(*arguments)

  monkeypatch.setattr(layers, "_gated", count)
  functions, lines = [], []
  for num_layers in (2, 4):
    text = lowered_step(num_layers, on_trace=traced.clear, remat=remat)
    assert len(traced) == 2  # One of the encoder, one of the decoder.
    functions.append(text.count("func.func"))
    lines.append(text.count("\n"))
  assert functions[0] == functions[1]
  # Measured: 50 lines for two layers more of each kind, beside 2,900.
  assert lines[1] - lines[0] < 0.03 * lines[0]


def test_logits_and_dropout_are_those_of_layers_apart(monkeypatch):
  model = transformer(3, EVERYTHING, dropout_rate=0.5)

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

  def run():
    program = jax.jit(lambda *x: logits_and_sown(*x)).lower(*arguments)
    quickly = {"xla_backend_optimization_level": 0}
    return program.compile(compiler_options=quickly)(*arguments)

  together = run()
  monkeypatch.setattr(stack, "_is_staged", lambda _: False)
  apart = run()
  expected, actual = (
    traverse_util.flatten_dict({"logits": logits, **sown}, sep="/")
    for logits, sown in (apart, together)
  )
  assert expected.keys() == actual.keys()
  assert len(actual) == 1 + 2 * 3
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, atol=1e-5), actual, expected
  )
