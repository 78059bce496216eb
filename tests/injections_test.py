"""Tests of methods' modules and of the settings that follow from them."""

import functools

import flax.linen as nn
import pytest

from prompt_tuning import injections, prompts
from prompt_tuning.injections import Injections
from prompt_tuning.methods import lora

PROMPT = functools.partial(prompts.Prompt, 5)
LORA = functools.partial(lora.LowRankDelta, rank=2, alpha=2)


@pytest.mark.parametrize(
  ("methods", "built"),
  [
    (Injections(), False),
    (Injections(delta=LORA), True),
    (Injections(delta=LORA, delta_targets="query/delta"), True),
    (Injections(delta=LORA, delta_targets="delta"), False),
    # This pattern is another method's.
    (Injections(delta=LORA, rescale_targets="delta"), True),
  ],
)
def test_a_module_is_made_where_its_pattern_matches(methods, built):
  class Owner(nn.Module):
    @nn.compact
    def __call__(self):
      return methods.build("delta", self, "delta")

  class Root(nn.Module):
    @nn.compact
    def __call__(self):
      return Owner(name="query")()

  assert (Root().apply({}) is not None) == built


def test_everything_follows_from_the_methods():
  both = Injections(prompt=PROMPT, delta=LORA)
  assert injections.parameter_patterns(both) == [".*/prompt/.*", ".*/delta/.*"]
  assert injections.assignment_map(both) == [
    ("^.*/prompt/.*$", None),
    ("^.*/delta/.*$", None),
  ]
  assert injections.axis_rules(both) == [
    ("prompt", None),
    ("prompt_embed", None),
    ("lora_rank", None),
  ]


def test_model_tuning_adds_nothing():
  assert injections.assignment_map(Injections()) == []
  assert injections.axis_rules(Injections()) == []
  with pytest.raises(ValueError, match="a method that adds parameters"):
    injections.parameter_patterns(Injections())


@pytest.mark.parametrize(
  ("assignment_map", "expected"),
  [(None, False), ((("a", "b"),), False), ((("a", "b"), ("c", None)), True)],
)
def test_has_initialised(assignment_map, expected):
  assert injections.has_initialised(assignment_map) == expected
