"""All methods: the parameters they add, and checks of the docs' table."""

import contextlib
import functools
import re
from typing import Any

import documented
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
from prompt_tuning import injections
from prompt_tuning.inference.batch_queue import Settings, Shapes
from prompt_tuning.inference.engine import Engine
from prompt_tuning.interop import checkpoint_conversion, prompt_conversion
from t5x import checkpoints
from t5x import eval as eval_lib
from t5x import train as train_lib
from t5x.formats import stored_arrays

_PROMPT = ["gin/prompts/random_uniform.gin"]
# Every input of the tiny task starts with one of these byte pieces.
_PREFIXES = list("abcdefgh")
# Each test writes this prompt to its folder.
_FILE = "prompt.npy"
# Recipe -> the stem of its method's file, its other files and its bindings.
Files = dict[str, tuple[str, list[str], list[str]]]
PROMPTS: Files = {
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
  "prompt_and_lora": (
    "prompt_tuning",
    [*_PROMPT, "gin/methods/lora.gin"],
    ["PROMPT_LENGTH = 4", "LORA_RANK = 2"],
  ),
}
OTHERS: Files = {
  "prefix_tuning": ("prefix_tuning", [], ["PREFIX_LENGTH = 4"]),
  "prefix_tuning through an MLP": (
    "prefix_tuning",
    [],
    ["PREFIX_LENGTH = 4", "PREFIX_HIDDEN_DIM = 8"],
  ),
  "lora": ("lora", [], ["LORA_RANK = 2"]),
  "adapter": ("adapter", [], ["ADAPTER_SIZE = 4"]),
  "ia3": ("ia3", [], []),
  "model_tuning": ("model_tuning", [], []),
}
COMPUTED: Files = {
  stem: (stem, files, ["PROMPT_LENGTH = 4", *bindings])
  for stem, files, bindings in (
    ("ulpt", [], ["ULPT_RANK = 2"]),
    ("low_rank_prompt", [], ["PROMPT_RANK = 2"]),
    ("residual_prompt", _PROMPT, ["RESIDUAL_BOTTLENECK = 5"]),
    ("superpos", _PROMPT, ["SUPERPOS_TOKENS = 2"]),
    ("mpt", _PROMPT, []),
  )
}
METHODS = PROMPTS | OTHERS | COMPUTED
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
# The parameters that each method adds, for every owner.
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
ADDED["prompt_and_lora"] = ADDED["prompt_tuning"] + ADDED["lora"]
# A network's name in the table -> its gin file in testdata.
NETWORKS = {
  "T5": "tiny",
  "decoder": "tiny_decoder",
  "T5Gemma": "tiny_t5gemma",
  "T5Gemma 2": "tiny_t5gemma2",
}
DOCS = documented.ROOT / "docs/methods.md"


def configure(
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


def normal(shapes):
  """Makes random values, which differ from the parameters' initial ones."""
  rng = np.random.default_rng(0)
  return {x: rng.normal(size=y).astype("f4") for x, y in shapes.items()}


def parts_of(method):
  """Makes random parameters of a computed prompt, by their formula's names."""
  configure(method)
  factory = gin.get_configurable(injections.Injections)().prompt
  shapes = jax.eval_shape(
    lambda: factory(name="prompt").init(
      *(jax.random.key(0), jnp.ones((1, 2), "int32")),
      jnp.ones((1, 2, tiny.WIDTH)),
    )["params"]
  )
  return normal({name: x.shape for name, x in shapes.items()})


def _trained(run):
  """Returns the trained arrays of a run's latest checkpoint."""
  checkpoint = checkpoints.open_checkpoint(str(run))
  names = checkpoint.metadata["trained"]
  return {x: stored_arrays.read(checkpoint.arrays[x]) for x in names}


@pytest.fixture(scope="module")
def service_of(tmp_path_factory):
  """A function: network -> its base model and a server for that model."""
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
  """Trains, resumes, evaluates and serves; returns the table's cell."""
  whole, parts = folder / "whole", folder / "parts"
  settings = {"model": network, "INITIAL_CHECKPOINT_PATH": model.checkpoint}

  def train(run, steps):
    changed = {"TRAIN_STEPS_RELATIVE": steps, "EVAL_PERIOD": 2}
    configure(method, **settings, **changed, MODEL_DIR=str(run))
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
  configure(method, "eval", **settings, **changed, EVAL_ASSIGNMENT_MAP=None)
  metrics = gin.get_configurable(eval_lib.evaluate)()
  assert metrics == evals[-1]["metrics"]
  # A T5Gemma 2 has an image encoder, which cannot be written.
  if method == "model_tuning" and network != "tiny_t5gemma2":
    run = checkpoint_conversion.open_model(str(parts))
    checkpoint_conversion.convert(run, "hf", str(folder / "out"))
    out = checkpoint_conversion.open_model(str(folder / "out"))
    for name, array in expected.items():
      np.testing.assert_array_equal(stored_arrays.read(out.arrays[name]), array)
  prompt = parts / "prompt.safetensors"
  if not prompt.exists():
    return "eval"
  # A run's prompt is the best one; a checkpoint's is the one it holds.
  for path, evaluation in (
    (parts, max(evals, key=lambda x: x["score"])),
    (parts / f"checkpoint_{evals[-1]['step']}", evals[-1]),
  ):
    array, metadata = prompt_conversion.read_prompt(path)
    assert metadata
    assert metadata.step == evaluation["step"]
    assert metadata.parameter_path.split("/", 1)[1] == "prompt/prompt"
    found = model.evaluate(tiny.TASK, array)
    assert found == evaluation["metrics"][tiny.TASK]
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


def check_row(method, service_of, folder) -> None:
  """Runs a method on every network and compares the table's row."""
  rng = np.random.default_rng(0)
  first = rng.normal(size=(4, tiny.WIDTH)).astype(np.float32)
  with contextlib.chdir(folder):
    np.save(_FILE, first)
    cells = [
      _cell(method, network, folder / network, *service_of(network))
      for network in NETWORKS.values()
    ]
  recipe = re.sub(r"^\w+", r"`\g<0>`", method)
  assert f"\n| {' | '.join([recipe, *cells])} |\n" in DOCS.read_text()
