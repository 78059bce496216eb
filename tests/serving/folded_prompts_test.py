"""The server answers with a folded prompt as the network that computed it."""

import conformance
import every_method
import gin
import numpy as np
import pytest
import served

from prompt_tuning.methods import computed_prompts
from t5x import models

TEXTS = ["abc", "xyz"]


@pytest.mark.parametrize("method", every_method.COMPUTED)
def test_log_likelihoods_are_the_networks(method, model, service):
  parts = every_method.parts_of(method)
  network = gin.get_configurable(models.EncoderDecoderModel)()

  def encode(texts):
    return np.array([[*model.vocabulary.encode(x), 1] for x in texts], "int32")

  params = conformance.with_prompt(model.params, parts)
  folded = served.npy(computed_prompts.fold(parts))
  service.store.put("folded", folded)
  body = {"model": "folded", "prompt": TEXTS, "labels": ["yes"]}
  answers = served.send(service, "POST", "/v1/rank", json=body).json()["data"]
  targets = encode(["yes"] * len(TEXTS))
  batch = {
    "encoder_input_tokens": encode(TEXTS),
    "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
    "decoder_target_tokens": targets,
    "decoder_loss_weights": np.ones(targets.shape, "float32"),
  }
  found = [x["labels"][0]["log_likelihood"] for x in answers]
  expected = network.score_batch(params, batch)
  np.testing.assert_allclose(found, expected, rtol=1e-5)
