"""Files of others that are not what they should be: one error, naming them."""

import json
import shutil

from flax import serialization
import numpy as np
import pytest

from prompt_tuning.interop import (
  hugging_face,
  onnx_t5,
  t5_names,
)
from prompt_tuning.models.t5.config import T5Config
from t5x import checkpoints
from t5x.formats import stored_arrays, t5x_v3

CONFIG = T5Config(8, 4, 2, 1, 1, head_dim=2, mlp_dim=4)
EMBEDDING = "target.token_embedder.embedding"
DEEP = b"[" * 100_000


@pytest.fixture(scope="module")
def models(tmp_path_factory):
  """A folder with one small model in each format."""
  folder = tmp_path_factory.mktemp("models")
  arrays = {
    name: stored_arrays.in_memory(np.ones(shape, np.float32))
    for name, shape in t5_names.shapes(CONFIG).items()
  }
  hugging_face.write_folder(folder / "hugging_face", arrays)
  t5x_v3.write_checkpoint(str(folder / "t5x"), 7, arrays)
  return folder


def _change_json(file, **changes):
  """Changes fields of a JSON file; None removes one."""
  fields = json.loads(file.read_text()) | changes
  file.write_text(
    json.dumps({k: x for k, x in fields.items() if x is not None})
  )


@pytest.mark.parametrize(
  "name", ["vocab_size", "d_model", "num_heads", "num_layers", "d_kv", "d_ff"]
)
def test_sizes_of_hugging_face_are_checked(models, tmp_path, name):
  for value in (None, 0, -1, 2.5, True, "8", [8], {"a": 8}, 2**31, 10**30):
    shutil.copy(models / "hugging_face" / hugging_face.CONFIG, tmp_path)
    _change_json(tmp_path / hugging_face.CONFIG, **{name: value})
    with pytest.raises(ValueError, match=r"config\.json.*" + name):
      hugging_face.open_folder(tmp_path)


_INDEX = r"index\.json is not an index of files beside it"
_OTHER_FILES = b"../model.safetensors", b"/etc/x", b"a/b", b".."


@pytest.mark.parametrize(
  ("name", "contents", "message"),
  [
    (
      hugging_face.CONFIG,
      [b"", DEEP, b"\xff", b"[1]", b"7", b'{"model_type": [["t5"]]}'],
      r"config\.json",
    ),
    (
      hugging_face.INDEX,
      [b"", DEEP, b"\xff", b"[1]", b"{}", b'{"weight_map": 1}', b"{"],
      _INDEX,
    ),
    (
      hugging_face.INDEX,
      [b'{"weight_map": {"shared.weight": "%s"}}' % x for x in _OTHER_FILES],
      _INDEX,
    ),
  ],
)
def test_json_of_hugging_face_is_checked(
  models, tmp_path, name, contents, message
):
  folder = tmp_path / "model"
  shutil.copytree(models / "hugging_face", folder)
  shutil.copy(folder / hugging_face.WEIGHTS, tmp_path)
  for content in contents:
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
      hugging_face.open_folder(folder)


def _change_tree(path, value):
  """Returns what puts a value into the msgpack tree, or takes one out."""

  def change(folder):
    file = folder / "checkpoint"
    node = tree = serialization.msgpack_restore(file.read_bytes())
    *parents, name = path.split("/")
    for parent in parents:
      node = node[parent]
    if value is None:
      del node[name]
    else:
      node[name] = value
    file.write_bytes(serialization.msgpack_serialize(tree))

  return change


def _write(name, content):
  return lambda folder: (folder / name).write_bytes(content)


def _change_zarr(**changes):
  return lambda folder: _change_json(folder / EMBEDDING / ".zarray", **changes)


_SPEC = "optimizer/target/token_embedder/embedding"
MALFORMED = {
  "empty": _write("checkpoint", b""),
  "deep": _write("checkpoint", b"\x91" * 100_000),
  "no tree": _write("checkpoint", b"\x07"),
  "unknown extension": _write("checkpoint", b"\xc7\x03\x01abc"),
  "no optimizer": _change_tree("optimizer", None),
  "optimizer is a number": _change_tree("optimizer", 7),
  "no target": _change_tree("optimizer/target", None),
  "target is a list": _change_tree("optimizer/target", [1, 2]),
  "no step": _change_tree("optimizer/state/step", None),
  "step is a word": _change_tree("optimizer/state/step", "seven"),
  "array is a word": _change_tree(_SPEC, "word"),
  "spec without metadata": _change_tree(f"{_SPEC}/metadata", None),
  "spec of a list": _change_tree(f"{_SPEC}/kvstore", [1]),
  "spec of another driver": _change_tree(f"{_SPEC}/driver", "n5"),
  "path leaves the folder": _change_tree(f"{_SPEC}/kvstore/path", "x/.."),
  "shape is a word": _change_tree(f"{_SPEC}/metadata/shape", "ab"),
  "negative shape": _change_tree(f"{_SPEC}/metadata/shape", [-1, 4]),
  "dtype is a list": _change_tree(f"{_SPEC}/metadata/dtype", [["<f4"]]),
  "unknown dtype": _change_tree(f"{_SPEC}/metadata/dtype", "f99"),
  "zarr empty": _write(f"{EMBEDDING}/.zarray", b""),
  "zarr deep": _write(f"{EMBEDDING}/.zarray", DEEP),
  "zarr is a list": _write(f"{EMBEDDING}/.zarray", b"[]"),
  "zarr without chunks": _change_zarr(chunks=None),
  "zarr of another shape": _change_zarr(shape=[9, 4]),
  "chunks of 2^31": _change_zarr(chunks=[2**31, 2**31]),
  "chunks of 0": _change_zarr(chunks=[0, 4]),
  "chunks of words": _change_zarr(chunks=["8", "4"]),
  "one chunk axis": _change_zarr(chunks=[8]),
  "unknown compressor": _change_zarr(compressor={"id": "none of ours"}),
}


@pytest.mark.parametrize("change", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_checkpoint_of_t5x_is_named(models, tmp_path, change):
  folder = tmp_path / "checkpoint_7"
  shutil.copytree(models / "t5x" / "checkpoint_7", folder)
  change(folder)
  with pytest.raises(ValueError, match=f"^{folder}"):
    stored_arrays.read(
      checkpoints.open_checkpoint(str(folder)).arrays[
        "token_embedder/embedding"
      ]
    )


def test_a_malformed_onnx_file_is_named(tmp_path):
  path = tmp_path / "encoder.onnx"
  path.write_bytes(b"no protocol buffer")
  with pytest.raises(ValueError, match=f"^{path}: "):
    onnx_t5.read_onnx_t5(path, path, CONFIG)
