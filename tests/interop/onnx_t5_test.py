"""The importer of int8 ONNX graphs, on a T5 of one layer and on T5 small."""

import dataclasses
import re

from flax import traverse_util
import jax.numpy as jnp
import numpy as np
import pytest
import sentencepiece

onnx = pytest.importorskip("onnx")

from prompt_tuning.interop import (  # noqa: E402
  onnx_t5,
  sentencepiece_model,
  t5_names,
)
from prompt_tuning.models.t5.config import T5Config  # noqa: E402
from prompt_tuning.models.t5.network import Transformer  # noqa: E402

CONFIG = T5Config(11, 4, 2, 1, 1, head_dim=3, mlp_dim=5)
T5_SMALL = T5Config(32128, 512, 6, 8, 8, 64, mlp_dim=1024, dtype="float32")
SCALE = 0.5
ZERO_POINTS = {np.int8: 3, np.uint8: 100}
PREFIXES = {"encoder": "enc", "decoder": "m/decoder"}


def _module(name):
  """Returns the module that the exporter names for a parameter of T5X."""
  key = t5_names.hugging_face_name(name).removesuffix(".weight")
  if key in ("shared", "lm_head"):
    return {"shared": "enc/embed_tokens", "lm_head": "m/lm_head"}[key]
  stack, _, path = key.partition(".")
  return f"{PREFIXES[stack]}/{re.sub(r'[.](?![0-9])', '/', path)}"


# T5X's name -> module, and its shape there.
MODULES = {name: _module(name) for name in t5_names.shapes(CONFIG)}
SHAPES = {
  MODULES[name]: shape[:: -1 if name.endswith("rel_embedding") else 1]
  for name, shape in t5_names.shapes(CONFIG).items()
}


def _modules(stack):
  """Returns module path -> shape, for the modules of a graph."""
  if stack == "encoder":
    return {x: shape for x, shape in SHAPES.items() if x.startswith("enc/")}
  decoder = {x: shape for x, shape in SHAPES.items() if x.startswith("m/")}
  return {**decoder, "m/decoder/shared": SHAPES["enc/embed_tokens"]}


def _dtype(module):
  is_table = module.endswith(("embed_tokens", "shared", "bias"))
  return np.uint8 if is_table else np.int8


def _integers(module, shape, dtype):
  """Returns numbers that differ between modules, but not between embeddings."""
  seed = (
    0
    if module.endswith(("embed_tokens", "shared"))
    else sum((i + 1) * ord(char) for i, char in enumerate(module))
  )
  low = np.iinfo(dtype).min
  numbers = np.random.default_rng(seed).integers(low, low + 256, shape)
  return numbers.astype(dtype)


def _graph(stack):
  """Returns a graph that reads its tensors in the nodes T5's export has."""
  nodes, tensors = [], []
  for count, (module, shape) in enumerate(_modules(stack).items()):
    if module.endswith("layer_norm"):
      name = module.replace("/", ".") + ".weight"
      scale = np.float32(_integers(module, shape, np.int8))
      tensors.append(onnx.numpy_helper.from_array(scale, name))
      nodes.append(("Mul", f"/{module}/Mul_1", [name, "hidden"]))
      continue
    dtype = _dtype(module)
    name = f"onnx::MatMul_{count}"
    for suffix, array in (
      ("quantized", _integers(module, shape, dtype)),
      ("scale", np.array(SCALE, np.float32)),
      ("zero_point", np.array(ZERO_POINTS[dtype], dtype)),
    ):
      tensor = onnx.numpy_helper.from_array(array, f"{name}_{suffix}")
      tensors.append(tensor)
    if dtype == np.uint8:
      nodes.append(("Gather", f"/{module}/Gather", [f"{name}_quantized", "i"]))
    else:
      inputs = ["x", f"{name}_quantized", "x_zero", f"{name}_zero_point"]
      nodes.append(("MatMulInteger", f"/{module}/MatMul_quant", inputs))
  # The order of nodes and the counters in the names must not matter.
  nodes.reverse()
  return onnx.helper.make_graph(
    [
      onnx.helper.make_node(op, inputs, [f"{name}_output"], name=name)
      for op, name, inputs in nodes
    ],
    stack,
    [],
    [],
    initializer=tensors,
  )


@pytest.fixture
def graphs():
  return {stack: _graph(stack) for stack in ("encoder", "decoder")}


