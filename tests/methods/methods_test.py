"""Every method, by its gin file, on a tiny T5: identity, training, decoding."""

import functools
import json
from typing import Any

import computed
import conformance
from flax import traverse_util
import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio
import tiny
import tiny_decoder
import tiny_gin

import prompt_tuning as pt
from prompt_tuning.interop import checkpoint_conversion
from prompt_tuning.methods import adapter, lora
from t5x import checkpoints, models, partitioning, trainer, utils
from t5x import eval as eval_lib
from t5x import train as train_lib
from t5x.formats import stored_arrays

_PROMPT = ["gin/prompts/random_uniform.gin"]
# Method -> the stem of its file, what other files it takes, and bindings.
METHODS: dict[str, tuple[str, list[str], list[str]]] = {
  "prompt_tuning": ("prompt_tuning", _PROMPT, ["PROMPT_LENGTH = 4"]),
  "multitask_prompt": (
    "multitask_prompt",
    _PROMPT,
    # In byte pieces, an input of the tiny task begins with one of these.
    ["PROMPT_LENGTH = 4", f"TASK_PREFIXES = {list('abcdefgh')}"],
  ),
  "prefix_tuning": ("prefix_tuning", [], ["PREFIX_LENGTH = 4"]),
  "prefix_tuning through an MLP": (
    "prefix_tuning",
    [],
    ["PREFIX_LENGTH = 4", "PREFIX_HIDDEN_DIM = 8"],
  ),
  "lora": ("lora", [], ["LORA_RANK = 2"]),
  "adapter": ("adapter", [], ["ADAPTER_SIZE = 4"]),
  "prompt tuning and LoRA": (
    "prompt_tuning",
    [*_PROMPT, "gin/methods/lora.gin"],
    ["PROMPT_LENGTH = 4", "LORA_RANK = 2"],
  ),
  "ia3": ("ia3", [], []),
  **{
    stem: (stem, files, [*bindings, "PROMPT_LENGTH = 4"])
    for stem, (files, bindings) in computed.METHODS.items()
  },
  "model_tuning": ("model_tuning", [], []),
}
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
# Methods whose parts are tested alone.
COMPOSED = (BOTH, "prefix_tuning through an MLP")
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


def _configure(
  method: str, program: str = "train", model: str = "tiny", **macros: Any
) -> None:
  """Configures a program with a method."""
  stem, files, bindings = METHODS[method]
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
    program, [f"gin/methods/{stem}.gin", *files], bindings, model, **macros
  )


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
  if method == BOTH:  # As the prompt alone.
    both = forward(base | added)  # It is traced with this configuration.
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


class _FrozenPart(trainer.BaseAction):
  """Notes the fingerprint of what is frozen whenever a run is evaluated."""

  def __init__(self):
    self.fingerprints = []

  def run(self, train_state, metrics_by_task) -> bool:
    self.fingerprints.append(checkpoints.fingerprint(train_state.frozen))
    return False


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
  assert sorted(_flat(start.trainable)) == sorted(ADDED[method])
  frozen = _FrozenPart()
  outcome = gin.get_configurable(train_lib.train)(
    train_eval_dataset_cfg=None, actions={"INFER_EVAL": [frozen]}
  )
  assert outcome.status == "finished"
  # To the bit.
  fingerprint = checkpoints.open_checkpoint(base).fingerprint
  assert checkpoints.fingerprint(start.frozen) == fingerprint
  assert frozen.fingerprints[-1] == fingerprint
  record = json.loads((run / "record.json").read_text())
  assert record["status"] == "finished"
  # From the latest checkpoint of the run.
  checkpoint = checkpoints.open_checkpoint(str(run))
  host = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  trained = checkpoint.read(
    {
      name: jax.ShapeDtypeStruct(
        checkpoint.arrays[name].shape, np.float32, sharding=host
      )
      for name in ADDED[method]
    }
  )
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
  assert metrics == record["evals"][-1]["metrics"]


def _trained(run):
  """The arrays of a run's latest checkpoint that trained."""
  checkpoint = checkpoints.open_checkpoint(str(run))
  names = checkpoint.metadata["trained"]
  return {x: stored_arrays.read(checkpoint.arrays[x]) for x in names}


@pytest.mark.slow
@pytest.mark.parametrize(
  ("network", "method"),
  [
    (network, method)
    for network in tiny_decoder.CONFIGS
    for method in METHODS
    # Methods that end in a prompt differ in the prompt alone.
    if network != "tiny_t5gemma2" or method in ADDED
  ],
)
def test_method_on_a_network_trains_resumes_and_answers(
  network, method, tmp_path
):
  base = tiny_decoder.save(tmp_path / "base", network)
  whole, parts = tmp_path / "whole", tmp_path / "parts"
  settings = {"model": network, "INITIAL_CHECKPOINT_PATH": base}

  def train(run, steps):
    changed = {"TRAIN_STEPS_RELATIVE": steps, "EVAL_PERIOD": 2}
    _configure(method, **settings, **changed, MODEL_DIR=str(run))
    train = gin.get_configurable(train_lib.train)
    assert train(train_eval_dataset_cfg=None).status == "finished"
    return _trained(run)

  first, resumed = train(parts, 2), train(parts, 4)
  expected = train(whole, 4)
  assert resumed.keys() == expected.keys()
  for name, array in expected.items():
    np.testing.assert_array_equal(resumed[name], array)
    assert np.abs(array - first[name]).max() > 0, name
  evals = tiny.record(whole)["evals"]
  assert tiny.record(parts)["evals"] == evals
  settings["CHECKPOINT_PATH"] = str(parts)
  _configure(method, "eval", **settings, EVAL_OUTPUT_DIR=str(tmp_path / "eval"))
  metrics = gin.get_configurable(eval_lib.evaluate)()
  assert metrics == evals[-1]["metrics"]
  prompt = parts / "prompt.safetensors"
  assert prompt.exists() == (method in {"prompt_tuning", *computed.METHODS})
  if prompt.exists():
    model = pt.load(base, seqio.ByteVocabulary())
    found = model.evaluate(tiny.TASK, prompt)
    assert found in [x["metrics"][tiny.TASK] for x in evals]
  if method == "model_tuning":
    run = checkpoint_conversion.open_model(str(parts))
    checkpoint_conversion.convert(run, "hf", str(tmp_path / "out"))
    out = checkpoint_conversion.open_model(str(tmp_path / "out"))
    for name, array in expected.items():
      np.testing.assert_array_equal(stored_arrays.read(out.arrays[name]), array)
