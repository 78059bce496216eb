"""Tests of computed prompts: their formulas and their folded form."""

import every_method
from flax import traverse_util
import gin
import numpy as np
import pytest
import tiny
import tiny_decoder

from prompt_tuning import injections, prompts
from prompt_tuning.methods import computed_prompts
from prompt_tuning.models import networks
from prompt_tuning.models.network import parameter_shapes

LENGTH = 4
CONFIGS = {"tiny": tiny.config(), "tiny_decoder": tiny_decoder.config()}
INPUTS = (np.array([[100, 7, 9, 30, 8], [101, 5, 60, 0, 0]]),) * 3


def _residual(base, down, down_bias, up, up_bias, norm_scale, norm_shift):
  output = np.maximum(base @ down + down_bias, 0) @ up + up_bias
  centred = output - output.mean(axis=1, keepdims=True)
  normed = centred / np.sqrt(output.var(axis=1, keepdims=True) + 1e-5)
  return base + normed * norm_scale + norm_shift


PROJECTION = np.random.default_rng(0).standard_normal((2, 16)) / np.sqrt(2)
FORMULAS = {
  "ulpt": lambda codes, scale, shift: codes @ PROJECTION * scale + shift,
  "low_rank_prompt": lambda left, right: left @ right,
  "residual_prompt": _residual,
  "superpos": lambda weights, tokens: np.einsum(
    "pe,peh->ph", weights, tokens.reshape(LENGTH, 2, tiny.WIDTH)
  ),
  "mpt": lambda shared, positions, features: (
    shared * np.outer(positions, features)
  ),
}


@pytest.mark.parametrize("method", every_method.COMPUTED)
def test_formula_is_the_papers(method):
  parts = every_method.parts_of(method)
  prompt = computed_prompts.fold(parts)
  assert prompt.shape == (LENGTH, tiny.WIDTH)
  np.testing.assert_allclose(prompt, FORMULAS[method](**parts), atol=1e-5)


@pytest.mark.parametrize(
  "model",
  [
    pytest.param(x, marks=[pytest.mark.slow] * ("decoder" in x))
    for x in CONFIGS
  ],
)
@pytest.mark.parametrize("method", every_method.COMPUTED)
def test_folded_prompt_gives_the_same_logits(method, model):
  parts = every_method.parts_of(method)
  base = every_method.normal(parameter_shapes(networks.make(CONFIGS[model])))
  owner = "decoder" if "decoder" in model else "encoder"
  plain = prompts.prompt_factory(LENGTH, prompts.random_uniform())
  logits = []
  for method, own in (
    (gin.get_configurable(injections.Injections)(), parts),
    (
      injections.Injections(prompt=plain),
      {"prompt": computed_prompts.fold(parts)},
    ),
  ):
    own = {f"{owner}/prompt/{name}": x for name, x in own.items()}
    params = traverse_util.unflatten_dict(base | own, sep="/")
    module = networks.make(CONFIGS[model], method)
    logits.append(
      module.apply({"params": params}, *INPUTS, enable_dropout=False)
    )
  assert np.abs(logits[0]).max() > 1
  np.testing.assert_allclose(*logits, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", every_method.COMPUTED)
def test_row_of_the_table(method, service_of, tmp_path):
  every_method.check_row(method, service_of, tmp_path)
