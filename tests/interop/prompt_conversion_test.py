"""Tests of prompts in all formats; `transformers_test` runs PEFT itself."""

import dataclasses
import json
import os
import pathlib
import re

import hf_t5s
import numpy as np
import pytest
import safetensors.numpy
import tiny_decoder

from prompt_tuning import prompt_files
from prompt_tuning.interop import (
  hugging_face,
  peft_adapters,
  prompt_conversion,
)
from prompt_tuning.models.t5 import config
from t5x import checkpoints

METADATA = prompt_files.PromptMetadata(
  "52cb", "eed7", task="cb", step=1130000, metric="accuracy", score=87.5
)


@pytest.fixture
def prompt():
  return np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32) * 800


@pytest.fixture
def adapter(tmp_path, prompt):
  """An adapter that we wrote; `transformers_test` reads those of PEFT."""
  peft_adapters.save_adapter(tmp_path / "adapter", prompt)
  return tmp_path / "adapter"


def _checkpoint(folder, metadata=None, **encoder):
  params = {
    "encoder": {"norm": np.ones(4, np.float32), **encoder},
    "token_embedder": {"embedding": np.ones((5, 4), np.float32)},
  }
  return checkpoints.save_base_checkpoint(
    str(folder), 7, params, metadata or {}
  )


@pytest.mark.parametrize("metadata", [None, METADATA])
def test_prompt_travels_bit_by_bit_with_its_metadata(
  tmp_path, prompt, metadata
):
  prompt_files.save_prompt(tmp_path / "in.safetensors", prompt, metadata)
  # During training, upstream's array files have no suffix.
  np.save(tmp_path / "in.npy", prompt)
  (tmp_path / "in.npy").rename(tmp_path / "encoder.prompt.prompt.prompt")
  name = "in.safetensors" if metadata else "encoder.prompt.prompt.prompt"
  for there in ("peft", "prompt.safetensors", "again", "out.safetensors"):
    array, found = prompt_conversion.read_prompt(tmp_path / name)
    assert array.tobytes() == prompt.tobytes()
    assert found == metadata
    prompt_conversion.write_prompt(tmp_path / there, array, found)
    name = there
  written = prompt_conversion.write_prompt(
    tmp_path / "bare.npy", *prompt_conversion.read_prompt(tmp_path / name)
  )
  assert ("metadata does not fit" in written) == (metadata is not None)
  np.testing.assert_array_equal(np.load(tmp_path / "bare.npy"), prompt)


@pytest.mark.parametrize("nested", [False, True])
def test_reads_a_prompt_from_inside_a_checkpoint(tmp_path, prompt, nested):
  """A run's last prompt is read, unless the folder has a file of the best."""
  path = _checkpoint(
    tmp_path,
    {"base_fingerprint": "52cb"} if nested else {},
    prompt={"prompt": {"prompt": prompt} if nested else prompt},
  )
  for place in (path, tmp_path):
    array, metadata = prompt_conversion.read_prompt(place)
    np.testing.assert_array_equal(array, prompt)
    assert metadata == prompt_files.PromptMetadata(
      "52cb" if nested else prompt_files.UNKNOWN,
      prompt_files.UNKNOWN,
      parameter_path="encoder/prompt/prompt" + "/prompt" * nested,
      step=7,
    )
  best = tmp_path / "prompt.safetensors"
  prompt_files.save_prompt(best, prompt + 1, METADATA)
  array, metadata = prompt_conversion.read_prompt(tmp_path)
  np.testing.assert_array_equal(array, prompt + 1)
  assert metadata == METADATA


def test_refuses_a_checkpoint_without_a_single_prompt(tmp_path, prompt):
  trained = ["encoder/prompt/prompt", "encoder/layers_0/mlp/wo/kernel"]
  path = _checkpoint(tmp_path, {"trained": trained}, prompt={"prompt": prompt})
  with pytest.raises(ValueError, match="together with encoder/layers_0/mlp"):
    prompt_conversion.read_prompt(path)
  _checkpoint(tmp_path / "none")
  (tmp_path / "empty").mkdir()
  no_run = "Expected .*/empty/prompt.safetensors, or a checkpoint. No check"
  for name, message in ("none", "got none among 2"), ("empty", no_run):
    with pytest.raises(ValueError, match=message):
      prompt_conversion.read_prompt(tmp_path / name)


