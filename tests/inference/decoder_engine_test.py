"""Tests that the engine and `Model` agree for decoders and T5Gemmas."""

import dataclasses

import numpy as np
import pytest
import seqio
import tiny_decoder

import prompt_tuning as pt
from prompt_tuning.inference.batch_queue import Settings, Shapes
from prompt_tuning.inference.engine import Engine
from prompt_tuning.inference.requests import (
  Embedding,
  Generation,
  Ranking,
  TunedPrompt,
)

TEXTS = ["abc", "abxcdefgh", "x"]
LABELS = ["yes", "no", "maybe"]


@pytest.mark.parametrize(
  "network",
  [
    pytest.param(x, marks=[pytest.mark.slow] * (x != "tiny_decoder"))
    for x in tiny_decoder.CONFIGS
  ],
)
def test_rows_with_prompts_of_their_own_are_answered_together(
  network, tmp_path
):
  base = tiny_decoder.save(tmp_path / "base", network)
  model = pt.load(base, seqio.ByteVocabulary())
  rng = np.random.default_rng(0)
  prompts = [
    TunedPrompt(rng.normal(size=(n, tiny_decoder.WIDTH)).astype(np.float32))
    for n in (2, 5)
  ]
  shapes = Shapes(
    rows=(1, 4), lengths=(24,), steps=(8,), labels=(32,), beams=(1,)
  )
  eos_id = model.network.eos_id
  labels = tuple((*model.vocabulary.encode(x), eos_id) for x in LABELS)
  rows = list(zip(TEXTS, [*prompts, None], strict=True))
  tokens = [(model.encode(text), prompt) for text, prompt in rows]
  requests = [Generation(*x, 8) for x in tokens]
  requests += [Generation(*x, 8, num_beams=1) for x in tokens]
  requests += [Ranking(*x, labels) for x in tokens]
  requests += [Embedding(*tokens[0]), Generation(*tokens[0], 8, 1.0, choice=3)]
  settings = Settings(shapes=shapes, longest_prompt=6, chunk=2)
  with Engine(model, settings) as engine:
    answers = [ticket.result(300) for ticket in engine.submit(requests)]
    # Two of the four requests in a batch end early; the fifth joins the rest.
    short = [dataclasses.replace(x, max_tokens=2) for x in requests[:2]]
    tickets = engine.submit([*requests[:2], *short, requests[2]])
    joined = [ticket.result(300) for ticket in tickets]
  for answer, same in zip([*joined[:2], joined[4]], answers[:3], strict=True):
    assert [x.id for x in answer.tokens] == [x.id for x in same.tokens]
  assert all(answer.finish_reason for answer in answers[:6])
  for (text, prompt), found, scores in zip(
    rows, answers[3:6], answers[6:9], strict=True
  ):
    ids = [token.id for token in found.tokens]
    (expected,) = model.generate([text], prompt, max_length=8)
    assert model.vocabulary.decode(ids) == expected
    (ranked,) = model.rank([text], LABELS, prompt)
    by_label = [ranked[label] for label in LABELS]
    np.testing.assert_allclose(scores, by_label, rtol=1e-5)
  assert answers[9].shape == (tiny_decoder.WIDTH,)
  likeliest = map(next, map(iter, model.rank(TEXTS, LABELS, prompts[0])))
  pairs = list(zip(TEXTS, likeliest, strict=True))
  metrics = model.evaluate(pairs, prompts[0], labels=LABELS, rank=True)
  assert metrics["accuracy"] == 100

  def beams(most):
    return [
      row
      for count, *batch in model._batches(TEXTS, prompts[0], most)
      for row in model._search(model.params, *batch, steps=8, beams=2)[0][
        :count
      ]
    ]

  np.testing.assert_array_equal(beams(most=4), beams(most=1))
