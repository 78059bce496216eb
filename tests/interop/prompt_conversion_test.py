"""Prompts from any format to any other; `transformers_test` runs PEFT."""

import dataclasses
import json
import re

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from prompt_tuning import prompt_files
from prompt_tuning.commands import console
from prompt_tuning.interop import (
  hugging_face,
  peft_adapters,
  prompt_conversion,
  t5_names,
)
from prompt_tuning.models.t5 import config
from t5x import checkpoints
from t5x.formats import stored_arrays

METADATA = prompt_files.PromptMetadata(
  "52cb", "eed7", task="cb", step=1130000, metric="accuracy", score=87.5
)


@pytest.fixture
def prompt():
  return np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32) * 800


def _adapter(folder, array, header=None, **config):
  """Writes an adapter as PEFT 0.21 does, with its default of two submodules."""
  folder.mkdir()
  fields = {
    "peft_type": "PROMPT_TUNING",
    "task_type": "SEQ_2_SEQ_LM",
    "num_virtual_tokens": 3,
    "num_transformer_submodules": 2,
    "token_dim": 4,
    **config,
  }
  (folder / "adapter_config.json").write_text(json.dumps(fields))
  weights = folder / "adapter_model.safetensors"
  safetensors.numpy.save_file({"prompt_embeddings": array}, weights, header)
  return folder


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
  # Upstream's arrays, whose names have no suffix during training.
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
  path = _checkpoint(
    tmp_path, prompt={"prompt": {"prompt": prompt} if nested else prompt}
  )
  name = "encoder/prompt/prompt" + "/prompt" * nested
  for place in (path, tmp_path):
    array, metadata = prompt_conversion.read_prompt(place)
    np.testing.assert_array_equal(array, prompt)
    assert metadata is not None
    assert metadata.step == 7
    assert metadata.parameter_path == name
    prompt_files.check_compatible(metadata, "any", "any")


def test_a_runs_best_prompt_is_read_rather_than_its_last(tmp_path, prompt):
  path = _checkpoint(
    tmp_path, {"base_fingerprint": "52cb"}, prompt={"prompt": prompt}
  )
  _, metadata = prompt_conversion.read_prompt(path)
  assert metadata is not None
  assert metadata.base_fingerprint == "52cb"
  prompt_files.save_prompt(
    tmp_path / "prompt.safetensors", prompt + 1, METADATA
  )
  array, metadata = prompt_conversion.read_prompt(tmp_path)
  np.testing.assert_array_equal(array, prompt + 1)
  assert metadata == METADATA


def test_refuses_a_checkpoint_without_a_single_prompt(tmp_path, prompt):
  trained = ["encoder/prompt/prompt", "encoder/layers_0/mlp/wo/kernel"]
  path = _checkpoint(tmp_path, {"trained": trained}, prompt={"prompt": prompt})
  with pytest.raises(ValueError, match="trained beside encoder/layers_0/mlp"):
    prompt_conversion.read_prompt(path)
  path = _checkpoint(tmp_path / "none")
  with pytest.raises(ValueError, match="got none among 2 parameters"):
    prompt_conversion.read_prompt(path)


