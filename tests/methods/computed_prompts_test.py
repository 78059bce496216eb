"""Prompts that are computed: their formulas, and answers after they fold."""

from typing import Any

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
from prompt_tuning import injections, prompts
from prompt_tuning.interop import prompt_conversion
from prompt_tuning.methods import computed_prompts
from prompt_tuning.models import networks
from t5x import train as train_lib

LENGTH, WIDTH = 3, tiny.WIDTH
# The stem of a method's file -> the other files that it takes, and bindings.
METHODS: dict[str, tuple[list[str], list[str]]] = {
  "ulpt": ([], ["ULPT_RANK = 2"]),
  "low_rank_prompt": ([], ["PROMPT_RANK = 2"]),
}
CONFIGS = {"tiny": tiny.config(), "tiny_decoder": tiny_decoder.config()}
INPUTS = conformance.network_inputs(
  {
    "encoder_input_tokens": np.array([[100, 7, 9, 30, 8], [101, 5, 60, 0, 0]]),
    "decoder_input_tokens": np.array([[0, 6, 7], [0, 9, 9]]),
    "decoder_target_tokens": np.array([[6, 7, 8], [9, 9, 11]]),
  }
)


def _configure(method: str, model: str = "tiny", **macros: Any) -> None:
  files, bindings = METHODS[method]
  settings = {
    "MODEL_DIR": "none",
    "INITIAL_CHECKPOINT_PATH": "none",
    "PROMPT_LENGTH": LENGTH,
    "TASK_FEATURE_LENGTHS": tiny.LENGTHS,
    "TRAIN_STEPS_RELATIVE": 4,
    "EVAL_PERIOD": 2,
  }
  files = [f"gin/methods/{method}.gin", *files]
  tiny_gin.configure_files(
    "train", files, bindings, model, **(settings | macros)
  )


def _normal(parts):
  """Gives every parameter other values than it starts with."""
  rng = np.random.default_rng(0)
  return {
    name: rng.normal(size=x.shape).astype(np.float32)
    for name, x in parts.items()
  }


def _parts(method):
  """Random parameters of a method, by their names in its formula."""
  _configure(method)
  factory = gin.get_configurable(injections.Injections)().prompt
  shapes = jax.eval_shape(
    lambda: factory(name="prompt").init(
      jax.random.key(0), jnp.ones((1, 2), "int32"), jnp.ones((1, 2, WIDTH))
    )["params"]
  )
  return _normal(shapes)


def _expected(method, parts):
  """The paper's formula, by NumPy, in double precision."""
  x = {name: array.astype(np.float64) for name, array in parts.items()}
  if method == "ulpt":
    normal = np.random.default_rng(0).standard_normal((2, WIDTH))
    return x["codes"] @ normal / np.sqrt(2) * x["scale"] + x["shift"]
  return x["left"] @ x["right"]


@pytest.mark.parametrize("method", METHODS)
def test_formula_is_the_papers(method):
  parts = _parts(method)
  prompt = computed_prompts.fold(parts)
  assert prompt.shape == (LENGTH, WIDTH)
  np.testing.assert_allclose(prompt, _expected(method, parts), atol=1e-5)


@pytest.mark.parametrize("model", CONFIGS)
@pytest.mark.parametrize("method", METHODS)
def test_folded_prompt_gives_the_same_logits(method, model):
  parts = _parts(method)
  computed = gin.get_configurable(injections.Injections)()
  random = prompts.random_uniform()
  plain = injections.Injections(prompt=prompts.prompt_factory(LENGTH, random))
  logits = []
  owner = ("encoder", "decoder")["decoder" in model]
  for method, own in (
    (computed, parts),
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
    params = traverse_util.unflatten_dict(_normal(base) | own, sep="/")
    logits.append(
      module.apply({"params": params}, *INPUTS, enable_dropout=False)
    )
  assert np.abs(logits[0]).max() > 1
  np.testing.assert_allclose(*logits, atol=1e-5)


@pytest.mark.parametrize(
  "method",
  [pytest.param(x, marks=[pytest.mark.slow] * (x != "ulpt")) for x in METHODS],
)
def test_run_writes_a_prompt_that_answers_alike(method, tmp_path):
  base = tiny.save_base(tmp_path / "base")
  run = tmp_path / "run"
  _configure(method, INITIAL_CHECKPOINT_PATH=base, MODEL_DIR=str(run))
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
