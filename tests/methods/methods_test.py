"""Every method, by its gin file, on a tiny T5, and what follows from one."""

import functools
import re
from typing import Any

import conformance
from flax import traverse_util
import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_gin

from prompt_tuning import injections, prompts
from prompt_tuning.injections import Injections
from prompt_tuning.methods import lora, trainable
from t5x import checkpoints, models, partitioning, utils
from t5x import eval as eval_lib
from t5x import train as train_lib

_ATTENTION = (
  r"(encoder/layers_0/|decoder/layers_0/(self_|encoder_decoder_))attention"
)
_MLP = r"(encoder|decoder)/layers_0/mlp"
_PREFIX = r"(encoder/|decoder/(self_|encoder_decoder_))attention_prefix"
_LORA = rf"{_ATTENTION}/(query|value)/delta/(down|up)"
_FOUR = ["PROMPT_LENGTH = 4"]
_UNIFORM = "prompts/random_uniform"
BOTH = "prompt tuning and LoRA"
# Method -> its files, bindings, and how many parameters it adds, named as what.
METHODS: dict[str, tuple[list[str], list[str], int, str]] = {
  "prompt_tuning": (
    ["methods/prompt_tuning", _UNIFORM],
    _FOUR,
    1,
    r"encoder/prompt/prompt",
  ),
  "multitask_prompt": (
    ["methods/multitask_prompt", _UNIFORM],
    # In byte pieces, an input of the tiny task begins with one of these.
    [*_FOUR, f"TASK_PREFIXES = {list('abcdefgh')}"],
    9,
    r"encoder/prompt/(shared/prompt|task_[a-h])",
  ),
  "prefix_tuning": (
    ["methods/prefix_tuning"],
    ["PREFIX_LENGTH = 4"],
    6,
    rf"{_PREFIX}/(key|value)_0",
  ),
  "prefix_tuning through an MLP": (
    ["methods/prefix_tuning"],
    ["PREFIX_LENGTH = 4", "PREFIX_HIDDEN_DIM = 8"],
    21,
    rf"{_PREFIX}/(table|(hidden|key_0|value_0)/(kernel|bias))",
  ),
  "lora": (["methods/lora"], ["LORA_RANK = 2"], 12, _LORA),
  "adapter": (
    ["methods/adapter"],
    ["ADAPTER_SIZE = 4"],
    20,
    rf"({_ATTENTION}|{_MLP})/adapter/(down|up)(_bias)?",
  ),
  BOTH: (
    ["methods/prompt_tuning", _UNIFORM, "methods/lora"],
    [*_FOUR, "LORA_RANK = 2"],
    13,
    rf"encoder/prompt/prompt|{_LORA}",
  ),
  "ia3": (
    ["methods/ia3"],
    [],
    8,
    rf"{_ATTENTION}/(key|value)_rescale/scale|{_MLP}/rescale/scale",
  ),
}
IDENTITIES = {"lora", "adapter", "ia3"}


INPUTS = conformance.network_inputs(
  {
    # Of tasks "a" and "b", in ByteVocabulary's pieces.
    "encoder_input_tokens": np.array([[100, 7, 9, 30, 8], [101, 5, 60, 0, 0]]),
    "decoder_input_tokens": np.array([[0, 6, 7], [0, 9, 9]]),
    "decoder_target_tokens": np.array([[6, 7, 8], [9, 9, 11]]),
  }
)


def _flat(params):
  return traverse_util.flatten_dict(params, sep="/")


def _configure(method: str, program: str = "train", **macros: Any) -> None:
  """Configures a program with a method."""
  files, bindings, *_ = METHODS[method]
  macros = {"INITIAL_CHECKPOINT_PATH": "none", **macros}
  if program == "train":
    macros = {
      "MODEL_DIR": "none",
      "TASK_FEATURE_LENGTHS": tiny.LENGTHS,
      "TRAIN_STEPS_RELATIVE": 3,
      "EVAL_PERIOD": 3,
      "EVAL_STEPS": 1,
      **macros,
    }
  tiny_gin.configure_files(
    program, [f"gin/{name}.gin" for name in files], bindings, **macros
  )


def _check_names(method: str, added: dict[str, Any]) -> None:
  *_, number, pattern = METHODS[method]
  assert len(added) == number
  assert not [name for name in added if not re.fullmatch(pattern, name)]