def test_bucket_is_read_and_not_taken_for_a_folder(
  tmp_path, prompt, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  for path in ("gs://b/prompt.safetensors", "gs://b/adapter"):
    with pytest.raises(ValueError, match=f"{path}: .* on a disk only"):
      prompt_conversion.write_prompt(path, prompt, METADATA)
  with pytest.raises(ValueError, match=r"gs://b/m: .* on a disk only"):
    hugging_face.open_folder("gs://b/m")
  with pytest.raises(ValueError, match=r"gs://b/m: .* on a disk only"):
    hugging_face.write_folder("gs://b/m", {})
  assert not list(tmp_path.iterdir())


def test_refuses_names_it_cannot_write(tmp_path, prompt):
  with pytest.raises(ValueError, match=r"ends in \.safetensors or \.npy"):
    prompt_conversion.write_prompt(tmp_path / "prompt.bin", prompt)
  with pytest.raises(ValueError, match="Only a PEFT adapter names its base"):
    prompt_conversion.write_prompt(
      tmp_path / "prompt.npy", prompt, base_model="some/model"
    )


def test_adapter_is_compared_with_the_base_model_that_it_names(
  tmp_path, prompt
):
  base = str(tmp_path / "base")
  sizes = config.T5Config(32, 4, 2, 1, 1, head_dim=6, mlp_dim=20)
  hugging_face.write_folder(
    base,
    {
      name: stored_arrays.in_memory(np.ones(shape, np.float32))
      for name, shape in t5_names.shapes(sizes).items()
    },
  )
  fingerprint = hugging_face.open_folder(base).fingerprint
  of_it = dataclasses.replace(METADATA, base_fingerprint=fingerprint)
  for metadata, expected in (
    (of_it, "is the model that it was trained on"),
    (None, "has its width; the file does not identify its weights"),
  ):
    written = prompt_conversion.check_base_model(base, prompt, metadata)
    assert expected in written
  with pytest.raises(ValueError, match="trained on 52cb: it belongs to an"):
    prompt_conversion.write_prompt(tmp_path / "out", prompt, METADATA, base)
  with pytest.raises(ValueError, match="has width 4, and the prompt has 3"):
    prompt_conversion.write_prompt(tmp_path / "out", prompt.T, None, base)
  assert not (tmp_path / "out").exists()


def test_base_model_that_is_not_there_is_refused(tmp_path, prompt, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "models").mkdir()
  for name in ("/nowhere/t5", "models/t5", "./t5", "a/b/c"):
    with pytest.raises(ValueError, match=f"The folder {name} does not exist"):
      prompt_conversion.write_prompt(tmp_path / "out", prompt, None, name)
  with pytest.raises(ValueError, match=r"models is not a Hugging Face model"):
    prompt_conversion.write_prompt(tmp_path / "out", prompt, None, "models")
  (tmp_path / "models" / "config.json").write_text("[" * 100_000)
  with pytest.raises(ValueError, match="is not a configuration of a T5"):
    prompt_conversion.write_prompt(tmp_path / "out", prompt, None, "models")
  assert not (tmp_path / "out").exists()
  written = prompt_conversion.write_prompt(
    tmp_path / "out", prompt, None, "google/t5-base-lm-adapt"
  )
  assert "is a name on the hub: it was not compared" in written
  written = json.loads((tmp_path / "out/adapter_config.json").read_text())
  assert written["base_model_name_or_path"] == "google/t5-base-lm-adapt"
  assert written["num_transformer_submodules"] == 1


def test_command_line(tmp_path, prompt, monkeypatch, capsys):
  np.save(tmp_path / "in.npy", prompt)
  monkeypatch.chdir(tmp_path)
  assert console.main(["convert", "prompt", "in.npy", "peft"]) == 0
  assert capsys.readouterr().out == (
    "peft: PEFT adapter (it names no base model and was not compared with "
    "one), prompt of 3 x 4.\n"
  )
  assert console.main(["convert", "prompt", "nothing.npy", "out.npy"]) == 1
  assert capsys.readouterr().err == (
    "Error: nothing.npy is not a file. Prompt files in .: in.npy.\n"
  )


def test_takes_the_first_rows_of_pefts_default(tmp_path, prompt):
  both = np.concatenate([prompt, -prompt])
  array, metadata = peft_adapters.load_adapter(
    _adapter(tmp_path / "a", both, {"format": "pt"})
  )
  np.testing.assert_array_equal(array, prompt)
  assert metadata is None
  half = prompt.astype(ml_dtypes.bfloat16)
  array, _ = peft_adapters.load_adapter(_adapter(tmp_path / "half", half))
  np.testing.assert_array_equal(array, half.astype(np.float32))


@pytest.mark.parametrize(
  ("config", "message"),
  [
    ({"peft_type": "LORA"}, "peft_type PROMPT_TUNING, a single .*, got LORA"),
    ({"peft_type": "MULTITASK_PROMPT_TUNING"}, "got MULTITASK_PROMPT_TUNING"),
    ({"task_type": "CAUSAL_LM"}, "SEQ_2_SEQ_LM, that of a T5, got CAUSAL_LM"),
    ({"task_type": None}, "SEQ_2_SEQ_LM, that of a T5, got None"),
    ({"num_virtual_tokens": 0}, "num_virtual_tokens >= 1, got 0"),
    ({"num_virtual_tokens": 4}, r"shape \[4, width\].*got \[3, 4\]"),
  ],
)
def test_refuses_what_is_no_prompt_for_a_t5(tmp_path, prompt, config, message):
  folder = _adapter(tmp_path / "a", prompt, **config)
  with pytest.raises(ValueError, match=message):
    peft_adapters.load_adapter(folder)


def test_refuses_what_is_no_adapter(tmp_path, prompt):
  with pytest.raises(ValueError, match=r"it has no adapter_config\.json"):
    peft_adapters.load_adapter(tmp_path)
  folder = _adapter(tmp_path / "a", prompt)
  weights = folder / "adapter_model.safetensors"
  for keys in (["lora"], ["lm_head.weight", "prompt_embeddings"]):
    safetensors.numpy.save_file(dict.fromkeys(keys, prompt), weights)
    message = f"'prompt_embeddings' alone, got {re.escape(str(keys))}"
    with pytest.raises(ValueError, match=message):
      peft_adapters.load_adapter(folder)
  weights.write_text("no tensors")
  with pytest.raises(ValueError, match="not a safetensors file"):
    peft_adapters.load_adapter(folder)
  for text in ("no json", "[]", "{}"):
    (folder / "adapter_config.json").write_text(text)
    with pytest.raises(ValueError, match="not a configuration of PEFT's"):
      peft_adapters.load_adapter(folder)


def test_refuses_a_pickle_and_says_the_way_out(tmp_path, prompt):
  folder = _adapter(tmp_path / "a", prompt)
  (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
  with pytest.raises(ValueError, match=r"is a pickle.*safe_serialization=True"):
    peft_adapters.load_adapter(folder)
  (folder / "adapter_model.bin").unlink()
  with pytest.raises(ValueError, match=r"got none\.$"):
    peft_adapters.load_adapter(folder)


def test_does_not_write_over_another_adapter(tmp_path, prompt):
  folder = _adapter(tmp_path / "lora", prompt, peft_type="LORA")
  with pytest.raises(ValueError, match=r"new folder, got .* which has content"):
    peft_adapters.save_adapter(folder, prompt)
