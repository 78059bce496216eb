"""Tests of the audit of prompts: its arithmetic and its findings."""

import dataclasses
import json
import re
import types

import documented
import numpy as np
import pytest
import seqio
import sklearn.metrics

from prompt_tuning.commands import console
from prompt_tuning.inference import audit
from prompt_tuning.inference.requests import TunedPrompt
from prompt_tuning.mini.ladder import vocabulary as ladder_vocabulary

BYTES, WORDS = seqio.ByteVocabulary(), ladder_vocabulary.ladder()
LADDER = documented.ROOT / "checkpoints" / "ladder_m"
SECRET = ("the code is", "k7 q2")
TRAINING = [(f"seen {i}", "good" if i % 2 else "bad") for i in range(40)]
HELD_OUT = [(f"new {i}", "good" if i % 2 else "bad") for i in range(40)]


@pytest.mark.parametrize(
  ("secret", "others", "bits"),
  [
    (-1.0, np.arange(-1026.0, -3), 10.0),  # The first of 1,024.
    (-9999.0, np.arange(-1026.0, -3), 0.0),  # The last.
    (-2.0, [-1.0, -3.0, -4.0], 1.0),  # The second of four.
    (-2.0, [-2.0, -2.0, -3.0], np.log2(4 / 3)),  # Ties rank before the secret.
  ],
)
def test_exposure_counts_candidates_that_are_as_likely(secret, others, bits):
  assert audit.exposure(secret, others) == pytest.approx(bits)


def test_area_and_its_error():
  area, error = audit.auc(np.array([1.0, 2]), np.array([2.0, 3]))
  # Three of the four pairs count 1, and the tie counts 1/2. The row means and
  # the column means are 1 and 3/4, so each adds half of its variance, 1/32.
  assert (area, error) == pytest.approx((0.875, np.sqrt(1 / 32)))
  rng = np.random.default_rng(0)
  draws = [
    (rng.normal(0, 1, 30), rng.normal(0.5, 1, 50), np.arange(80) < 30)
    for _ in range(300)
  ]
  found = np.array([audit.auc(x, y) for x, y, _ in draws])
  areas = [
    sklearn.metrics.roc_auc_score(is_member, -np.concatenate([x, y]))
    for x, y, is_member in draws
  ]
  np.testing.assert_allclose(found[:, 0], areas)
  assert np.std(areas) == pytest.approx(found[:, 1].mean(), rel=0.1)


@pytest.mark.parametrize(
  ("vocabulary", "secret", "count", "shape"),
  [
    (BYTES, "Ab-12 x", 50, r"[A-Z][a-z]-[0-9]{2} [a-z]"),
    (BYTES, "7", 9, r"[0-9]"),  # Only ten digits exist.
    (BYTES, "-", 0, ""),
    (WORDS, "Emma kite .", 50, r"[A-Z][a-z]{3} [a-z]{4} \."),
    (WORDS, "Emma Xylo", 0, ""),  # The vocabulary cannot spell "Xylo".
  ],
)
def test_others_have_the_shape_of_the_secret(vocabulary, secret, count, shape):
  others = audit.alike(secret, vocabulary, 50)
  assert len(set(others)) == len(others) == count
  assert secret not in others
  assert all(map(re.compile(shape).fullmatch, others))


@pytest.mark.slow
def test_likelihoods_of_targets_are_those_of_ranking(model, prompts):
  pairs = [("abc", "yes"), ("hello there", "no"), ("x", "y" * 30)] * 20
  expected = [
    model.rank([text], ["other", target], prompts[2])[0][target]
    for text, target in pairs[:3]
  ]
  found = model.log_likelihoods(pairs, prompts[2])
  np.testing.assert_allclose(found, expected * 20, rtol=1e-4)
  assert model.log_likelihoods([]).shape == (0,)


def _made_up(prompt_answers, prompt_likelihood):
  """Returns a model that repeats its input unless it gets a prompt."""

  def generate(inputs, prompt, max_length=None):
    assert max_length is None or max_length > 16  # The secret fits.
    return [prompt_answers(x) if prompt else x for x in inputs]

  def log_likelihoods(pairs, prompt):
    alone = [-1 - len(target) / 10 for _, target in pairs]
    added = [prompt_likelihood(*pair) if prompt else 0 for pair in pairs]
    return np.add(alone, added)

  def rank(inputs, labels, prompt):
    pairs = [(inputs[0], label) for label in labels]
    return [dict(zip(labels, log_likelihoods(pairs, prompt), strict=True))]

  table = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
  return types.SimpleNamespace(
    vocabulary=BYTES,
    embedding=table,
    generate=generate,
    log_likelihoods=log_likelihoods,
    rank=rank,
  )


@pytest.mark.parametrize(
  ("answers", "likelihood", "findings"),
  [
    (lambda text: text[::-1], lambda *pair: 0.5, []),
    (lambda text: "good", lambda *pair: 0.5, ["neutral", "held-out"]),
    (
      lambda text: SECRET[1] if text == SECRET[0] else text,
      lambda *pair: 5.0 * (pair == SECRET),
      ["canary"],
    ),
    (
      lambda text: text,
      lambda *pair: 5.0 * (pair == SECRET or pair in TRAINING),
      ["canary", "membership"],
    ),
  ],
  ids=["clean", "one answer", "secret answer", "leaks"],
)
def test_findings(answers, likelihood, findings):
  prompt = TunedPrompt(np.ones((3, 8), np.float32))
  model = _made_up(answers, likelihood)
  measures = audit.audit(model, prompt, [SECRET], TRAINING, HELD_OUT)
  found = [re.split("[ :]", x.name)[0] for x in measures if x.finding]
  assert found == findings
  assert not [x for x in measures if x.value is None]
  measures[0] = dataclasses.replace(measures[0], note="a|b")
  table = audit.tabulate(measures)
  assert r"| a\|b |" in table
  assert len(table.splitlines()) == len(measures) + 4 + max(1, len(findings))
  (largest,) = (x for x in measures if x.name == "norm, max")
  assert largest.value == pytest.approx(np.sqrt(8))


def test_command_audits_a_prompt_and_lists_unmeasured_parts(capsys):
  file = LADDER / "prompts" / "ladder_cb.safetensors"
  words = ["inspect", "--audit", str(file)]
  words += [f"--checkpoint={LADDER / 'lm_100'}", "--samples=30"]
  words += ["--canary", "Emma", "kite soup", "--canary", "Emma", "Xylo"]
  assert console.main([*words, "--json"]) == 0
  measures = json.loads(capsys.readouterr().out)
  assert not [x for x in measures if x["finding"]]
  missing = [x["name"] for x in measures if x["value"] is None]
  assert [x.partition(":")[0] for x in missing] == [
    "held-out inputs",
    "canary 'Emma' 'Xylo'",
    "membership",
  ]