@pytest.fixture
def base(tmp_path, monkeypatch):
  """The folder of a T5 of width 4, in the working directory."""
  sizes = config.T5Config(32, 4, 2, 1, 1, head_dim=6, mlp_dim=20)
  monkeypatch.chdir(tmp_path)
  return hf_t5s.save("models/base", sizes)


def test_adapter_is_compared_with_the_base_model_that_it_names(base, prompt):
  fingerprint = hugging_face.open_folder(base).fingerprint
  of_it = dataclasses.replace(METADATA, base_fingerprint=fingerprint)
  for folder, name, metadata, expected in (
    ("a", base, of_it, "is the model that it was trained on"),
    ("b", base, None, "has its width; the file does not identify its weights"),
    ("c", "google/t5-base", METADATA, "is a name on the hub: it was not comp"),
  ):
    written = prompt_conversion.write_prompt(folder, prompt, metadata, name)
    assert expected in written
    file = pathlib.Path(folder, peft_adapters.CONFIG)
    written = json.loads(file.read_text())
    assert written["base_model_name_or_path"] == name
    assert written["num_transformer_submodules"] == 1
  # A T5Gemma's configuration has its width in each stack.
  tiny_decoder.save(pathlib.Path("gemma"), "tiny_t5gemma")
  wide = np.ones((2, tiny_decoder.WIDTH), np.float32)
  written = prompt_conversion.write_prompt("d", wide, base_model="gemma")
  assert "gemma has its width" in written


def test_adapter_is_scaled_as_its_model_is_without_a_name_too(tmp_path, prompt):
  """Our adapter is read without its Gemma; a file of PEFT's own needs it."""
  gemma = tmp_path / "base"
  gemma.mkdir()
  (gemma / "config.json").write_text('{"model_type": "gemma"}')
  metadata = dataclasses.replace(
    METADATA,
    parameter_path="decoder/prompt/prompt",
    base_model=str(gemma),
  )
  scaled, weights = prompt * np.float32(prompt.shape[1] ** 0.5), {}
  for name, base in (("pushed", "me/assistant"), ("adapter", None)):
    prompt_conversion.write_prompt(tmp_path / name, prompt, metadata, base)
    file = tmp_path / name / peft_adapters.WEIGHTS
    weights = safetensors.numpy.load_file(file)
    np.testing.assert_array_equal(weights["prompt_embeddings"], scaled)
  gemma.rename(tmp_path / "moved")
  read, header = prompt_conversion.read_prompt(tmp_path / "adapter")
  np.testing.assert_allclose(read, prompt, rtol=1e-6)
  assert header == metadata
  safetensors.numpy.save_file(weights, file)
  with pytest.raises(ValueError, match=r"there is no model at .*base, and it"):
    peft_adapters.load_adapter(tmp_path / "adapter")
  with pytest.raises(ValueError, match=r"there is no model at .*base, and it"):
    peft_adapters.save_adapter(tmp_path / "other", prompt, metadata)
  (tmp_path / "moved").rename(gemma)
  read, _ = peft_adapters.load_adapter(tmp_path / "adapter")
  np.testing.assert_allclose(read, prompt, rtol=1e-6)


@pytest.mark.parametrize(
  ("model", "is_told"),
  [
    ("google/gemma-2b", True),
    ("google/gemma-2-9b-it", True),
    ("google/gemma-3-1b-pt", False),
    ("HuggingFaceTB/SmolLM2-135M", False),
  ],
)
def test_an_adapter_of_an_early_gemma_may_be_of_another_scale(
  tmp_path, prompt, caplog, model, is_told
):
  config = {"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM"}
  config |= {"num_virtual_tokens": len(prompt)}
  config |= {"base_model_name_or_path": model}
  (tmp_path / peft_adapters.CONFIG).write_text(json.dumps(config))
  file = tmp_path / peft_adapters.WEIGHTS
  safetensors.numpy.save_file({"prompt_embeddings": prompt}, file)
  with caplog.at_level("WARNING"):
    peft_adapters.load_adapter(tmp_path)
  assert ("with transformers 5.4 or later" in caplog.text) == is_told


