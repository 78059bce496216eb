"""The server answers with a folded prompt as the network that computed it."""

import computed
import conformance
import gin
import numpy as np
import pytest
import served

from prompt_tuning import prompt_files
from prompt_tuning.methods import computed_prompts
from t5x import models

TEXTS, LABELS = ["abc", "xyz"], ["yes", "no!"]


@pytest.mark.parametrize("method", computed.METHODS)
def test_log_likelihoods_are_the_networks(method, model, service, tmp_path):
  parts = computed.parts_of(method)
  network = gin.get_configurable(models.EncoderDecoderModel)()

  def encode(texts):
    rows = [[*model.vocabulary.encode(text), 1] for text in texts]
    return np.array([row + [0] * (5 - len(row)) for row in rows], np.int32)

  params = conformance.with_prompt(model.params, parts)
  file = tmp_path / "prompt.safetensors"
  prompt_files.save_prompt(file, computed_prompts.fold(parts))
  service.store.put("folded", file.read_bytes())
  body = {"model": "folded", "prompt": TEXTS, "labels": LABELS}
  answers = served.send(service, "POST", "/v1/rank", json=body).json()["data"]
  for label in LABELS:
    targets = encode([label] * len(TEXTS))
    batch = {
      "encoder_input_tokens": encode(TEXTS),
      "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
      "decoder_target_tokens": targets,
      "decoder_loss_weights": (targets > 0).astype(np.float32),
    }
    expected = network.score_batch(params, batch)
    found = [
      x["log_likelihood"]
      for answer in answers
      for x in answer["labels"]
      if x["label"] == label
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
