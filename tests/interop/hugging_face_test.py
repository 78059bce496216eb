"""T5 1.1 in Hugging Face's folders: round trips, and what is refused."""

import json
import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import t5x_folders
import tiny

from prompt_tuning import prompt_files
from prompt_tuning.commands import console
from prompt_tuning.interop import checkpoint_conversion, hugging_face, t5_names
from prompt_tuning.models.t5.config import T5Config
from t5x import checkpoints
from t5x.formats import stored_arrays

CONFIG = T5Config(32, 8, 2, 2, 1, head_dim=6, mlp_dim=20)


# The configuration that the models of the hub have.
HUB_CONFIG = {
  "model_type": "t5",
  "vocab_size": 32,
  "d_model": 8,
  "d_kv": 6,
  "d_ff": 20,
  "num_heads": 2,
  "num_layers": 2,
  "num_decoder_layers": 1,
  "relative_attention_num_buckets": 32,
  "feed_forward_proj": "gated-gelu",
  "tie_word_embeddings": False,
  "layer_norm_epsilon": 1e-06,
}
SHARED = "shared.weight"


def _tensors(dtype=np.float32):
  rng = np.random.default_rng(0)
  tensors = {}
  for name, shape in t5_names.shapes(CONFIG).items():
    if t5_names.is_transposed(name):
      shape = shape[::-1]
    tensors[t5_names.hugging_face_name(name)] = rng.normal(size=shape).astype(
      dtype
    )
  return tensors


def _write(folder, tensors, shards=1, **config):
  folder.mkdir()
  content = {k: v for k, v in {**HUB_CONFIG, **config}.items() if v is not None}
  (folder / "config.json").write_text(json.dumps(content))
  if shards == 1:
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    return folder
  keys = sorted(tensors)
  weight_map = {}
  for shard in range(shards):
    file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
    part = {key: tensors[key] for key in keys[shard::shards]}
    safetensors.numpy.save_file(part, folder / file)
    weight_map |= dict.fromkeys(part, file)
  (folder / "model.safetensors.index.json").write_text(
    json.dumps({"metadata": {}, "weight_map": weight_map})
  )
  return folder


def test_names():
  """`transformers_test` compares the names with the models'."""
  names = [t5_names.hugging_face_name(x) for x in t5_names.shapes(CONFIG)]
  assert len(set(names)) == len(names) == 9 * 2 + 14 + 6
  assert {
    "decoder.block.0.layer.1.EncDecAttention.o.weight",
    "encoder.block.1.layer.1.layer_norm.weight",
    "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
  } < set(names)


def _convert(source_format, source, target_format, target, **kwargs):
  return checkpoint_conversion.convert(
    checkpoint_conversion.open_model(str(source), source_format),
    target_format,
    str(target),
    **kwargs,
  )


@pytest.mark.parametrize(
  ("dtype", "shards"),
  [(np.float32, 3), (ml_dtypes.bfloat16, 1), (np.float16, 3)],
)
def test_to_t5x_and_back_is_bit_exact(tmp_path, monkeypatch, dtype, shards):
  # Tensors in several parts, as those of a large model are.
  monkeypatch.setattr("t5x.formats.t5x_v3._CHUNK_BYTES", 100)
  tensors = _tensors(dtype)
  _write(tmp_path / "hf", tensors, shards)
  (tmp_path / "hf" / "spiece.model").write_bytes(b"vocabulary")
  _convert("hf", tmp_path / "hf", "t5x", tmp_path / "t5x", step=1_100_000)
  step, flat = t5x_folders.read_v3(tmp_path / "t5x" / "checkpoint_1100000")
  assert step == 1_100_000
  assert {k: v.shape for k, v in flat.items()} == t5_names.shapes(CONFIG)
  np.testing.assert_array_equal(
    flat["encoder/layers_1/mlp/wo/kernel"],
    tensors["encoder.block.1.layer.1.DenseReluDense.wo.weight"].T,
  )

  _convert("t5x", tmp_path / "t5x", "hf", tmp_path / "again")
  again = safetensors.numpy.load_file(tmp_path / "again" / "model.safetensors")
  t5x_folders.assert_same(again, tensors)
  config = json.loads((tmp_path / "again" / "config.json").read_text())
  assert HUB_CONFIG.items() <= config.items()
  assert config["dtype"] == np.dtype(dtype).name
  for name in ("t5x", "again"):
    assert (tmp_path / name / "spiece.model").read_bytes() == b"vocabulary"