def test_refuses_other_places_and_base_models(base, prompt):
  pathlib.Path("broken").mkdir()
  pathlib.Path("broken/config.json").write_text("[" * 100_000)
  before = sorted(os.listdir())
  for path, array, metadata, name, message in (
    ("prompt.bin", prompt, None, None, r"ends in \.safetensors or \.npy"),
    ("a.npy", prompt, None, "a/b", "Only a PEFT adapter names its base"),
    ("out", prompt, METADATA, base, "trained on 52cb: it belongs to an"),
    ("out", prompt.T, None, base, "has width 4, and the prompt has 3"),
    ("out", prompt, None, "models", "models is not a Hugging Face folder"),
    ("out", prompt, None, "broken", "is not a model configuration"),
    *(
      ("out", prompt, None, name, "Found no folder .* is OWNER/NAME")
      for name in ("/nowhere/t5", "models/t5", "./t5", "a/b/c")
    ),
    *(
      (path, prompt, METADATA, None, f"{path}: .* on a disk only")
      for path in ("gs://b/prompt.safetensors", "gs://b/adapter")
    ),
  ):
    with pytest.raises(ValueError, match=message):
      prompt_conversion.write_prompt(path, array, metadata, name)
  for convert in (
    hugging_face.open_folder,
    lambda path: hugging_face.write_folder(path, {}),
  ):
    with pytest.raises(ValueError, match=r"gs://b/m: .* on a disk only"):
      convert("gs://b/m")
  assert sorted(os.listdir()) == before


@pytest.mark.parametrize(
  ("config", "message"),
  [
    ({"peft_type": "LORA"}, "peft_type PROMPT_TUNING, a single .*, got LORA"),
    ({"peft_type": "MULTITASK_PROMPT_TUNING"}, "got MULTITASK_PROMPT_TUNING"),
    ({"task_type": "SEQ_CLS"}, "or CAUSAL_LM, that of .*, got SEQ_CLS"),
    ({"task_type": None}, "that of a T5 or a decoder, got None"),
    ({"num_virtual_tokens": 0}, "num_virtual_tokens >= 1, got 0"),
    ({"num_virtual_tokens": 4}, r"shape \[4, width\].*got \[3, 4\]"),
  ],
)
def test_refuses_what_is_no_prompt_for_a_model(adapter, config, message):
  file = adapter / peft_adapters.CONFIG
  file.write_text(json.dumps(json.loads(file.read_text()) | config))
  with pytest.raises(ValueError, match=message):
    peft_adapters.load_adapter(adapter)


def test_refuses_what_is_no_adapter(adapter, prompt):
  weights = adapter / peft_adapters.WEIGHTS
  for keys in (["lora"], ["lm_head.weight", "prompt_embeddings"]):
    safetensors.numpy.save_file(dict.fromkeys(keys, prompt), weights)
    message = f"'prompt_embeddings' alone, got {re.escape(str(keys))}"
    with pytest.raises(ValueError, match=message):
      peft_adapters.load_adapter(adapter)
  weights.write_text("no tensors")
  with pytest.raises(ValueError, match="not a safetensors file"):
    peft_adapters.load_adapter(adapter)
  old = weights.rename(adapter / "adapter_model.bin")
  with pytest.raises(ValueError, match=r"bin is not an archive .* or PEFT"):
    peft_adapters.load_adapter(adapter)
  old.unlink()
  with pytest.raises(ValueError, match=r"adapter_model\.bin .* got neither\.$"):
    peft_adapters.load_adapter(adapter)
  config = adapter / peft_adapters.CONFIG
  for text in ("no json", "[]", "{}"):
    config.write_text(text)
    with pytest.raises(ValueError, match="not a PEFT configuration"):
      peft_adapters.load_adapter(adapter)
  with pytest.raises(ValueError, match=r"new folder, got .* which has content"):
    peft_adapters.save_adapter(adapter, prompt)
  config.unlink()
  with pytest.raises(ValueError, match=r"it has no adapter_config\.json"):
    peft_adapters.load_adapter(adapter)
