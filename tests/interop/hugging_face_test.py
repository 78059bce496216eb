"""Tests of T5 in Hugging Face folders: round trips and refused models."""

import json
import os
import re
import subprocess
import sys

import hf_t5s
from hf_t5s import CONFIG, FIRST
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import t5x_folders
import tiny
import tiny_decoder

from prompt_tuning import prompt_files
from prompt_tuning.commands import console
from prompt_tuning.interop import (
  checkpoint_conversion,
  hugging_face,
  t5_configs,
)
from prompt_tuning.models.t5.config import T5Config
from t5x import checkpoints
from t5x.formats import stored_arrays

HEAD = "lm_head.weight"
SHARED, WEIGHTS = "shared.weight", "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
MALFORMED = b"", b"[" * 100_000, b"\xff", b"[1]"


@pytest.fixture
def folder(tmp_path):
  """A folder that we wrote; `transformers_test` reads those of transformers."""
  return hf_t5s.save(tmp_path / "hf", CONFIG)


def _tensors(folder):
  return safetensors.numpy.load_file(folder / WEIGHTS)


def _save(folder, tensors):
  safetensors.numpy.save_file(tensors, folder / WEIGHTS)


def _configure(folder, **changes):
  """Changes fields of the configuration; None removes one."""
  file = folder / "config.json"
  fields = json.loads(file.read_text()) | changes
  file.write_text(
    json.dumps({k: x for k, x in fields.items() if x is not None})
  )


def _convert(source_format, source, target_format, target, **kwargs):
  return checkpoint_conversion.convert(
    checkpoint_conversion.open_model(str(source), source_format),
    target_format,
    str(target),
    **kwargs,
  )


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16])
@pytest.mark.parametrize("config", [CONFIG, FIRST])
def test_to_t5x_and_back_is_bit_exact(tmp_path, monkeypatch, config, dtype):
  # Arrays are in several parts, like those of a large model.
  monkeypatch.setattr("t5x.formats.t5x_v3._CHUNK_BYTES", 100)
  arrays = hf_t5s.arrays(config, dtype)
  hf, again = tmp_path / "hf", tmp_path / "again"
  hugging_face.write_folder(hf, arrays)
  (hf / "spiece.model").write_bytes(b"vocabulary")
  _convert("hf", hf, "t5x", tmp_path / "t5x", step=1_100_000)
  step, flat = t5x_folders.read_v3(tmp_path / "t5x" / "checkpoint_1100000")
  assert step == 1_100_000
  t5x_folders.assert_same(
    flat, {name: stored_arrays.read(array) for name, array in arrays.items()}
  )
  _convert("t5x", tmp_path / "t5x", "hf", again)
  for name in (WEIGHTS, "config.json", "spiece.model"):
    assert (again / name).read_bytes() == (hf / name).read_bytes()
  config = json.loads((again / "config.json").read_text())
  assert config["dtype"] == np.dtype(dtype).name


def test_distance_that_no_checkpoint_records_is_the_networks():
  name = "relative_attention_max_distance"
  assert t5_configs.FIXED[name] == getattr(CONFIG, name)


def test_vocabulary_is_copied_and_none_is_replaced(
  folder, tmp_path, monkeypatch
):
  # A file beside the folder does not count.
  (tmp_path / "another.model").write_bytes(b"another")
  (folder / "tokenizer.json").write_text("{}")  # Not T5's.
  _convert("hf", folder, "t5x", tmp_path / "none")
  assert not (tmp_path / "none" / "spiece.model").exists()
  # transformers 5 leaves only `tokenizer.json`, from which a model is made.
  read = "prompt_tuning.interop.sentencepiece_model"
  read = f"{read}.sentencepiece_from_tokenizer_json"
  monkeypatch.setattr(read, lambda path: path.name.encode())
  _convert("hf", folder, "t5x", tmp_path / "made")
  made = tmp_path / "made" / "spiece.model"
  assert made.read_bytes() == b"tokenizer.json"
  (folder / "sentencepiece.model").write_bytes(b"vocabulary")
  _convert("hf", folder, "t5x", tmp_path / "t5x")
  copy = tmp_path / "t5x" / "spiece.model"
  assert copy.read_bytes() == b"vocabulary"
  copy.write_bytes(b"another")
  with pytest.raises(ValueError, match="another model's"):
    _convert("hf", folder, "t5x", tmp_path / "t5x", step=1)
  assert not (tmp_path / "t5x" / "checkpoint_1").exists()
  (tmp_path / "t5x" / "a.model").write_bytes(b"a second")
  with pytest.raises(ValueError, match=r"one vocabulary .* a\.model, spiece"):
    _convert("t5x", tmp_path / "t5x", "hf", tmp_path / "x")
  assert not (tmp_path / "x").exists()


