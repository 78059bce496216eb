"""Tests of every method by its gin files, on a T5 and on every network."""

import functools

import conformance
import documented
from every_method import (
  ADDED,
  DOCS,
  METHODS,
  NETWORKS,
  OTHERS,
  check_row,
  configure,
)
from flax import traverse_util
import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from prompt_tuning.methods import adapter, lora
from t5x import models

BOTH = "prompt_and_lora"
# Methods whose parts have tests.
COMPOSED = (BOTH, "prefix_tuning through an MLP")
IDENTITIES = {"lora", "adapter", "ia3"}
INPUTS = conformance.network_inputs(
  {
    # The first pieces are "a" and "b", the prefixes of two tasks.
    "encoder_input_tokens": np.array([[100, 7, 9, 30, 8], [101, 5, 60, 0, 0]]),
    "decoder_input_tokens": np.array([[0, 6, 7], [0, 9, 9]]),
    "decoder_target_tokens": np.array([[6, 7, 8], [9, 9, 11]]),
  }
)


@functools.cache
def _programs(method):
  """Returns a method's initial parameters and a function to its logits."""
  if method is None:
    module = tiny.make_model(with_prompt=False).module
  else:
    configure(method)
    module = gin.get_configurable(models.EncoderDecoderModel)().module
  init, apply = (
    jax.jit(functools.partial(function, enable_dropout=False))
    for function in (module.init, module.apply)
  )
  params = init(jax.random.key(0), *INPUTS)["params"]
  params = traverse_util.flatten_dict(params, sep="/")

  def forward(params):
    nested = traverse_util.unflatten_dict(params, sep="/")
    return np.asarray(apply({"params": nested}, *INPUTS))

  return params, forward


@pytest.mark.parametrize(
  "method",
  [pytest.param(x, marks=[pytest.mark.slow] * (x in COMPOSED)) for x in ADDED],
)
def test_method_in_the_network(method):
  base, plain = _programs(None)
  params, forward = _programs(method)
  added = {name: x for name, x in params.items() if name not in base}
  assert sorted(added) == sorted(ADDED[method])
  logits = plain(base)
  if method in IDENTITIES:
    np.testing.assert_allclose(forward(base | added), logits, atol=1e-6)
  if method == BOTH:  # LoRA changes nothing at the start.
    both = forward(base | added)  # Traced before gin changes.
    _, alone = _programs("prompt_tuning")
    name = ADDED["prompt_tuning"][0]
    np.testing.assert_allclose(
      both, alone(base | {name: added[name]}), atol=1e-6
    )
  rng = np.random.default_rng(1)
  trained = {
    name: jnp.asarray(rng.normal(size=value.shape), jnp.float32)
    for name, value in added.items()
  }
  assert np.abs(forward(base | trained) - logits).max() > 0.1


def test_adapter_is_a_bottleneck_beside_its_inputs():
  module = adapter.Bottleneck(3)
  rng = np.random.default_rng(0)
  inputs = rng.normal(size=(2, 4, 5)).astype(np.float32)
  params = jax.tree.map(
    lambda x: rng.normal(size=x.shape).astype(np.float32),
    module.init(jax.random.key(0), inputs)["params"],
  )
  hidden = np.asarray(
    jax.nn.gelu(inputs @ params["down"] + params["down_bias"])
  )
  np.testing.assert_allclose(
    module.apply({"params": params}, inputs),
    inputs + hidden @ params["up"] + params["up_bias"],
    rtol=1e-5,
    atol=1e-5,
  )


def test_low_rank_delta_is_divided_as_its_kernel_is():
  module, axes = lora.LowRankDelta(rank=2, alpha=1.0), ("embed", "joined_kv")
  shapes = jax.eval_shape(
    lambda key, x: module.init(key, x, 3, axes),
    jax.random.key(0),
    jnp.zeros((1, 4, 5)),
  )
  names = {k: x.names for k, x in shapes["params_axes"].items()}
  assert names == {
    "down_axes": ("embed", "lora_rank"),
    "up_axes": ("lora_rank", "joined_kv"),
  }


@pytest.mark.slow
@pytest.mark.parametrize("method", OTHERS)
def test_row_of_the_table(method, service_of, tmp_path):
  check_row(method, service_of, tmp_path)


def test_table_has_every_recipe():
  recipes = {x.stem for x in (documented.ROOT / "gin/recipes").glob("*.gin")}
  assert {x.split()[0] for x in METHODS} == recipes - {"evaluate_prompt"}
  assert f"\n| Recipe | {' | '.join(NETWORKS)} |\n" in DOCS.read_text()
