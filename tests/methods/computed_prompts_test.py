"""Prompts that are computed: their formulas, and answers after they fold."""

import computed
import conformance
from flax import traverse_util
import gin
import jax
import numpy as np
import pytest
import seqio
import tiny
import tiny_decoder

import prompt_tuning as pt
from prompt_tuning import injections, prompt_files, prompts
from prompt_tuning.interop import prompt_conversion
from prompt_tuning.methods import computed_prompts
from prompt_tuning.models import networks
from t5x import train as train_lib

CONFIGS = {"tiny": tiny.config(), "tiny_decoder": tiny_decoder.config()}
INPUTS = conformance.network_inputs(
  {
    "encoder_input_tokens": np.array([[100, 7, 9, 30, 8], [101, 5, 60, 0, 0]]),
    "decoder_input_tokens": np.array([[0, 6, 7], [0, 9, 9]]),
    "decoder_target_tokens": np.array([[6, 7, 8], [9, 9, 11]]),
  }
)


def _expected(method, parts):
  """The paper's formula, by NumPy, in double precision."""
  x = {name: array.astype(np.float64) for name, array in parts.items()}
  if method == "ulpt":
    normal = np.random.default_rng(0).standard_normal((2, computed.WIDTH))
    return x["codes"] @ normal / np.sqrt(2) * x["scale"] + x["shift"]
  if method == "low_rank_prompt":
    return x["left"] @ x["right"]
  if method == "superpos":
    tokens = x["tokens"].reshape(computed.LENGTH, 2, computed.WIDTH)
    return np.einsum("pe,peh->ph", x["weights"], tokens)
  if method == "mpt":
    return x["shared"] * np.outer(x["positions"], x["features"])
  hidden = np.maximum(x["base"] @ x["down"] + x["down_bias"], 0)
  output = hidden @ x["up"] + x["up_bias"]
  centred = output - output.mean(axis=1, keepdims=True)
  normed = centred / np.sqrt(output.var(axis=1, keepdims=True) + 1e-5)
  return x["base"] + normed * x["norm_scale"] + x["norm_shift"]


@pytest.mark.parametrize("method", computed.METHODS)
def test_formula_is_the_papers(method):
  parts = computed.parts_of(method)
  prompt = computed_prompts.fold(parts)
  assert prompt.shape == (computed.LENGTH, computed.WIDTH)
  np.testing.assert_allclose(prompt, _expected(method, parts), atol=1e-5)


@pytest.mark.parametrize("model", CONFIGS)
@pytest.mark.parametrize("method", computed.METHODS)
def test_folded_prompt_gives_the_same_logits(method, model):
  parts = computed.parts_of(method)
  network = gin.get_configurable(injections.Injections)()
  random = prompts.random_uniform()
  plain = injections.Injections(
    prompt=prompts.prompt_factory(computed.LENGTH, random)
  )
  logits = []
  owner = ("encoder", "decoder")["decoder" in model]
  for method, own in (
    (network, parts),
    (plain, {"prompt": computed_prompts.fold(parts)}),
  ):
    module = networks.make(CONFIGS[model], method)
    shapes = jax.eval_shape(
      lambda module=module: module.init(
        jax.random.key(0), *INPUTS, enable_dropout=False
      )["params"]
    )
    flat = traverse_util.flatten_dict(shapes, sep="/")
    base = {x: y for x, y in flat.items() if "/prompt/" not in x}
    own = {f"{owner}/prompt/{name}": x for name, x in own.items()}
    assert flat.keys() == base.keys() | own.keys()
    params = traverse_util.unflatten_dict(computed.normal(base) | own, sep="/")
    logits.append(
      module.apply({"params": params}, *INPUTS, enable_dropout=False)
    )
  assert np.abs(logits[0]).max() > 1
  np.testing.assert_allclose(*logits, atol=1e-5)


@pytest.mark.parametrize(
  "method",
  [
    pytest.param(x, marks=[pytest.mark.slow] * (x != "ulpt"))
    for x in computed.METHODS
  ],
)
def test_run_writes_a_prompt_that_answers_alike(method, tmp_path):
  base = tiny.save_base(tmp_path / "base")
  run = tmp_path / "run"
  computed.configure(method, INITIAL_CHECKPOINT_PATH=base, MODEL_DIR=str(run))
  gin.get_configurable(train_lib.train)(train_eval_dataset_cfg=None)
  evals = tiny.record(run)["evals"]
  model = pt.load(base, seqio.ByteVocabulary())
  # The run gives the file of its best prompt, and a checkpoint its own.
  for path, evaluation in (
    (run, max(evals, key=lambda x: x["score"])),
    (run / f"checkpoint_{evals[-1]['step']}", evals[-1]),
  ):
    prompt, metadata = prompt_conversion.read_prompt(path)
    assert metadata
    assert metadata.step == evaluation["step"]
    assert metadata.parameter_path == "encoder/prompt/prompt"
    metrics = evaluation["metrics"][tiny.TASK]
    assert model.evaluate(tiny.TASK, prompt) == metrics


@pytest.mark.interop
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("method", computed.METHODS)
def test_peft_reads_a_folded_prompt(method, tmp_path):
  peft = pytest.importorskip("peft")
  transformers = pytest.importorskip("transformers")
  file = tmp_path / "prompt.safetensors"
  prompt = computed_prompts.fold(computed.parts_of(method))
  prompt_files.save_prompt(file, prompt)
  prompt_conversion.write_prompt(
    tmp_path / "adapter", *prompt_conversion.read_prompt(file)
  )
  sizes = {"d_model": computed.WIDTH, "d_kv": 2, "d_ff": 8, "num_heads": 2}
  config = transformers.T5Config(vocab_size=8, num_layers=1, **sizes)
  base = transformers.T5ForConditionalGeneration(config)
  model = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
  weights = model.prompt_encoder["default"].embedding.weight
  np.testing.assert_array_equal(weights.detach().numpy(), prompt)
