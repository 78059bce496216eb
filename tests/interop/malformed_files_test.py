"""Tests of malformed T5X checkpoints: each is one error that names it."""

import functools
import json
import operator
import pathlib

from flax import serialization
import numpy as np
import pytest
import t5x_folders

from t5x import checkpoints
from t5x.formats import stored_arrays

EMBEDDING = "token_embedder/embedding"
_TREE, _ZARR = "checkpoint", "target.token_embedder.embedding/.zarray"
_SPEC = f"optimizer/target/{EMBEDDING}"


@pytest.mark.parametrize(
  ("name", "path", "value"),
  [
    (_TREE, "", b""),
    (_TREE, "", b"\x91" * 100_000),
    (_TREE, "", b"\x07"),
    (_TREE, "", b"\xc7\x03\x01abc"),
    (_TREE, "optimizer", None),
    (_TREE, "optimizer", 7),
    (_TREE, "optimizer/target", None),
    (_TREE, "optimizer/target", [1, 2]),
    (_TREE, "optimizer/state/step", None),
    (_TREE, "optimizer/state/step", "seven"),
    (_TREE, _SPEC, "word"),
    (_TREE, f"{_SPEC}/metadata", None),
    (_TREE, f"{_SPEC}/kvstore", [1]),
    (_TREE, f"{_SPEC}/driver", "n5"),
    (_TREE, f"{_SPEC}/kvstore/path", "x/.."),
    (_TREE, f"{_SPEC}/metadata/shape", "ab"),
    (_TREE, f"{_SPEC}/metadata/shape", [-1, 4]),
    (_TREE, f"{_SPEC}/metadata/dtype", [["<f4"]]),
    (_TREE, f"{_SPEC}/metadata/dtype", "f99"),
    (_ZARR, "", b""),
    (_ZARR, "", b"[" * 100_000),
    (_ZARR, "", b"[]"),
    (_ZARR, "chunks", None),
    (_ZARR, "shape", [9, 4]),
    (_ZARR, "chunks", [2**31, 2**31]),
    (_ZARR, "chunks", [0, 4]),
    (_ZARR, "chunks", ["8", "4"]),
    (_ZARR, "chunks", [8]),
    (_ZARR, "compressor", {"id": "none of ours"}),
  ],
)
def test_a_malformed_checkpoint_of_t5x_is_named(tmp_path, name, path, value):
  """A file has a wrong value, lacks one (None), or has other content."""
  embedding = {EMBEDDING: np.ones((8, 4), np.float32)}
  folder = pathlib.Path(t5x_folders.write_v3(tmp_path, 7, embedding))
  load, dump = json.loads, lambda tree: json.dumps(tree).encode()
  if name == _TREE:
    load, dump = serialization.msgpack_restore, serialization.msgpack_serialize
  content = value
  if path:
    tree = load((folder / name).read_bytes())
    *parents, last = path.split("/")
    node = functools.reduce(operator.getitem, parents, tree)
    node[last] = value
    if value is None:
      del node[last]
    content = dump(tree)
  (folder / name).write_bytes(content)
  with pytest.raises(ValueError, match=f"^{folder}"):
    stored_arrays.read(
      checkpoints.open_checkpoint(str(folder)).arrays[EMBEDDING]
    )