def test_vocabulary_is_copied_and_none_is_replaced(tmp_path):
  folder = _write(tmp_path / "hf", _tensors())
  # Of whatever is beside the folder.
  (tmp_path / "another.model").write_bytes(b"another")
  _convert("hf", folder, "t5x", tmp_path / "none")
  assert not (tmp_path / "none" / "spiece.model").exists()
  (folder / "sentencepiece.model").write_bytes(b"vocabulary")
  _convert("hf", folder, "t5x", tmp_path / "t5x")
  copy = tmp_path / "t5x" / "spiece.model"
  assert copy.read_bytes() == b"vocabulary"
  copy.write_bytes(b"another")
  for arguments, step, message in (
    (("hf", folder, "t5x", tmp_path / "t5x"), 1, "another model's"),
    (("t5x", tmp_path / "t5x", "hf", tmp_path / "x"), 1, "hf does not keep"),
    (("hf", folder, "t5x", tmp_path / "x"), -1, "step of 0 or more, got -1"),
  ):
    with pytest.raises(ValueError, match=message):
      _convert(*arguments, step=step)
  assert not (tmp_path / "t5x" / "checkpoint_1").exists()
  (tmp_path / "t5x" / "a.model").write_bytes(b"a second")
  with pytest.raises(ValueError, match=r"one vocabulary .* a\.model, spiece"):
    _convert("t5x", tmp_path / "t5x", "hf", tmp_path / "x")
  assert not (tmp_path / "x").exists()


def test_copies_and_unused_tensors_are_left_out(tmp_path):
  tensors = _tensors()
  extra = {
    "encoder.embed_tokens.weight": tensors[SHARED],
    "decoder.embed_tokens.weight": tensors[SHARED],
    "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": (
      np.ones((32, 2), np.float32)
    ),
  }
  with_extra = hugging_face.open_folder(
    _write(tmp_path / "extra", tensors | extra)
  )
  # As transformers 5 saves it.
  config = {"tie_word_embeddings": True, "scale_decoder_outputs": False}
  plain = hugging_face.open_folder(
    _write(tmp_path / "plain", tensors, **config)
  )
  assert with_extra.arrays.keys() == plain.arrays.keys()
  assert with_extra.fingerprint == plain.fingerprint
  # Some have a copy only.
  del extra["encoder.embed_tokens.weight"]
  embedding = tensors.pop(SHARED)
  copy = hugging_face.open_folder(_write(tmp_path / "copy", tensors | extra))
  np.testing.assert_array_equal(
    stored_arrays.read(copy.arrays["token_embedder/embedding"]), embedding
  )


@pytest.mark.parametrize(
  ("config", "message"),
  [
    ({"feed_forward_proj": "relu"}, r"got relu\. It is a T5 1\.0: no gate"),
    ({"feed_forward_proj": None}, r"got relu\. It is a T5 1\.0"),
    ({"feed_forward_proj": "gated-silu"}, "expected feed_forward_proj gated-g"),
    ({"tie_word_embeddings": True}, "got true: the embedding is the head"),
    ({"tie_word_embeddings": None}, "false, got nothing: the embedding is the"),
    (
      {"scale_decoder_outputs": True},
      "scale_decoder_outputs false, got true: the decoder's output is scaled",
    ),
    ({"model_type": "umt5"}, "expected model_type t5, got umt5"),
    ({"layer_norm_epsilon": 1e-5}, "expected layer_norm_epsilon 1e-06.*1e-05"),
    ({"relative_attention_max_distance": 64}, "max_distance 128.*got 64"),
    ({"d_ff": None}, r"config\.json does not say 'd_ff'"),
    ({"d_ff": 21}, r"wi_0\.weight: expected \(21, 8\), got \(20, 8\)"),
    ({"num_layers": 1}, r"block\.1\.layer\.0.*: expected None, got"),
  ],
)
def test_refuses_other_models(tmp_path, config, message):
  folder = _write(tmp_path / "hf", _tensors(), **config)
  with pytest.raises(ValueError, match=message):
    hugging_face.open_folder(folder)


def test_refuses_missing_extra_and_quantised_tensors(tmp_path):
  tensors = _tensors()
  del tensors["decoder.final_layer_norm.weight"]
  tensors["encoder.pooler.weight"] = np.ones((8, 8), np.float32)
  tensors[SHARED] = tensors[SHARED].astype(np.int8)
  folder = _write(tmp_path / "hf", tensors)
  with pytest.raises(ValueError, match="3 differences") as error:
    hugging_face.open_folder(folder)
  for words in (
    "decoder.final_layer_norm.weight: expected (8,), got None",
    "encoder.pooler.weight: expected None, got (8, 8)",
    "shared.weight is I8, expected one of F32, F16, BF16",
  ):
    assert words in str(error.value)
  del tensors["lm_head.weight"]
  folder = _write(tmp_path / "tied", tensors)
  with pytest.raises(ValueError, match="its head is tied to the embedding"):
    hugging_face.open_folder(folder)


WEIGHTS, SHARD = "model.safetensors", "model-00002-of-00003.safetensors"


