"""Adapter folders of PEFT; `transformers_test` runs PEFT itself."""

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from prompt_tuning import prompt_files
from prompt_tuning.interop import peft_adapters

METADATA = prompt_files.PromptMetadata(
  base_fingerprint="52cb",
  vocabulary_sha256="eed7",
  task="super_glue_cb",
  step=1130000,
  metric="accuracy",
  score=87.5,
)


@pytest.fixture
def prompt():
  return np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32) * 800


def _write(folder, array, header=None, key="prompt_embeddings", **config):
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
  safetensors.numpy.save_file(
    {key: array}, folder / "adapter_model.safetensors", header
  )
  return folder


def test_round_trip_is_bit_exact_and_keeps_the_metadata(tmp_path, prompt):
  peft_adapters.save_adapter(tmp_path / "a", prompt, METADATA, "some/model")
  array, metadata = peft_adapters.load_adapter(tmp_path / "a")
  assert array.tobytes() == prompt.tobytes()
  assert metadata == METADATA
  config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
  assert config["base_model_name_or_path"] == "some/model"
  assert config["num_transformer_submodules"] == 1


def test_takes_the_first_rows_of_pefts_default(tmp_path, prompt):
  both = np.concatenate([prompt, -prompt])
  array, metadata = peft_adapters.load_adapter(
    _write(tmp_path / "a", both, {"format": "pt"})
  )
  np.testing.assert_array_equal(array, prompt)
  assert metadata is None
  half = prompt.astype(ml_dtypes.bfloat16)
  array, _ = peft_adapters.load_adapter(_write(tmp_path / "half", half))
  np.testing.assert_array_equal(array, half.astype(np.float32))


@pytest.mark.parametrize(
  ("config", "message"),
  [
    (
      {"peft_type": "LORA"},
      "peft_type PROMPT_TUNING, a single .*, got LORA",
    ),
    (
      {"peft_type": "MULTITASK_PROMPT_TUNING"},
      "a single prompt, got MULTITASK_PROMPT_TUNING",
    ),
    ({"task_type": "CAUSAL_LM"}, "SEQ_2_SEQ_LM, that of a T5, got CAUSAL_LM"),
    ({"task_type": None}, "SEQ_2_SEQ_LM, that of a T5, got None"),
    ({"num_virtual_tokens": 0}, "num_virtual_tokens >= 1, got 0"),
    ({"num_virtual_tokens": 4}, r"shape \[4, width\].*got \[3, 4\]"),
  ],
)
def test_refuses_what_is_no_prompt_for_a_t5(tmp_path, prompt, config, message):
  folder = _write(tmp_path / "a", prompt, **config)
  with pytest.raises(ValueError, match=message):
    peft_adapters.load_adapter(folder)


def test_refuses_what_is_no_adapter(tmp_path, prompt):
  with pytest.raises(ValueError, match=r"it has no adapter_config\.json"):
    peft_adapters.load_adapter(tmp_path)
  other_key = _write(tmp_path / "key", prompt, key="lora")
  with pytest.raises(
    ValueError, match=r"'prompt_embeddings' alone, got \['lora'\]"
  ):
    peft_adapters.load_adapter(other_key)
  more = _write(tmp_path / "more", prompt)
  arrays = {"prompt_embeddings": prompt, "lm_head.weight": prompt}
  safetensors.numpy.save_file(arrays, more / "adapter_model.safetensors")
  with pytest.raises(ValueError, match=r"alone, got .*lm_head"):
    peft_adapters.load_adapter(more)
  folder = _write(tmp_path / "a", prompt)
  (folder / "adapter_model.safetensors").write_text("no tensors")
  with pytest.raises(ValueError, match="not a safetensors file"):
    peft_adapters.load_adapter(folder)
  for text in ("no json", "[]", "{}"):
    (folder / "adapter_config.json").write_text(text)
    with pytest.raises(ValueError, match="not a configuration of PEFT's"):
      peft_adapters.load_adapter(folder)


def test_refuses_a_pickle_and_says_the_way_out(tmp_path, prompt):
  folder = _write(tmp_path / "a", prompt)
  (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
  with pytest.raises(ValueError, match=r"is a pickle.*safe_serialization=True"):
    peft_adapters.load_adapter(folder)
  (folder / "adapter_model.bin").unlink()
  with pytest.raises(ValueError, match=r"got none\.$"):
    peft_adapters.load_adapter(folder)


def test_does_not_write_over_another_adapter(tmp_path, prompt):
  folder = _write(tmp_path / "lora", prompt, peft_type="LORA")
  with pytest.raises(ValueError, match=r"new folder, got .* which has content"):
    peft_adapters.save_adapter(folder, prompt)