@functools.cache
def _programs(method):
  """The method's initial parameters, and parameters -> logits."""
  if method is None:
    module = tiny.make_model(with_prompt=False).module
  else:
    _configure(method)
    module = gin.get_configurable(models.EncoderDecoderModel)().module
  init, apply = (
    jax.jit(functools.partial(function, enable_dropout=False))
    for function in (module.init, module.apply)
  )
  params = _flat(init(jax.random.key(0), *INPUTS)["params"])

  def forward(params):
    nested = traverse_util.unflatten_dict(params, sep="/")
    return np.asarray(apply({"params": nested}, *INPUTS))

  return params, forward


@pytest.mark.parametrize("method", METHODS)
def test_method_in_the_network(method):
  base, plain = _programs(None)
  params, forward = _programs(method)
  added = {name: x for name, x in params.items() if name not in base}
  _check_names(method, added)
  logits = plain(base)
  if method in IDENTITIES:
    np.testing.assert_allclose(forward(base | added), logits, atol=1e-6)
  if method == BOTH:  # As the prompt alone.
    _, alone = _programs("prompt_tuning")
    prompt = {k: x for k, x in added.items() if "prompt" in k}
    np.testing.assert_allclose(
      forward(base | added), alone(base | prompt), atol=1e-6
    )
  rng = np.random.default_rng(1)
  trained = {
    name: jnp.asarray(rng.normal(size=value.shape), jnp.float32)
    for name, value in added.items()
  }
  assert np.abs(forward(base | trained) - logits).max() > 0.1


# tests/runtime does it for the prompt.
@pytest.mark.slow
@pytest.mark.parametrize("method", [x for x in METHODS if x != "prompt_tuning"])
def test_method_trains_and_is_evaluated_from_its_checkpoint(method, tmp_path):
  base = tiny.save_base(tmp_path / "base")
  run = tmp_path / "run"
  _configure(method, INITIAL_CHECKPOINT_PATH=base, MODEL_DIR=str(run))
  initializer = tiny.make_initializer(
    gin.get_configurable(models.EncoderDecoderModel)(),
    gin.get_configurable(partitioning.PjitPartitioner)(num_partitions=1),
  )
  start, _ = initializer.from_base_model(
    gin.get_configurable(utils.RestoreCheckpointConfig)(),
    # As t5x.train does.
    jax.random.split(jax.random.key(0))[0],
  )
  _check_names(method, _flat(start.trainable))
  outcome = gin.get_configurable(train_lib.train)(train_eval_dataset_cfg=None)
  assert outcome.status == "finished"
  # To the bit.
  fingerprint = checkpoints.open_checkpoint(base).fingerprint
  assert checkpoints.fingerprint(start.frozen) == fingerprint
  assert checkpoints.fingerprint(outcome.train_state.frozen) == fingerprint
  trained = _flat(outcome.train_state.trainable)
  for name, before in _flat(start.trainable).items():
    assert np.abs(trained[name] - before).max() > 0, name
  _configure(
    method,
    "eval",
    INITIAL_CHECKPOINT_PATH="none",
    CHECKPOINT_PATH=str(run),
    EVAL_OUTPUT_DIR=str(tmp_path / "eval"),
  )
  metrics = gin.get_configurable(eval_lib.evaluate)()
  assert metrics == tiny.record(run)["evals"][-1]["metrics"]


def test_a_pattern_must_match_the_whole_path():
  matches = trainable.matches_any(["encoder/prompt/.*", "/token_embedder/.*"])
  # Patterns and paths may start with the slash of flax.
  assert matches("encoder/prompt/prompt", None)
  assert matches("/encoder/prompt/prompt", None)
  assert matches("token_embedder/embedding", None)
  assert not matches("encoder/encoder_norm/scale", None)
  assert not matches("decoder/encoder/prompt/prompt", None)
  # The pattern of the released code.
  assert trainable.matches_any([".*/prompt/.*"])("/encoder/prompt/prompt", None)


def test_says_which_patterns_match_nothing():
  matches = trainable.matches_any([".*/prompt/.*", ".*/typo/.*"])
  assert matches.unmatched(["encoder/prompt/prompt"]) == [".*/typo/.*"]
  with pytest.raises(ValueError, match="sequence of patterns"):
    trainable.matches_any("encoder/prompt/.*")


def test_everything_follows_from_the_methods():
  prompt = functools.partial(prompts.Prompt, 5)
  delta = functools.partial(lora.LowRankDelta, rank=2, alpha=2)
  both = Injections(prompt=prompt, delta=delta)
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


def test_a_map_that_leaves_something_out_has_initialised_it():
  assert not injections.has_initialised(None)
  assert not injections.has_initialised((("a", "b"),))
  assert injections.has_initialised((("a", "b"), ("c", None)))
