"""Scanned layers compute what unrolled ones do, with every kind of method."""

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
from prompt_tuning.models.t5 import network, stack
from t5x import stacking

EVERYTHING = Injections(
  prompt=functools.partial(
    prompts.Prompt, length=3, prompt_init=prompts.random_uniform()
  ),
  prefix=functools.partial(prefix_tuning.Prefix, length=2),
  delta=functools.partial(lora.LowRankDelta, rank=2, alpha=4),
  adapter=functools.partial(adapter.Bottleneck, bottleneck=2),
  rescale=ia3.Rescale,
)
LAYERS = 2


def transformer(**overrides):
  config = conformance.config(
    num_encoder_layers=LAYERS, num_decoder_layers=LAYERS, **overrides
  )
  return network.Transformer(config, EVERYTHING)


def stacked(apart):
  """The parameters of `layers_<i>`, in one array each."""
  flat = traverse_util.flatten_dict(apart, sep="/")
  together = {}
  for name, array in flat.items():
    scanned = stack.SCANNED
    before, found, after = name.partition(f"/{scanned}_")
    if not found:
      together[name] = array
      continue
    after = after.partition("/")[2]
    names = [f"{before}/{scanned}_{i}/{after}" for i in range(LAYERS)]
    together[f"{before}/{scanned}/{after}"] = jnp.stack(
      [flat[x] for x in names]
    )
  return traverse_util.unflatten_dict(together, sep="/")


@pytest.fixture(scope="module")
def params():
  """Random values everywhere: some methods begin with zeros."""
  inputs = conformance.network_inputs(conformance.batch())
  shapes = jax.eval_shape(
    lambda rng: transformer().init(rng, *inputs, enable_dropout=False),
    jax.random.key(0),
  )["params"]
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype), shapes
  )


@functools.partial(jax.jit, static_argnums=0)
def loss_and_gradient(model, params):
  features = conformance.batch()

  def loss(params):
    logits = model.apply(
      {"params": params},
      *conformance.network_inputs(features),
      enable_dropout=False,
    )
    return jnp.mean(jnp.sin(logits)), logits

  return jax.grad(loss, has_aux=True)(params)


@pytest.fixture(scope="module")
def unrolled(params):
  return loss_and_gradient(transformer(), params)


def _assert_equal(a, b):
  a, b = (traverse_util.flatten_dict(x, sep="/") for x in (a, b))
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_allclose(a[name], b[name], atol=2e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("remat", [False, True])
def test_logits_and_gradients_are_those_of_unrolled_layers(
  params, unrolled, remat
):
  scanned = transformer(scan_layers=True, remat=remat)
  gradient, logits = loss_and_gradient(scanned, stacked(params))
  np.testing.assert_allclose(logits, unrolled[1], atol=2e-5)
  _assert_equal(gradient, stacked(unrolled[0]))


def test_decoding_with_a_cache_gives_the_same_logits(params, unrolled):
  logits = conformance.decode_step_by_step(
    transformer(scan_layers=True), stacked(params), conformance.batch()
  )
  real = conformance.batch()["decoder_target_tokens"] > 0
  np.testing.assert_allclose(logits[real], unrolled[1][real], atol=2e-5)


def test_batch_is_the_first_axis_of_what_is_cached():
  inputs = conformance.network_inputs(conformance.batch())
  cache = jax.eval_shape(
    lambda rng: transformer(scan_layers=True).init(
      rng, *inputs, enable_dropout=False, decode=True
    ),
    jax.random.key(0),
  )["cache"]
  sizes = {x.shape[:2] for x in jax.tree.leaves(cache) if x.ndim}
  assert sizes == {(len(inputs[0]), LAYERS)}


def test_a_method_of_single_layers_is_refused():
  model = transformer(scan_layers=True)
  single = model.clone(
    injections=Injections(
      delta=EVERYTHING.delta, delta_targets="encoder/layers_0/.*"
    )
  )
  inputs = conformance.network_inputs(conformance.batch())
  with pytest.raises(ValueError, match="delta_targets that treat all layers"):
    single.init(jax.random.key(0), *inputs, enable_dropout=False)


def test_dropout_differs_between_layers():
  """With one mask for all layers, they would drop the same features."""
  model = transformer(scan_layers=True, dropout_rate=0.5)
  inputs = conformance.network_inputs(conformance.batch())

  def program(rng):
    return model.apply(
      model.init(rng, *inputs, enable_dropout=False),
      *inputs,
      enable_dropout=True,
      rngs={"dropout": rng},
    )

  jaxpr = str(jax.make_jaxpr(program)(jax.random.key(0)))
  assert f"random_split[shape=({LAYERS},)]" in jaxpr


def test_program_does_not_grow_with_depth():
  def lines(layers):
    model = network.Transformer(
      conformance.config(
        num_encoder_layers=layers,
        num_decoder_layers=layers,
        scan_layers=True,
        remat=True,
      ),
      EVERYTHING.__class__(delta=EVERYTHING.delta),
    )
    inputs = conformance.network_inputs(conformance.batch())
    shapes = jax.eval_shape(
      lambda rng: model.init(rng, *inputs, enable_dropout=False),
      jax.random.key(0),
    )["params"]
    return loss_and_gradient.lower(model, shapes).as_text().count("\n")

  assert lines(12) == lines(2)


def test_the_runtime_has_the_same_name_for_scanned_layers():
  assert stacking.SCANNED == stack.SCANNED
