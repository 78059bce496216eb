"""Tests of the int8 ONNX importer, on a T5 of one layer and on T5 small."""

import dataclasses
import re

from flax import traverse_util
import hf_t5s
import jax.numpy as jnp
import numpy as np
import onnx_graphs
from onnx_graphs import NODES, TENSORS
import pytest
import sentencepiece
import t5x_folders

pytest.importorskip("onnx")

from prompt_tuning.interop import (
  onnx_t5,
  parameter_names,
  sentencepiece_model,
)
from prompt_tuning.models.t5.config import T5Config
from prompt_tuning.models.t5.network import Transformer

CONFIG = T5Config(11, 4, 2, 1, 1, head_dim=3, mlp_dim=5)
T5_SMALL = T5Config(32128, 512, 6, 8, 8, 64, mlp_dim=1024, dtype="float32")
PREFIXES = {"encoder": "enc", "decoder": "m/decoder"}
WO = "enc/block.0/layer.1/DenseReluDense/wo"


def _module(name):
  """Returns the module that the exporter names for a parameter of T5X."""
  key = parameter_names.hugging_face_name(name, CONFIG).removesuffix(".weight")
  if key in ("shared", "lm_head"):
    return {"shared": "enc/embed_tokens", "lm_head": "m/lm_head"}[key]
  stack, _, path = key.partition(".")
  return f"{PREFIXES[stack]}/{re.sub(r'[.](?![0-9])', '/', path)}"


@pytest.fixture
def weights(monkeypatch):
  """File -> modules and weights, which the importer reads as its graph."""
  weights = {"encoder": {}, "decoder": {}}
  for name, array in hf_t5s.params(CONFIG).items():
    stack = "encoder" if _module(name).startswith("enc") else "decoder"
    is_turned = name.endswith("rel_embedding")
    weights[stack][_module(name)] = array.T if is_turned else array
  shared = weights["encoder"]["enc/embed_tokens"]
  weights["decoder"]["m/decoder/shared"] = shared.copy()
  monkeypatch.setattr(onnx_t5, "_weights", lambda path: weights[path].items())
  return weights


def test_every_parameter_comes_from_its_module(weights):
  found = onnx_t5.read_onnx_t5("encoder", "decoder", CONFIG)
  t5x_folders.assert_same(found, hf_t5s.params(CONFIG))


@pytest.mark.parametrize(
  ("module", "array", "sizes", "message"),
  [
    (WO, np.ones((6, 4)), {}, r"wo/kernel: expected \(5, 4\), got \(6, 4\)"),
    (WO, None, {}, r"wo/kernel: expected \(5, 4\), got None"),
    (WO, None, {"num_encoder_layers": 2}, r"layers_1/\S+: .*, got None"),
    ("shared", np.ones((11, 4)), {}, r"second, different .*token_embedder"),
    *(
      (f"enc/{unknown}", np.ones(1), {}, r"module of a T5 1\.1 encoder")
      for unknown in (
        "block.0/layer.2/DenseReluDense/wo",
        "block.0/layer.0/SelfAttention/r",
        "block.0/layer.0",
        "pooler",
      )
    ),
  ],
)
def test_refuses_another_model(weights, module, array, sizes, message):
  weights["encoder"][module] = array
  if array is None:
    del weights["encoder"][module]
  config = dataclasses.replace(CONFIG, **sizes)
  with pytest.raises(ValueError, match=message):
    onnx_t5.read_onnx_t5("encoder", "decoder", config)


def test_weights_are_dequantised(tmp_path):
  onnx_graphs.save(tmp_path / "x.onnx")
  t5x_folders.assert_same(
    dict(onnx_t5._weights(tmp_path / "x.onnx")),
    {
      "enc/embed_tokens": np.float32([[-25, 38.75]]),
      "enc/q": np.float32([[-65.5, 62]]),
      "enc/norm": np.float32([2, 3]),
    },
  )


@pytest.mark.parametrize(
  ("nodes", "tensors", "message"),
  [
    (NODES, {"stray": np.ones(3)}, "No node reads as a weight: stray"),
    ([*NODES, NODES[1]], {}, "read by more than one node"),
    (NODES, {"w_scale": np.ones(3)}, r"per tensor, got shapes \(3,\) and \(\)"),
  ],
)
def test_refuses_another_graph(tmp_path, nodes, tensors, message):
  path = tmp_path / "encoder.onnx"
  onnx_graphs.save(path, nodes, TENSORS | tensors)
  with pytest.raises(ValueError, match=f"^{path} is not .*{message}"):
    dict(onnx_t5._weights(path))
  path.write_bytes(b"no protocol buffer")
  with pytest.raises(ValueError, match=f"^{path} is not "):
    onnx_t5.read_onnx_t5(path, path, CONFIG)


@pytest.mark.slow
def test_t5_small_is_complete_and_translates():
  folder = pytest.importorskip("traceforge_title_model").span_dir()
  params = onnx_t5.read_onnx_t5(
    folder / "encoder.onnx", folder / "decoder.onnx", T5_SMALL
  )
  vocabulary = sentencepiece.SentencePieceProcessor(
    model_proto=sentencepiece_model.sentencepiece_from_tokenizer_json(
      folder / "tokenizer.json"
    )
  )
  inputs, targets = (
    np.array([[*vocabulary.encode(text), vocabulary.eos_id()]])
    for text in (
      "translate English to German: The house is big and the garden is small.",
      # The answer of the graphs themselves in float32.
      "Das Haus ist groß, und das Garten ist kleiner.",
    )
  )
  logits = Transformer(T5_SMALL).apply(
    {"params": traverse_util.unflatten_dict(params, sep="/")},
    inputs,
    np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
    targets,
    enable_dropout=False,
  )
  np.testing.assert_array_equal(jnp.argmax(jnp.asarray(logits), -1), targets)
