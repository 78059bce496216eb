"""Every method by its gin files: identity on a T5, runs on every network."""

import contextlib
import functools
import re
from typing import Any

import computed
import conformance
import documented
from flax import traverse_util
import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio
import served
import tiny
import tiny_decoder
import tiny_gin

import prompt_tuning as pt
from prompt_tuning.inference.batch_queue import Settings, Shapes
from prompt_tuning.inference.engine import Engine
from prompt_tuning.interop import checkpoint_conversion
from prompt_tuning.methods import adapter, lora
from t5x import checkpoints, models
from t5x import eval as eval_lib
from t5x import train as train_lib
from t5x.formats import stored_arrays

_PROMPT = ["gin/prompts/random_uniform.gin"]
# In byte pieces, an input of the tiny task begins with one of these.
_PREFIXES = list("abcdefgh")
# Of one of the tests, in its folder.
_FILE = "prompt.npy"
# Recipe -> the stem of its method's file, what other files it takes, and
# bindings.
METHODS: dict[str, tuple[str, list[str], list[str]]] = {
  "prompt_tuning": ("prompt_tuning", _PROMPT, ["PROMPT_LENGTH = 4"]),
  "multitask_prompt": (
    "multitask_prompt",
    _PROMPT,
    ["PROMPT_LENGTH = 4", f"TASK_PREFIXES = {_PREFIXES}"],
  ),
  "mpt_sources": (
    "mpt_sources",
    _PROMPT,
    [
      *("PROMPT_LENGTH = 4", f"TASK_PREFIXES = {_PREFIXES}"),
      f"MPT_TEACHERS = {dict.fromkeys(_PREFIXES, _FILE)}",
    ],
  ),
  "spot": (
    "prompt_tuning",
    ["gin/prompts/from_file.gin"],
    [f"PROMPT_FILE = {_FILE!r}"],
  ),
  "prefix_tuning": ("prefix_tuning", [], ["PREFIX_LENGTH = 4"]),
  "prefix_tuning through an MLP": (
    "prefix_tuning",
    [],
    ["PREFIX_LENGTH = 4", "PREFIX_HIDDEN_DIM = 8"],
  ),
  "lora": ("lora", [], ["LORA_RANK = 2"]),
  "adapter": ("adapter", [], ["ADAPTER_SIZE = 4"]),
  "prompt_and_lora": (
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
BOTH = "prompt_and_lora"
# Methods whose parts are tested alone.
COMPOSED = (BOTH, "prefix_tuning through an MLP")
ADDED[BOTH] = ADDED["prompt_tuning"] + ADDED["lora"]
IDENTITIES = {"lora", "adapter", "ia3"}
# A network's name in the table -> its gin file in testdata.
NETWORKS = {
  "T5": "tiny",
  "decoder": "tiny_decoder",
  "T5Gemma": "tiny_t5gemma",
  "T5Gemma 2": "tiny_t5gemma2",
}
DOCS = documented.ROOT / "docs/methods.md"


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


def _trained(run):
  """The arrays of a run's latest checkpoint that trained."""
  checkpoint = checkpoints.open_checkpoint(str(run))
  names = checkpoint.metadata["trained"]
  return {x: stored_arrays.read(checkpoint.arrays[x]) for x in names}


@pytest.fixture(scope="module")
def service_of(tmp_path_factory):
  """Returns a function: network -> its base model, and a server of it."""
  shapes = Shapes(rows=(1,), lengths=(24,), steps=(8,), labels=(16,), beams=())
  with contextlib.ExitStack() as stack:

    @functools.cache
    def make(network):
      folder = tmp_path_factory.mktemp(network)
      if network == "tiny":
        base = tiny.save_base(folder / "base")
      else:
        base = tiny_decoder.save(folder / "base", network)
      model = pt.load(base, seqio.ByteVocabulary())
      engine = stack.enter_context(Engine(model, Settings(shapes=shapes)))
      return model, served.make_service(engine, folder / "prompts")

    yield make


def _cell(method, network, folder, model, service):
  """Trains, resumes, evaluates and serves; returns the cell of the table."""
  whole, parts = folder / "whole", folder / "parts"
  settings = {"model": network, "INITIAL_CHECKPOINT_PATH": model.checkpoint}

  def train(run, steps):
    changed = {"TRAIN_STEPS_RELATIVE": steps, "EVAL_PERIOD": 2}
    _configure(method, **settings, **changed, MODEL_DIR=str(run))
    train = gin.get_configurable(train_lib.train)
    outcome = train(train_eval_dataset_cfg=None)
    assert outcome.status == "finished"
    if frozen := outcome.train_state.frozen:
      assert checkpoints.fingerprint(frozen) == model.fingerprint
    return _trained(run)

  first, resumed = train(parts, 2), train(parts, 4)
  expected = train(whole, 4)
  if network == "tiny" and method in ADDED:
    assert sorted(expected) == sorted(ADDED[method])
  assert resumed.keys() == expected.keys()
  for name, array in expected.items():
    np.testing.assert_array_equal(resumed[name], array)
    assert np.abs(array - first[name]).max() > 0, name
  evals = tiny.record(whole)["evals"]
  assert tiny.record(parts)["evals"] == evals
  changed = {"CHECKPOINT_PATH": str(parts), "EVAL_OUTPUT_DIR": str(folder)}
  # SPoT's first prompt is not read again.
  _configure(method, "eval", **settings, **changed, EVAL_ASSIGNMENT_MAP=None)
  metrics = gin.get_configurable(eval_lib.evaluate)()
  assert metrics == evals[-1]["metrics"]
  # A T5Gemma 2 has an encoder of images, which is not written.
  if method == "model_tuning" and network != "tiny_t5gemma2":
    run = checkpoint_conversion.open_model(str(parts))
    checkpoint_conversion.convert(run, "hf", str(folder / "out"))
    out = checkpoint_conversion.open_model(str(folder / "out"))
    for name, array in expected.items():
      np.testing.assert_array_equal(stored_arrays.read(out.arrays[name]), array)
  prompt = parts / "prompt.safetensors"
  if not prompt.exists():
    return "eval"
  found = model.evaluate(tiny.TASK, prompt)
  assert found in [x["metrics"][tiny.TASK] for x in evals]
  service.store.put(method, prompt.read_bytes())
  labels = {"prompt": ["abc", "abxcdefgh"], "labels": ["yes", "no"]}
  answers = served.send(
    service, "POST", "/v1/rank", json={"model": method, **labels}
  ).json()["data"]
  for answer, expected in zip(
    answers, model.rank(*labels.values(), prompt), strict=True
  ):
    scores = {x["label"]: x["log_likelihood"] for x in answer["labels"]}
    assert scores == pytest.approx(expected, rel=1e-4)
  return "server"


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_row_of_the_table(method, service_of, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  rng = np.random.default_rng(0)
  np.save(_FILE, rng.normal(size=(4, tiny.WIDTH)).astype(np.float32))
  cells = [
    _cell(method, network, tmp_path / network, *service_of(network))
    for network in NETWORKS.values()
  ]
  recipe = re.sub(r"^\w+", r"`\g<0>`", method)
  assert f"\n| {' | '.join([recipe, *cells])} |\n" in DOCS.read_text()


def test_table_has_every_recipe():
  recipes = {x.stem for x in (documented.ROOT / "gin/recipes").glob("*.gin")}
  assert {x.split()[0] for x in METHODS} == recipes - {"evaluate_prompt"}
  assert f"\n| Recipe | {' | '.join(NETWORKS)} |\n" in DOCS.read_text()