def test_copies_and_unused_tensors_are_left_out(folder):
  tensors, plain = _tensors(folder), hugging_face.open_folder(folder)
  copy = {"decoder.embed_tokens.weight": tensors[SHARED]}
  extra = {
    "encoder.embed_tokens.weight": tensors[SHARED],
    "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": (
      np.ones((32, 2), np.float32)
    ),
  }
  _save(folder, tensors | copy | extra)
  # Like the configuration that transformers 5 saves.
  _configure(folder, tie_word_embeddings=True, scale_decoder_outputs=False)
  with_extra = hugging_face.open_folder(folder)
  assert with_extra.arrays.keys() == plain.arrays.keys()
  assert with_extra.fingerprint == plain.fingerprint
  # Some files have only a copy.
  del tensors[SHARED]
  _save(folder, tensors | copy)
  assert hugging_face.open_folder(folder).fingerprint == plain.fingerprint


def test_a_copy_of_a_tied_head_is_left_out(tmp_path):
  folder = hf_t5s.save(tmp_path / "first", FIRST)
  plain, tensors = hugging_face.open_folder(folder), _tensors(folder)
  assert HEAD not in tensors
  # Older files lack these settings, and their head is a copy of the table.
  _configure(folder, feed_forward_proj=None, tie_word_embeddings=None)
  _save(folder, {**tensors, HEAD: tensors[SHARED]})
  assert hugging_face.open_folder(folder).fingerprint == plain.fingerprint
  _save(folder, {**tensors, HEAD: tensors[SHARED] + 1})
  with pytest.raises(
    ValueError, match=r"expected lm_head\.weight to be shared"
  ):
    hugging_face.open_folder(folder)


@pytest.mark.parametrize(
  ("config", "message"),
  [
    ({"feed_forward_proj": "relu"}, "embeddings true beside relu, got false"),
    ({"feed_forward_proj": None}, "embeddings true beside relu, got false"),
    (
      {"feed_forward_proj": "relu", "tie_word_embeddings": True},
      r"expected lm_head\.weight to be shared\.weight",
    ),
    ({"feed_forward_proj": "gated-silu"}, "relu or gated-gelu, got gated-silu"),
    ({"feed_forward_proj": ["relu"]}, "relu or gated-gelu, got "),
    ({"tie_word_embeddings": True}, "false beside gated-gelu, got true"),
    ({"tie_word_embeddings": None}, "false beside gated-gelu, got true"),
    (
      {"scale_decoder_outputs": True},
      "scale_decoder_outputs false beside gated-gelu, got true",
    ),
    ({"model_type": "umt5"}, "expected model_type t5, .*got umt5"),
    ({"layer_norm_epsilon": 1e-5}, "expected layer_norm_epsilon 1e-06.*1e-05"),
    ({"relative_attention_max_distance": 64}, "max_distance 128.*got 64"),
    ({"d_ff": None}, r"config\.json is not .*d_ff: Field required"),
    ({"d_ff": 21}, r"wi_0\.weight: expected \(21, 8\), got \(20, 8\)"),
    ({"relative_attention_num_buckets": 2}, r"config\.json.*at least 4.*got 2"),
    ({"relative_attention_num_buckets": 256}, r"config\.json.*less than"),
    ({"num_layers": 900}, "tensors of 901 layers, .* got"),
    ({"num_layers": 1}, r"block\.1\.layer\.0.*: expected None, got"),
    *(
      ({name: value}, rf"config\.json.*{name}")
      for name in ("vocab_size", "num_heads", "num_layers")
      for value in (0, -1, 2.5, True, "8", [8], {"a": 8}, 2**31, 10**30)
    ),
    *(
      (content, r"config\.json")
      for content in (*MALFORMED, b"7", b'{"model_type": [["t5"]]}')
    ),
  ],
)
def test_refuses_other_models(folder, config, message):
  if isinstance(config, dict):
    _configure(folder, **config)
  else:
    (folder / "config.json").write_bytes(config)
  with pytest.raises(ValueError, match=message):
    hugging_face.open_folder(folder)


