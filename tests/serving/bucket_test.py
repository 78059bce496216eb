"""A folder of prompts in a bucket."""

import bucket
import numpy as np
import pytest

from prompt_tuning import prompt_files
from prompt_tuning.serving import prompt_store
from prompt_tuning.serving.prompt_store import PromptStore


@pytest.fixture
def folder(monkeypatch):
  with bucket.running() as line:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", line.url)
    yield f"gs://{bucket.BUCKET}/prompts"


def test_two_servers_share_a_bucket(folder, engine, prompts, monkeypatch):
  monkeypatch.setattr(prompt_store, "_REFRESH_SECONDS", (0.0, 0.0))
  first, second = (PromptStore(folder, engine, "base") for _ in range(2))
  assert first.all() == []
  content = prompt_files.content(prompts[1].array, None, ".npy")
  first.put("mine", content)
  np.testing.assert_array_equal(second.get("mine").array, prompts[1].array)
  known = second.get("mine")
  assert second.get("mine") is known  # It is not read again.
  # Of the same length: only the bucket can tell that it is another.
  first.put("mine", prompt_files.content(-prompts[1].array, None, ".npy"))
  np.testing.assert_array_equal(second.get("mine").array, -prompts[1].array)
  second.delete("mine")
  assert first.all() == []
