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


@functools.cache
def _programs(method):
  """The method's initial parameters, and parameters -> logits."""
  if method is None:
    module = tiny.make_model(with_prompt=False).module
  else:
    module = tiny_gin.model(method).module
  init, apply = (
    jax.jit(functools.partial(function, enable_dropout=False))
    for function in (module.init, module.apply)
  )
  params = _flat(init(jax.random.key(0), *INPUTS)["params"])

  def forward(params):
    nested = traverse_util.unflatten_dict(params, sep="/")
    return np.asarray(apply({"params": nested}, *INPUTS))

  return params, forward


@pytest.mark.parametrize("method", ADDED)
def test_method_in_the_network(method):
  base, plain = _programs(None)
  params, forward = _programs(method)
  added = {name: x for name, x in params.items() if name not in base}
  assert sorted(added) == sorted(ADDED[method])
  logits = plain(base)
  if method in IDENTITIES:
    np.testing.assert_allclose(forward(base | added), logits, atol=1e-6)
  if method == BOTH:  # As the prompt alone.
    _, alone = _programs("prompt_tuning")
    name = ADDED["prompt_tuning"][0]
    np.testing.assert_allclose(
      forward(base | added),
      alone(base | {name: added[name]}),
      atol=1e-6,
    )
  rng = np.random.default_rng(1)
  trained = {
    name: jnp.asarray(rng.normal(size=value.shape), jnp.float32)
    for name, value in added.items()
  }
  assert np.abs(forward(base | trained) - logits).max() > 0.1


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
