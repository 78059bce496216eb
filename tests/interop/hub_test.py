"""Tests of models, data sets and prompts on a hub that this machine runs."""

import dataclasses
import pathlib
import re

import local_hub
import numpy as np
import pytest

from prompt_tuning import prompt_files
from prompt_tuning.inference.requests import TunedPrompt
from prompt_tuning.interop import hub

PROMPT = np.arange(8, dtype=np.float32).reshape(2, 4)
BASE = "google/flan-t5-base"
METADATA = prompt_files.PromptMetadata(
  "52cb", "eed7", task="reviews", step=7, metric=".*", score=61.5
)


@pytest.fixture
def repositories(monkeypatch, tmp_path):
  with local_hub.serving(monkeypatch, tmp_path / "cache") as repositories:
    yield repositories


@pytest.mark.parametrize(
  ("path", "is_name"),
  [
    (BASE, True),
    ("t5-small", False),
    ("../google/flan", False),
    ("gs://google/flan", False),
    ("here/flan", False),  # Its parent is a folder, so it is a misspelt path.
    ("a/b/c", False),
  ],
)
def test_names_on_the_hub(path, is_name, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "here").mkdir()
  assert hub.is_name(path) == is_name


def test_model_is_fetched_once_without_its_other_files(repositories, tmp_path):
  files = {"config.json": b"{}", "model.safetensors": b"x"}
  others = "pytorch_model.bin", "consolidated.safetensors"
  repositories["models", BASE] = files | dict.fromkeys(others, b"x")
  folder = pathlib.Path(hub.folder(BASE, hub.MODEL))
  assert (tmp_path / "cache") in folder.parents
  with pytest.raises(ValueError, match=f"{BASE} on the hub has none of adapt"):
    TunedPrompt.load(BASE)
  assert {x.name: x.read_bytes() for x in folder.iterdir()} == files
  repositories.clear()
  assert hub.folder(BASE, hub.MODEL) == str(folder)


def test_weights_of_pytorch_are_fetched_if_there_are_no_others(repositories):
  files = {"config.json": b"{}", "pytorch_model.bin": b"x"}
  repositories["models", BASE] = {**files, "tf_model.h5": b"x"}
  folder = pathlib.Path(hub.folder(BASE, hub.MODEL))
  assert {x.name: x.read_bytes() for x in folder.iterdir()} == files


@pytest.mark.parametrize(
  ("names", "asked", "found"),
  [
    (["reviews.csv"], "me/data", {"train": "reviews.csv"}),
    (["a.json", "dataset_infos.json"], "me/data", {"train": "a.json"}),
    (
      ["data/train-00000-of-00001.parquet", "data/dev.jsonl", "README.md"],
      "me/data",
      {"train": "train-00000-of-00001.parquet", "validation": "dev.jsonl"},
    ),
    (
      ["a/train.csv", "b/train.csv", "b/test.csv"],
      "me/data/b",
      {"train": "train.csv", "test": "test.csv"},
    ),
    (
      ["a/train.csv", "b/train.csv"],
      "me/data",
      "Name a folder, me/data/FOLDER",
    ),
    (["README.md"], "me/data", "got none"),
    (["test.csv"], "me/data", "got test.csv"),
    ([], "me/other", "cannot be fetched from the hub, http://127"),
  ],
)
def test_data_sets_have_one_file_a_split(names, asked, found, repositories):
  repositories["datasets", "me/data"] = {name: b"x" for name in names}
  if isinstance(found, str):
    with pytest.raises(ValueError, match=re.escape(found)):
      hub.data_files(asked)
  else:
    files = hub.data_files(asked)
    assert {k: x.rpartition("/")[2] for k, x in files.items()} == found


def test_prompt_is_pushed_with_a_card_and_read_back(repositories, tmp_path):
  prompt = TunedPrompt(PROMPT, METADATA)
  assert prompt.push_to_hub("me/reviews", BASE).endswith("/me/reviews")
  card = repositories["models", "me/reviews"]["README.md"].decode()
  assert f"base_model: {BASE}\n" in card
  assert "validation score was 61.50 at step 7" in card
  assert 'PeftModel.from_pretrained(base, "me/reviews")' in card
  read = TunedPrompt.load("me/reviews")
  np.testing.assert_array_equal(read.array, PROMPT)
  assert read.metadata == dataclasses.replace(METADATA, base_model=BASE)
  of_decoder = dataclasses.replace(
    METADATA, parameter_path="decoder/prompt/prompt"
  )
  TunedPrompt(PROMPT, of_decoder).push_to_hub("me/other", BASE)
  files = repositories["models", "me/other"]
  assert b"AutoModelForCausalLM" in files["README.md"]
  assert b"apply_chat_template" in files["README.md"]
  assert b'"CAUSAL_LM"' in files["adapter_config.json"]
  prompt.to_peft(tmp_path / "adapter", BASE)
  read = TunedPrompt.load(tmp_path / "adapter")
  np.testing.assert_array_equal(read.array, PROMPT)


@pytest.mark.parametrize("base", [None, "/home/me/model"])
def test_prompt_without_a_name_for_its_model_is_not_pushed(base):
  with pytest.raises(ValueError, match="--base_model=google/flan-t5-base"):
    TunedPrompt(PROMPT, METADATA).push_to_hub("me/reviews", base)