@pytest.mark.parametrize(
  ("change", "shards", "message"),
  [
    (lambda f: (f / "config.json").unlink(), 1, r"not a Hugging Face folder"),
    (lambda f: (f / SHARD).unlink(), 3, r"complete: .* names model-00002"),
    (lambda f: os.truncate(f / WEIGHTS, 14_000), 1, "not a safetensors file"),
    (lambda f: (f / WEIGHTS).unlink(), 1, r"got neither\.$"),
    *(
      (
        lambda f, name=name: (f / WEIGHTS).rename(f / name),
        1,
        r"is a pickle.*save_pretrained\(",
      )
      for name in ("pytorch_model.bin", "pytorch_model.bin.index.json")
    ),
  ],
)
def test_refuses_incomplete_folders(tmp_path, change, shards, message):
  folder = _write(tmp_path / "hf", _tensors(), shards)
  change(folder)
  with pytest.raises(ValueError, match=message):
    hugging_face.open_folder(folder)


def test_refuses_to_write_what_is_no_t5(tmp_path):
  model = hugging_face.open_folder(_write(tmp_path / "hf", _tensors()))
  prompt = stored_arrays.in_memory(np.ones((3, 8), np.float32))
  head = "decoder/logits_dense/kernel"
  for arrays, message in (
    (
      {**model.arrays, "encoder/prompt/prompt": prompt},
      r"encoder/prompt/prompt.*prompt-tuning convert prompt",
    ),
    ({"a": prompt}, "Expected the parameter token_embedder"),
    (
      {name: x for name, x in model.arrays.items() if name != head},
      rf"{head}: expected \(8, 32\), got None",
    ),
  ):
    with pytest.raises(ValueError, match=message):
      hugging_face.write_folder(tmp_path / "out", arrays)
  assert not (tmp_path / "out").exists()
  with pytest.raises(ValueError, match=r"got .*hf, which has content"):
    hugging_face.write_folder(tmp_path / "hf", model.arrays)


def test_prompt_is_merged_with_its_base_model(tmp_path):
  """As the network names it, or as the code released with the paper does."""
  base = tiny.save_base(tmp_path / "base")
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
  assert flat.keys() == {*checkpoint.arrays, name}
  np.testing.assert_array_equal(flat[name], prompt.astype(np.float32))
  for key, array in checkpoint.arrays.items():
    np.testing.assert_array_equal(flat[key], stored_arrays.read(array))

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


def test_command_line(tmp_path, monkeypatch, capsys):
  _write(tmp_path / "hf", _tensors())
  monkeypatch.chdir(tmp_path)

  def convert(*words):
    status = console.main(["convert", "checkpoint", *words])
    return status, *capsys.readouterr()

  done = convert("--from", "hf", "hf", "--to", "t5x", "out", "--step=5")
  fingerprint = checkpoints.open_checkpoint(str(tmp_path / "out")).fingerprint
  assert done[:2] == (
    0,
    "out/checkpoint_5: 38 arrays, 3,688 parameters, float32, fingerprint "
    f"{fingerprint}; no vocabulary beside it.\n",
  )
  status, _, error = convert("--from", "hf", "out", "--to", "t5x", "other")
  assert status == 1
  assert error == (
    "Error: out is not a Hugging Face folder: no config.json in it.\n"
  )
  error = convert("--from", "pt", "hf", "--to", "t5x", "other")[2]
  assert "Expected a format hf or t5x, got pt" in error


_MEASURE = """
import resource, sys
from prompt_tuning.interop import checkpoint_conversion as c, t5_names
from prompt_tuning.models.t5.config import T5Config
def peak():
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
# Tracing the network is not what grows with the model.
t5_names.shapes(T5Config(32, 8, 2, 1, 1, 4, 8))
before = peak()
source_format, source, target_format, target = sys.argv[1:]
c.convert(c.open_model(source, source_format), target_format, target)
assert "tensorflow" not in sys.modules
print(peak() - before)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_model(tmp_path):
  """Tensor by tensor: 170 MB pass through some times the largest, of 4 MB."""
  config = T5Config(1000, 512, 8, 4, 4, head_dim=64, mlp_dim=2048)
  arrays = {
    name: stored_arrays.in_memory(np.ones(shape, np.float32))
    for name, shape in t5_names.shapes(config).items()
  }
  assert sum(x.nbytes for x in arrays.values()) > 150e6
  hugging_face.write_folder(tmp_path / "hf", arrays)
  for arguments in (("hf", "hf", "t5x", "t5x"), ("t5x", "t5x", "hf", "again")):
    measured = subprocess.run(
      [sys.executable, "-c", _MEASURE, *arguments],
      capture_output=True,
      text=True,
      cwd=tmp_path,
    )
    assert measured.returncode == 0, measured.stderr
    assert int(measured.stdout) < 60e6, arguments
