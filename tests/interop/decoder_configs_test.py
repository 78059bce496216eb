"""Tests of decoders' settings in Hugging Face configurations."""

import pathlib

import pytest
import tiny_decoder

from prompt_tuning.interop import decoder_configs

FILE = pathlib.Path("config.json")


@pytest.mark.parametrize(
  ("family", "window"), [("llama", None), ("gemma", None), ("mistral", 3)]
)
def test_a_window_counts_where_transformers_reads_it(family, window):
  content = {**tiny_decoder.CONFIG, "model_type": family, "sliding_window": 3}
  if family == "gemma":
    content["hidden_activation"] = "gelu_pytorch_tanh"
  assert decoder_configs.read_config(FILE, content).window == window


def test_another_model_is_not_called_damaged():
  content = {**tiny_decoder.CONFIG, "rope_scaling": {"type": "yarn"}}
  with pytest.raises(ValueError, match=r"llama3, got 'yarn'\. .*supported"):
    decoder_configs.read_config(FILE, content)
