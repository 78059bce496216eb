"""Fixtures: one engine for all tests of a folder, because compiling is slow."""

import numpy as np
import pytest
import seqio
import tiny

import prompt_tuning as pt
from prompt_tuning.inference.batch_queue import Settings, Shapes
from prompt_tuning.inference.engine import Engine
from prompt_tuning.inference.requests import TunedPrompt


@pytest.fixture(scope="session")
def model(base):
  return pt.load(base, vocabulary=seqio.ByteVocabulary())


@pytest.fixture(scope="session")
def batches_done():
  return []


@pytest.fixture(scope="session")
def engine(model, batches_done):
  """An engine with only three places for prompts, so that it swaps them."""
  settings = Settings(
    shapes=Shapes(
      rows=(1, 4), lengths=(24,), steps=(8,), labels=(16,), beams=(2,)
    ),
    slots=3,
    longest_prompt=6,
    room=64,
    patience=0.02,
    chunk=3,
  )
  with Engine(model, settings, batches_done.append) as engine:
    yield engine


@pytest.fixture(scope="session")
def prompts():
  """Five prompts of different lengths."""
  rng = np.random.default_rng(0)
  return [
    TunedPrompt(
      rng.normal(size=(length, tiny.WIDTH)).astype(np.float32),
      name=f"prompt_{length}",
    )
    for length in (1, 2, 4, 5, 6)
  ]