def _read(graphs, folder, config=CONFIG):
  for stack, graph in graphs.items():
    onnx.save(onnx.helper.make_model(graph), folder / f"{stack}.onnx")
  return onnx_t5.read_onnx_t5(
    folder / "encoder.onnx", folder / "decoder.onnx", config
  )


def _tensor(graph, ending):
  (found,) = [t for t in graph.initializer if t.name.endswith(ending)]
  return found


def test_every_parameter_comes_from_its_module(graphs, tmp_path):
  params = _read(graphs, tmp_path)
  assert params.keys() == MODULES.keys()
  for name, module in MODULES.items():
    dtype = _dtype(module)
    expected = _integers(module, SHAPES[module], dtype).astype(np.float32)
    if not name.endswith("/scale"):
      expected = (expected - ZERO_POINTS[dtype]) * SCALE
    if name.endswith("rel_embedding"):
      expected = expected.T
    np.testing.assert_array_equal(params[name], expected, err_msg=name)
    assert params[name].dtype == np.float32


def _add_a_tensor(graphs):
  extra = onnx.numpy_helper.from_array(np.ones(3, np.float32), "stray")
  graphs["encoder"].initializer.append(extra)


def _read_twice(graphs):
  nodes = graphs["decoder"].node
  nodes.append(nodes[0])


def _change_an_embedding(graphs):
  count = list(_modules("decoder")).index("m/decoder/shared")
  scale = _tensor(graphs["decoder"], f"_{count}_scale")
  scale.CopyFrom(onnx.numpy_helper.from_array(np.float32(0.25), scale.name))


def _scale_each_channel(graphs):
  tensors = graphs["encoder"].initializer
  scale = next(x for x in tensors if x.name.endswith("_scale"))
  scale.CopyFrom(onnx.numpy_helper.from_array(np.ones(3, "f4"), scale.name))


@pytest.mark.parametrize(
  ("change", "sizes", "message"),
  [
    (None, {"mlp_dim": 6}, r"wi_0/kernel: expected \(4, 6\), got \(4, 5\)"),
    (None, {"num_decoder_layers": 2}, r"layers_1/\S+: expected .*, got None"),
    (_add_a_tensor, {}, "No node reads as a weight: stray"),
    (_read_twice, {}, "read by more than one node"),
    (_change_an_embedding, {}, r"second, different .*token_embedder"),
    (_scale_each_channel, {}, r"per tensor, got shapes \(3,\) and \(\)"),
  ],
)
def test_refuses_another_graph(graphs, tmp_path, change, sizes, message):
  if change:
    change(graphs)
  with pytest.raises(ValueError, match=message):
    _read(graphs, tmp_path, dataclasses.replace(CONFIG, **sizes))


@pytest.mark.parametrize(
  "module",
  [
    "enc/block.0/layer.2/DenseReluDense/wo",
    "enc/block.0/layer.0/SelfAttention/r",
    "enc/block.0/layer.0",
    "enc/pooler",
  ],
)
def test_refuses_an_unknown_module(monkeypatch, module):
  monkeypatch.setattr(onnx_t5, "_weights", lambda path: [(module, np.ones(1))])
  with pytest.raises(ValueError, match=r"module of a T5 1\.1 encoder"):
    onnx_t5.read_onnx_t5("encoder.onnx", "decoder.onnx", CONFIG)


@pytest.mark.slow
def test_t5_small_is_complete_and_translates():
  folder = pytest.importorskip("traceforge_title_model").span_dir()
  params = onnx_t5.read_onnx_t5(
    folder / "encoder.onnx", folder / "decoder.onnx", T5_SMALL
  )
  assert len(params) == 190
  assert sum(array.size for array in params.values()) == 76_961_152
  for name, mean in [
    ("encoder/encoder_norm/scale", 0.1545560),
    ("encoder/relpos_bias/rel_embedding", 2.0612025),
    ("decoder/layers_7/mlp/wo/kernel", -0.00089030057),
  ]:
    found = params[name].mean(dtype=np.float64)
    np.testing.assert_allclose(found, mean, rtol=1e-6, err_msg=name)
  vocabulary = sentencepiece.SentencePieceProcessor(
    model_proto=sentencepiece_model.sentencepiece_from_tokenizer_json(
      folder / "tokenizer.json"
    )
  )
  inputs, targets = (
    np.array([[*vocabulary.encode(text), vocabulary.eos_id()]])
    for text in (
      "translate English to German: The house is big and the garden is small.",
      # What an evaluation of the graphs in float32 answers.
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