def test_refuses_missing_extra_and_quantised_tensors(folder):
  tensors = _tensors(folder)
  del tensors["decoder.final_layer_norm.weight"]
  tensors["encoder.pooler.weight"] = np.ones((8, 8), np.float32)
  tensors[SHARED] = tensors[SHARED].astype(np.int8)
  _save(folder, tensors)
  with pytest.raises(ValueError, match="3 differences") as error:
    hugging_face.open_folder(folder)
  for words in (
    "decoder.final_layer_norm.weight: expected (8,), got None",
    "encoder.pooler.weight: expected None, got (8, 8)",
    "shared.weight is int8, expected one of float32, float16, bfloat16",
  ):
    assert words in str(error.value)
  del tensors[HEAD]
  _save(folder, tensors)
  with pytest.raises(
    ValueError, match=r"lm_head\.weight: expected .* got None"
  ):
    hugging_face.open_folder(folder)
  _configure(folder, quantization_config={"quant_method": "gptq"})
  with pytest.raises(ValueError, match="quantised: choose the model that is"):
    hugging_face.open_folder(folder)
  os.truncate(folder / WEIGHTS, 10_000)
  with pytest.raises(ValueError, match="not a safetensors file"):
    hugging_face.open_folder(folder)


_INDEX = r"index\.json is not an index of files beside it"


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    *(
      (INDEX, content, _INDEX)
      for content in (*MALFORMED, b"{}", b'{"weight_map": 1}', b"{")
    ),
    *(
      (INDEX, b'{"weight_map": {"a": "%s"}}' % name, message)
      for name, message in (
        *((x, _INDEX) for x in (b"../hf/config.json", b"/x", b"a/b", b"..")),
        (b"2.safetensors", r"complete: .* names 2\.safetensors"),
      )
    ),
    ("anything", b"", r"got neither\.$"),
    ("pytorch_model.bin", b"", r"File is not a zip file.*save_pretrained\("),
    ("pytorch_model.bin.index.json", b"", _INDEX),
  ],
)
def test_refuses_folders_without_weights(folder, name, content, message):
  (folder / WEIGHTS).unlink()
  (folder / name).write_bytes(content)
  with pytest.raises(ValueError, match=message):
    hugging_face.open_folder(folder)


def test_refuses_to_write_what_is_no_t5(folder, tmp_path):
  arrays = hf_t5s.arrays(CONFIG)
  prompt = stored_arrays.in_memory(np.ones((3, 8), np.float32))
  head = "decoder/logits_dense/kernel"
  for wrong, message in (
    (
      {**arrays, "encoder/prompt/prompt": prompt},
      r"encoder/prompt/prompt.*prompt-tuning convert prompt",
    ),
    ({"a": prompt}, "Expected the parameter token_embedder"),
    (
      {name: x for name, x in arrays.items() if name != head},
      rf"{head}: expected \(8, 32\), got None",
    ),
  ):
    with pytest.raises(ValueError, match=message):
      hugging_face.write_folder(tmp_path / "out", wrong)
  assert not (tmp_path / "out").exists()
  with pytest.raises(ValueError, match=r"got .*hf, which has content"):
    hugging_face.write_folder(folder, arrays)


