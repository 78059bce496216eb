"""Tests of a small Llama in a GGUF file like those of llama.cpp."""

import gguf
import numpy as np
import pytest
from tokenizers import pre_tokenizers

from prompt_tuning.interop import gguf_model, hugging_face
from t5x.formats import stored_arrays

WIDTH, HEADS, KEY_HEADS, LAYER = 32, 4, 2, "model.layers.0"
# Name in the file, Hugging Face's name, shape.
KERNELS = (
  ("token_embd", "model.embed_tokens", (261, WIDTH)),
  ("blk.0.attn_q", f"{LAYER}.self_attn.q_proj", (WIDTH, WIDTH)),
  ("blk.0.attn_k", f"{LAYER}.self_attn.k_proj", (WIDTH // 2, WIDTH)),
  ("blk.0.attn_v", f"{LAYER}.self_attn.v_proj", (WIDTH // 2, WIDTH)),
  ("blk.0.attn_output", f"{LAYER}.self_attn.o_proj", (WIDTH, WIDTH)),
  ("blk.0.ffn_gate", f"{LAYER}.mlp.gate_proj", (64, WIDTH)),
  ("blk.0.ffn_up", f"{LAYER}.mlp.up_proj", (64, WIDTH)),
  ("blk.0.ffn_down", f"{LAYER}.mlp.down_proj", (WIDTH, 64)),
)
SCALES = (
  ("blk.0.attn_norm", f"{LAYER}.input_layernorm"),
  ("blk.0.ffn_norm", f"{LAYER}.post_attention_layernorm"),
  ("output_norm", "model.norm"),
)
HALVES = {"blk.0.attn_q": HEADS, "blk.0.attn_k": KEY_HEADS}
END = "<|im_end|>"


def _write(path, kind, pre="smollm"):
  """Writes a random model; returns Hugging Face's name -> array."""
  writer = gguf.GGUFWriter(path, "llama")
  writer.add_embedding_length(WIDTH)
  writer.add_block_count(1)
  writer.add_head_count(HEADS)
  writer.add_head_count_kv(KEY_HEADS)
  writer.add_feed_forward_length(64)
  writer.add_context_length(128)
  writer.add_layer_norm_rms_eps(1e-5)
  letters = sorted(pre_tokenizers.ByteLevel.alphabet())
  writer.add_tokenizer_model("gpt2")
  writer.add_tokenizer_pre(pre)
  writer.add_token_list([*letters, "ab", "abc", "12", END, "<spare>"])
  writer.add_token_types([1] * (len(letters) + 3) + [3, 3])
  writer.add_token_merges(["a b", "ab c", "1 2"])
  writer.add_eos_token_id(len(letters) + 3)
  writer.add_chat_template("a{{ messages[0].content }}{{ eos_token }}")
  rng, arrays = np.random.default_rng(0), {}
  for own, name, shape in KERNELS:
    values = arrays[f"{name}.weight"] = rng.normal(size=shape).astype("f")
    if heads := HALVES.get(own):  # llama.cpp's order of a head's rows.
      parts = values.reshape(heads, 2, -1, shape[1])
      values = parts.swapaxes(1, 2).reshape(shape)
    values = gguf.quants.quantize(values, kind)
    writer.add_tensor(f"{own}.weight", values, raw_dtype=kind)
  for own, name in SCALES:
    values = arrays[f"{name}.weight"] = rng.normal(size=WIDTH).astype("f")
    writer.add_tensor(f"{own}.weight", values)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return arrays


@pytest.mark.parametrize(
  ("kind", "tolerance"), [("F32", 0), ("F16", 2e-3), ("Q8_0", 2e-2)]
)
def test_weights_and_tokenizer_are_converted(tmp_path, kind, tolerance):
  kind = gguf.GGMLQuantizationType[kind]
  expected = _write(tmp_path / "model.gguf", kind)
  gguf_model.convert(tmp_path / "model.gguf", tmp_path / "out")
  found = hugging_face.open_folder(tmp_path / "out")
  config = found.metadata["config"]
  assert (config.emb_dim, config.num_heads) == (WIDTH, HEADS)
  assert len(found.arrays) == len(KERNELS) + len(SCALES)
  table = stored_arrays.read(found.arrays["token_embedder/embedding"])
  # The first piece swaps places with another, because id 0 is padding here.
  np.testing.assert_allclose(
    table[1:250], expected["model.embed_tokens.weight"][1:250], atol=tolerance
  )
  kernel = stored_arrays.read(
    found.arrays["decoder/layers_0/self_attention/query/kernel"]
  )
  np.testing.assert_allclose(
    kernel,
    expected[f"{LAYER}.self_attn.q_proj.weight"].T,
    atol=tolerance,
  )
  vocabulary = hugging_face.vocabulary(str(tmp_path / "out"))
  assert vocabulary.of_inputs.encode("bc") == vocabulary.encode(f"abc{END}")
  ids = vocabulary.encode(f"abc 12{END}")
  # Digits stay apart, and the end is one piece.
  assert len(ids) == len(("abc", " ", "1", "2", END))
  assert ids[-1] == vocabulary.eos_id
  assert vocabulary.decode(ids[:-1]) == "abc 12"


def test_a_chat_template_can_be_left_out(tmp_path):
  _write(tmp_path / "x.gguf", gguf.GGMLQuantizationType.F32)
  gguf_model.convert(
    tmp_path / "x.gguf", tmp_path / "out", with_chat_template=False
  )
  vocabulary = hugging_face.vocabulary(str(tmp_path / "out"))
  assert vocabulary.of_inputs.encode("bc") == vocabulary.encode("bc")


def test_other_tokenizers_are_refused(tmp_path):
  _write(tmp_path / "x.gguf", gguf.GGMLQuantizationType.F32, pre="llama3")
  with pytest.raises(ValueError, match=r"x\.gguf.*tokenizer of SmolLM"):
    gguf_model.convert(tmp_path / "x.gguf", tmp_path / "out")
