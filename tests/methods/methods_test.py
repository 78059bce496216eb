"""Every method, by its gin file, on a tiny T5: identity, training, decoding."""

import functools
import json

import conformance
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_gin

from prompt_tuning.models.t5 import network
from t5x import checkpoints

ATTENTIONS = [
  "encoder/layers_0/attention",
  "decoder/layers_0/self_attention",
  "decoder/layers_0/encoder_decoder_attention",
]
MLPS = ["encoder/layers_0/mlp", "decoder/layers_0/mlp"]
STACKS = [
  "encoder/attention_prefix",
  "decoder/self_attention_prefix",
  "decoder/encoder_decoder_attention_prefix",
]
# What each method adds, for every one of its owners.
ADDED = {
  "lora": [
    f"{owner}/{kernel}/delta/{name}"
    for owner in ATTENTIONS
    for kernel in ("query", "value")
    for name in ("down", "up")
  ],
  "adapter": [
    f"{owner}/adapter/{name}"
    for owner in ATTENTIONS + MLPS
    for name in ("down", "down_bias", "up", "up_bias")
  ],
  "ia3": [
    *(f"{owner}/key_rescale/scale" for owner in ATTENTIONS),
    *(f"{owner}/value_rescale/scale" for owner in ATTENTIONS),
    *(f"{owner}/rescale/scale" for owner in MLPS),
  ],
  "prefix_tuning": [
    f"{owner}/{name}_0" for owner in STACKS for name in ("key", "value")
  ],
  "prefix_tuning through an MLP": [
    f"{owner}/{name}"
    for owner in STACKS
    for name in (
      "table",
      *(
        f"{layer}/{part}"
        for layer in ("hidden", "key_0", "value_0")
        for part in ("kernel", "bias")
      ),
    )
  ],
  "multitask_prompt": [
    "encoder/prompt/shared/prompt",
    *(f"encoder/prompt/task_{name}" for name in "abcdefgh"),
  ],
  "prompt_tuning": ["encoder/prompt/prompt"],
}
BOTH = "prompt tuning and LoRA"
ADDED[BOTH] = ADDED["prompt_tuning"] + ADDED["lora"]
IDENTITIES = {"lora", "adapter", "ia3"}


@functools.cache
def _base():
  return tiny.make_model(with_prompt=False).get_initial_variables(
    jax.random.key(3), tiny.input_shapes()
  )["params"]


def _features():
  rng = np.random.default_rng(0)
  inputs = rng.integers(3, 200, (4, tiny.LENGTHS["inputs"]))
  # Of tasks "a" and "b", in ByteVocabulary's pieces.
  inputs[:, 0] = [100, 101, 100, 101]
  inputs[1, 8:] = 0
  targets = rng.integers(3, 200, (4, tiny.LENGTHS["targets"]))
  targets[2, 3:] = 0
  return {
    "encoder_input_tokens": inputs,
    "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
    "decoder_target_tokens": targets,
  }


def _flat(params):
  return traverse_util.flatten_dict(params, sep="/")


def _with_added(params, added):
  return traverse_util.unflatten_dict(_flat(params) | added, sep="/")


def _forward(module: network.Transformer):
  """Makes params -> logits of the targets that are not padding."""
  features = _features()
  apply = jax.jit(functools.partial(module.apply, enable_dropout=False))

  def forward(params):
    logits = apply({"params": params}, *conformance.network_inputs(features))
    return np.asarray(logits)[features["decoder_target_tokens"] > 0]

  return forward


@functools.cache
def _plain_logits():
  return _forward(tiny.make_model(with_prompt=False).module)(_base())


def _added(module):
  """Initial values of what the method adds to the base model."""

  @jax.jit
  def init(rng):
    variables = module.init(
      rng, *conformance.network_inputs(_features()), enable_dropout=False
    )
    base = _flat(_base())
    return {
      k: v for k, v in _flat(variables["params"]).items() if k not in base
    }

  return init(jax.random.key(0))


@pytest.mark.parametrize("method", ADDED)
def test_method_in_the_network(method):
  module = tiny_gin.model(method).module
  forward, plain = _forward(module), _plain_logits()
  added = _added(module)
  assert sorted(added) == sorted(ADDED[method])
  first = forward(_with_added(_base(), added))
  if method in IDENTITIES:
    np.testing.assert_allclose(first, plain, atol=1e-6)

  rng = np.random.default_rng(1)
  trained = {
    name: jnp.asarray(rng.normal(size=value.shape), jnp.float32)
    for name, value in added.items()
  }
  params = _with_added(_base(), trained)
  logits = forward(params)
  assert np.abs(logits - plain).max() > 0.1
  features = _features()
  # Generation computes the same as teacher forcing.
  decoded = conformance.decode_step_by_step(module, params, features)
  np.testing.assert_allclose(
    decoded[features["decoder_target_tokens"] > 0], logits, atol=1e-4
  )


def test_lora_beside_a_prompt_begins_as_the_prompt_alone():
  prompt = tiny_gin.model("prompt_tuning").module
  both = tiny_gin.model(BOTH).module
  added = _added(both)
  alone = {name: added[name] for name in ADDED["prompt_tuning"]}
  np.testing.assert_allclose(
    _forward(both)(_with_added(_base(), added)),
    _forward(prompt)(_with_added(_base(), alone)),
    atol=1e-6,
  )


# tests/runtime does it for the others.
@pytest.mark.slow
@pytest.mark.parametrize(
  "method",
  [
    "lora",
    "adapter",
    "ia3",
    "prefix_tuning",
    "prefix_tuning through an MLP",
    "multitask_prompt",
    BOTH,
  ],
)
def test_method_trains_and_is_evaluated_from_its_checkpoint(method, tmp_path):
  base = tiny.save_base(tmp_path / "base")
  _, _, _, start = tiny_gin.start(method, base)
  assert sorted(_flat(start.trainable)) == sorted(ADDED[method])
  fingerprint = checkpoints.open_checkpoint(base).fingerprint
  assert checkpoints.fingerprint(start.frozen) == fingerprint

  # To the bit.
  assert tiny_gin.train(method, base, tmp_path / "run") == fingerprint
  record = json.loads((tmp_path / "run" / "record.json").read_text())
  assert record["status"] == "finished"
  trained = _trained(tmp_path / "run", ADDED[method])
  for name, before in _flat(start.trainable).items():
    assert np.abs(trained[name] - before).max() > 0, name

  metrics = tiny_gin.evaluate(method, tmp_path / "run", tmp_path / "eval")
  assert metrics == record["evals"][-1]["metrics"]


def _trained(run, names):
  """Reads parameters from the latest checkpoint of a run."""
  checkpoint = checkpoints.open_checkpoint(str(run))
  host = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return checkpoint.read(
    {
      name: jax.ShapeDtypeStruct(
        checkpoint.shapes[name].shape, np.float32, sharding=host
      )
      for name in names
    }
  )