def test_prompt_is_merged_with_its_base_model(base, tmp_path):
  """The result has the base's arrays and the prompt; a second is refused."""
  checkpoint = checkpoints.open_checkpoint(base)
  prompt = np.random.default_rng(0).normal(size=(3, tiny.WIDTH))
  metadata = prompt_files.PromptMetadata(checkpoint.fingerprint, "vocabulary")
  file = tmp_path / "prompt.safetensors"
  prompt_files.save_prompt(file, prompt, metadata)
  name = "encoder/prompt/prompt/prompt"
  merged = checkpoint_conversion.add_prompt(checkpoint, file, name)
  written = checkpoint_conversion.convert(
    merged, "t5x", str(tmp_path / "merged")
  )
  again = checkpoints.open_checkpoint(str(tmp_path / "merged"))
  assert again.fingerprint != checkpoint.fingerprint
  assert f"fingerprint {again.fingerprint}" in written
  step, flat = t5x_folders.read_v3(
    tmp_path / "merged" / f"checkpoint_{tiny.BASE_STEP}"
  )
  assert step == tiny.BASE_STEP
  expected = {x: stored_arrays.read(y) for x, y in checkpoint.arrays.items()}
  expected[name] = prompt.astype(np.float32)
  t5x_folders.assert_same(flat, expected)

  for one in (name, "encoder/prompt/prompt"):
    with pytest.raises(ValueError, match="has a prompt already"):
      checkpoint_conversion.add_prompt(merged, file, one)
  narrow = tmp_path / "narrow.npy"
  prompt_files.save_prompt(narrow, prompt[:, 1:])
  with pytest.raises(ValueError, match=r"of width 16, .* got 15 in .*narrow"):
    checkpoint_conversion.add_prompt(checkpoint, narrow, name)
  other = checkpoints.open_checkpoint(tiny.save_base(tmp_path / "other", 1))
  with pytest.raises(ValueError, match="belongs to another model"):
    checkpoint_conversion.add_prompt(other, file, name)
  # Neither format holds a decoder with a prompt.
  decoder = checkpoints.open_checkpoint(tiny_decoder.save(tmp_path / "decoder"))
  with pytest.raises(ValueError, match="Expected a T5"):
    checkpoint_conversion.add_prompt(decoder, file, name)


@pytest.mark.parametrize(
  ("words", "text"),
  [
    (
      "convert checkpoint --from hf hf --to t5x out --step=5",
      r"out/checkpoint_5: 38 arrays, 3,688 parameters, float32, fingerprint "
      r"\w+; no vocabulary beside it\.",
    ),
    ("inspect hf", r"(?s).*\nhf: step 0, 38 arrays, 3,688 parameters"),
    ("inspect hf hf", "38 arrays are the same, 0 differ"),
    (
      "convert prompt in.npy peft",
      r"peft: PEFT adapter \(it was not compared with a base model\), prompt "
      r"of 3 x 4\.",
    ),
  ],
)
def test_commands(folder, tmp_path, monkeypatch, capsys, words, text):
  np.save(tmp_path / "in.npy", np.ones((3, 4)))
  monkeypatch.chdir(tmp_path)
  assert console.main(words.split()) == 0
  assert re.match(text, capsys.readouterr().out)


_MEASURE = """
import resource, sys
from prompt_tuning.interop import checkpoint_conversion as c, parameter_names
from prompt_tuning.models.t5.config import T5Config
def peak():
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
# Tracing the network is not what grows with the model.
parameter_names.shapes(T5Config(32, 8, 2, 1, 1, 4, 8))
before = peak()
c.convert(c.open_model("hf"), "t5x", "t5x")
c.convert(c.open_model("t5x"), "hf", "again")
assert "tensorflow" not in sys.modules
print(peak() - before)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_model(tmp_path):
  """Converting over 150 MB, tensor by tensor, takes less than 60 MB more."""
  config = T5Config(1000, 512, 8, 4, 4, head_dim=64, mlp_dim=2048)
  arrays = hf_t5s.arrays(config)
  assert sum(x.nbytes for x in arrays.values()) > 150e6
  hugging_face.write_folder(tmp_path / "hf", arrays)
  command = [sys.executable, "-c", _MEASURE]
  assert int(subprocess.check_output(command, cwd=tmp_path)) < 60e6
