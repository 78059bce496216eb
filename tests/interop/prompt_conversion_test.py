"""Prompts from any format to any other."""

import dataclasses

import numpy as np
import pytest

from prompt_tuning import prompt_files
from prompt_tuning.commands import console
from prompt_tuning.interop import hugging_face, prompt_conversion, t5_names
from prompt_tuning.models.t5 import config
from t5x import checkpoints
from t5x.formats import stored_arrays

METADATA = prompt_files.PromptMetadata("52cb", "eed7", task="cb", step=7)


@pytest.fixture
def prompt():
  return np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32) * 800


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
  for act in (
    hugging_face.open_folder,
    lambda x: hugging_face.write_folder(x, {}),
  ):
    with pytest.raises(ValueError, match=r"gs://b/m: .* on a disk only"):
      act("gs://b/m")
  assert not list(tmp_path.iterdir())


def test_refuses_names_it_cannot_write(tmp_path, prompt):
  with pytest.raises(ValueError, match=r"ends in \.safetensors or \.npy"):
    prompt_conversion.write_prompt(tmp_path / "prompt.bin", prompt)
  with pytest.raises(ValueError, match="Only a PEFT adapter names its base"):
    prompt_conversion.write_prompt(
      tmp_path / "prompt.npy", prompt, base_model="some/model"
    )


def _base_model(folder, width=4):
  """Writes a Hugging Face model, and returns its fingerprint."""
  rng = np.random.default_rng(0)
  sizes = config.T5Config(32, width, 2, 1, 1, head_dim=6, mlp_dim=20)
  hugging_face.write_folder(
    folder,
    {
      name: stored_arrays.in_memory(rng.normal(size=shape).astype(np.float32))
      for name, shape in t5_names.shapes(sizes).items()
    },
  )
  return hugging_face.open_folder(folder).fingerprint


def test_adapter_is_compared_with_the_base_model_that_it_names(
  tmp_path, prompt
):
  fingerprint = _base_model(tmp_path / "base")
  of_it = dataclasses.replace(METADATA, base_fingerprint=fingerprint)
  base = str(tmp_path / "base")
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
