"""Tests of `pytorch_model.bin`: its arrays are read and no code is called."""

import collections
import json
import os
import random
import re
import zipfile

import hf_t5s
from hf_t5s import CONFIG, FIRST
import numpy as np
import pytest

from prompt_tuning.interop import hugging_face, torch_files
from t5x.formats import stored_arrays

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

pytestmark = pytest.mark.interop


class Call:
  """A value whose pickle calls a function."""

  def __init__(self, *call):
    self.call = call

  def __reduce__(self):
    function, *arguments = self.call
    return function, tuple(arguments)


@pytest.fixture
def saved(tmp_path):
  """A model's folder without its weights, and the tensors."""
  file = hf_t5s.save(tmp_path / "hf", CONFIG) / "model.safetensors"
  tensors = safetensors_torch.load_file(file)
  file.unlink()
  return file.parent, tensors


def _found(folder):
  arrays = hugging_face.open_folder(folder).arrays
  return {name: stored_arrays.read(array) for name, array in arrays.items()}


def _replace(file, end, content):
  """Replaces a member of an archive; `content` may be a function of it."""
  with zipfile.ZipFile(file) as archive:
    members = {x: archive.read(x) for x in archive.namelist()}
  (name,) = (x for x in members if x.endswith(end))
  members[name] = content(members[name]) if callable(content) else content
  with zipfile.ZipFile(file, "w") as archive:
    for name, content in members.items():
      archive.writestr(name, content)


@pytest.mark.parametrize("config", [CONFIG, FIRST])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_arrays_are_those_of_safetensors(tmp_path, config, dtype):
  """Transposed views, shared storages and parameters are read as arrays."""
  folder = hf_t5s.save(tmp_path / "hf", config)
  file = folder / "model.safetensors"
  tensors = safetensors_torch.load_file(file)
  tensors = {k: x.to(getattr(torch, dtype)) for k, x in tensors.items()}
  safetensors_torch.save_file(tensors, file)
  expected = _found(folder)
  file.unlink()
  state = collections.OrderedDict(
    (k, x.T.contiguous().T if x.ndim == 2 else torch.nn.Parameter(x))
    for k, x in tensors.items()
  )
  state["decoder.embed_tokens.weight"] = state["shared.weight"]
  both = torch.stack([state["encoder.final_layer_norm.weight"]] * 2)
  state["encoder.final_layer_norm.weight"] = both[1]
  state._metadata = {"": {"version": 1}}  # A module's metadata.
  torch.save(state, folder / torch_files.WEIGHTS)
  found = _found(folder)
  assert found.keys() == expected.keys()
  for name, array in expected.items():
    assert found[name].dtype == array.dtype
    np.testing.assert_array_equal(found[name], array)


def test_shards_are_those_of_the_index(saved):
  folder, tensors = saved
  names = ["pytorch_model-00001-of-2.bin", "pytorch_model-00002-of-2.bin"]
  parts = {names[0]: {}, names[1]: {}}
  for i, (name, tensor) in enumerate(tensors.items()):
    parts[names[i % 2]][name] = tensor
  for name, part in parts.items():
    torch.save(part, folder / name)
  listed = {key: name for name, part in parts.items() for key in part}
  index = folder / f"{torch_files.WEIGHTS}.index.json"
  index.write_text(json.dumps({"weight_map": listed}))
  embedding = _found(folder)["token_embedder/embedding"]
  np.testing.assert_array_equal(embedding, tensors["shared.weight"].numpy())
  (folder / names[1]).unlink()
  with pytest.raises(ValueError, match=f"index.json names {names[1]}"):
    hugging_face.open_folder(folder)


@pytest.mark.parametrize(
  ("value", "message"),
  [
    (Call(os.system, "exit"), "it calls posix system, and weights are tensors"),
    (Call(eval, "exit()"), "it calls __builtin__ eval"),
    (Call(print), "it calls __builtin__ print"),
    (7, "unexpected a, which is not a tensor"),
    ([7], "unexpected instruction APPEND"),
    (torch.ones(2, dtype=torch.int64), "unexpected type torch LongStorage"),
    (torch.ones(2).to_sparse(), "it calls torch.serialization _get_l"),
  ],
)
def test_what_is_no_array_is_refused(saved, capfd, value, message):
  folder, tensors = saved
  file = folder / torch_files.WEIGHTS
  torch.save({**tensors, "a": value}, file)
  with pytest.raises(ValueError, match=f"^{re.escape(str(file))} .*{message}"):
    hugging_face.open_folder(folder)
  assert capfd.readouterr() == ("", "")


def test_other_files_are_refused(saved):
  folder, tensors = saved
  file = folder / torch_files.WEIGHTS

  def refused(message):
    with pytest.raises(ValueError, match=rf"{message}.*save_pretrained\("):
      hugging_face.open_folder(folder)

  torch.save(tensors, file, _use_new_zipfile_serialization=False)
  refused("File is not a zip file")
  torch.save(tensors, file)
  _replace(file, "byteorder", b"big")
  refused("unexpected byte order")
  torch.save(tensors, file)
  # The first storage is empty, and another member is compressed.
  _replace(file, "/data/0", b"")
  with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("more", b"0" * 1000)
  refused("unexpected compression")
  # A view is longer than its storage; then a storage is longer than its member.
  long = torch.ones(64)
  torch.save({"a": long}, file)
  assert torch_files.find([file])["a"].shape == (64,)
  for claimed in (16, 65):
    torch.save({"a": long}, file)
    size = b"K%c" % claimed
    _replace(file, "data.pkl", lambda x, y=size: x.replace(b"K@", y, 1))
    refused(rf"unexpected number of {claimed} values for the shape \(64,\)")


def test_damage_is_an_error_or_another_array(saved):
  folder, tensors = saved
  file, rng = folder / torch_files.WEIGHTS, random.Random(0)
  torch.save({"a": tensors["shared.weight"]}, file)
  whole = file.read_bytes()
  errors = 0
  for _ in range(300):
    file.write_bytes(whole)

    def damage(content):
      changed = bytearray(content)
      changed[rng.randrange(len(changed))] = rng.randrange(256)
      return bytes(changed)

    _replace(file, "data.pkl", damage)
    try:
      arrays = torch_files.find([file])
      for array in arrays.values():
        stored_arrays.read(array)
    except ValueError as error:
      assert str(error).startswith(str(file))  # noqa: PT017
      errors += 1
  assert errors > 100
