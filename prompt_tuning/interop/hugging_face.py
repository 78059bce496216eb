"""T5 1.1 models in Hugging Face's folders: `config.json` and safetensors.

A folder has the same arrays as a T5X checkpoint, under other names, and every
matrix but the embedding is transposed. Tensors are read and written part by
part: no model is held in memory.
"""

from collections.abc import Mapping
import dataclasses
import functools
import json
import os
import pathlib
from typing import Annotated, Any, NamedTuple

from etils import epath
import ml_dtypes
import numpy as np
import pydantic
import safetensors

from prompt_tuning.interop import hub, local_files, t5_names
from prompt_tuning.models.t5.config import T5Config, config_of
from t5x.files import parsing, safe_files
from t5x.formats import stored_arrays
from t5x.formats.base_checkpoints import BaseCheckpoint
from t5x.formats.stored_arrays import StoredArray

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_DTYPES = {
  "F32": np.dtype(np.float32),
  "F16": np.dtype(np.float16),
  "BF16": np.dtype(ml_dtypes.bfloat16),
}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_HEAD, _EMBEDDING = "lm_head.weight", "shared.weight"
# Copies of the embedding. A file may have one of them in its place.
_EMBEDDING_COPIES = (
  "encoder.embed_tokens.weight",
  "decoder.embed_tokens.weight",
)
# Some old checkpoints have this tensor, and no model reads it.
_UNUSED = (
  "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
)
# Our name of a size -> Hugging Face's.
_SIZES = {
  "vocab_size": "vocab_size",
  "emb_dim": "d_model",
  "head_dim": "d_kv",
  "mlp_dim": "d_ff",
  "num_heads": "num_heads",
  "num_encoder_layers": "num_layers",
  "num_decoder_layers": "num_decoder_layers",
  "relative_attention_num_buckets": "relative_attention_num_buckets",
}
# The configuration of every T5 1.1, without its sizes.
_FIXED = json.loads(
  pathlib.Path(__file__).with_name("t5_config.json").read_text()
)
# Settings of it that our checkpoints do not record.
_SETTINGS = ("layer_norm_epsilon", "relative_attention_max_distance")
# Limits of the layers of a stack, and of the rows or columns of a matrix: far
# above those of any T5, and small enough to count with.
_Layers: Any = Annotated[int, pydantic.Field(ge=1, le=1_000)]
_Size = Annotated[int, pydantic.Field(ge=1, le=10**7)]
_SHAPE = {
  **{x: _Layers if x.endswith("layers") else _Size for x in _SIZES.values()},
  "num_decoder_layers": (_Layers | None, None),  # null for "as many".
  "relative_attention_num_buckets": (_Size, 32),
}


def is_folder(path: epath.PathLike) -> bool:
  """Returns whether the folder holds a Hugging Face model of any kind."""
  return (epath.Path(path) / CONFIG).is_file()


def open_if_known(path: str) -> BaseCheckpoint | None:
  """Opens a folder of Hugging Face's, or a model of the hub by its name.

  Args:
    path: Any path. A name on the hub is OWNER/NAME; see `hub.is_name`.

  Raises:
    ValueError: as `open_folder` does, or if the hub has no such model.
  """
  path = os.fspath(path)
  if "://" in path:
    return None
  if is_folder(path):
    return open_folder(path)
  if not hub.is_name(path):
    return None
  found = open_folder(hub.model_folder(path))
  return dataclasses.replace(found, path=path)


class _Tensor(NamedTuple):
  """A tensor in a safetensors file, and how the file describes it."""

  file: pathlib.Path
  key: str
  shape: tuple[int, ...]
  dtype: str


def _open_tensor(tensor: _Tensor, is_transposed: bool) -> stored_arrays.Reader:
  """Returns a reader of a tensor as T5X has it.

  It has the file to itself: when it is closed, its pages leave the memory.
  """
  weights = _open(tensor.file)
  part = weights.get_slice(tensor.key)

  def read(index: stored_arrays.Index, weights=weights) -> np.ndarray:
    del weights  # It stays open as long as there is a reader.
    return part[index[::-1]].T if is_transposed else part[index]

  return read


def open_folder(path: epath.PathLike) -> BaseCheckpoint:
  """Opens a T5 1.1, also an LM-adapted one, or a FLAN-T5.

  Args:
    path: A folder with `config.json` and `model.safetensors`, or its shards.

  Returns:
    The model under T5X's names. Its step is unknown: 0.

  Raises:
    ValueError: if it is another model, or its weights are missing, incomplete
      or pickled.
  """
  folder = local_files.local_path(path)
  config = _read_config(folder)
  tensors = _tensors(folder)
  if _HEAD not in tensors:
    raise ValueError(
      f"{folder}: expected {_HEAD}, got none: its head is tied to the "
      "embedding, as in T5 1.0, and that of a T5 1.1 is not."
    )
  tensors.pop(_UNUSED, None)
  for copy in _EMBEDDING_COPIES:
    if copy in tensors:
      tensors.setdefault(_EMBEDDING, tensors.pop(copy))
  num_layers = config.num_encoder_layers + config.num_decoder_layers
  if num_layers > len(tensors):  # To list their names would take minutes.
    raise ValueError(
      f"{folder}: expected the tensors of {num_layers} layers, as {CONFIG} "
      f"says, got {len(tensors)}."
    )
  expected = t5_names.shapes(config)
  keys = {t5_names.hugging_face_name(name): name for name in expected}
  problems = t5_names.differences(
    {key: _turned(name, expected[name]) for key, name in keys.items()},
    {key: tensor.shape for key, tensor in tensors.items()},
  )
  problems += [
    f"{key} is {tensor.dtype}, expected one of {', '.join(_DTYPES)}"
    for key, tensor in tensors.items()
    if tensor.dtype not in _DTYPES
  ]
  if problems:
    raise ValueError(
      f"{folder} is not a T5 1.1 of the sizes in {CONFIG}: {len(problems)} "
      f"differences. {'; '.join(problems[:10])}."
    )
  arrays = {
    name: StoredArray(
      expected[name],
      _DTYPES[tensors[key].dtype],
      functools.partial(
        _open_tensor, tensors[key], t5_names.is_transposed(name)
      ),
    )
    for key, name in keys.items()
  }
  found = str(folder.absolute())
  return BaseCheckpoint(str(path), found, 0, arrays)


def _read_config(folder: pathlib.Path) -> T5Config:
  """Reads the sizes; refuses models that our network does not compute.

  Raises:
    ValueError: if the configuration is missing, or another model's.
  """
  file = folder / CONFIG
  if not file.is_file():
    if folder.is_dir():
      raise ValueError(
        f"{folder} is not a Hugging Face folder: no {CONFIG} in it."
      )
    raise ValueError(
      f"There is no folder {folder} in {pathlib.Path.cwd()}. If it is the name "
      "of a model of Hugging Face's hub, download its files to a folder first."
    )
  config = parsing.json_file(file, "a model configuration", {"model_type": Any})
  if (model_type := config["model_type"]) != "t5":
    raise ValueError(f"{file}: expected model_type t5, got {model_type}.")
  activation = config.get("feed_forward_proj", "relu")
  if activation != "gated-gelu":
    reason = " It is a T5 1.0: no gate, and a tied head." * (
      activation == "relu"
    )
    raise ValueError(
      f"{file}: expected feed_forward_proj gated-gelu, that of T5 1.1, got "
      f"{activation}.{reason} Take a T5 1.1, an LM-adapted T5 or a FLAN-T5."
    )
  # transformers 5 writes "tied" for every model, and "scaled" where it matters.
  tied, scaled = "tie_word_embeddings", "scale_decoder_outputs"
  key = scaled if scaled in config else tied
  if config.get(key, True):
    head = "the embedding is the head, and " * (key == tied)
    raise ValueError(
      f"{file}: expected {key} false, got "
      f"{str(config.get(key, 'nothing')).lower()}: {head}the decoder's output "
      "is scaled, as in T5 1.0."
    )
  for name in _SETTINGS:
    expected = _FIXED[name]
    if (value := config.get(name, expected)) != expected:
      raise ValueError(f"{file}: expected {name} {expected}, got {value}.")

  what = "the configuration of a T5 1.1"
  given = parsing.json_file(file, what, _SHAPE)
  config = {"relative_attention_num_buckets": 32, **given}
  config["num_decoder_layers"] = (
    config.get("num_decoder_layers") or config["num_layers"]
  )
  with parsing.of(file, what):
    return T5Config(**{ours: config[name] for ours, name in _SIZES.items()})


def _turned(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
  """Returns a parameter's shape in the other software's orientation."""
  return shape[::-1] if t5_names.is_transposed(name) else shape


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
  """Finds the files of weights."""
  if (folder / INDEX).is_file():
    what = "an index of files beside it"
    keys = {"weight_map": dict[str, str]}
    index = parsing.json_file(folder / INDEX, what, keys)
    names = set(index["weight_map"].values())
    if bad := [
      name
      for name in names
      if name == ".." or pathlib.PurePath(name).name != name
    ]:
      raise ValueError(f"{folder / INDEX} is not {what}: it names {bad[0]!r}.")
    files = [folder / name for name in sorted(names)]
    if missing := [file.name for file in files if not file.is_file()]:
      raise ValueError(
        f"{folder} is not complete: {INDEX} names {', '.join(missing)}."
      )
    return files
  if (folder / WEIGHTS).is_file():
    return [folder / WEIGHTS]
  pickled = [name for name in _PICKLED if (folder / name).is_file()]
  way_out = (
    f" {pickled[0]} is a pickle, which can run any code and is not read: load "
    "the model with transformers, save_pretrained(...) writes safetensors."
    if pickled
    else ""
  )
  raise ValueError(
    f"Expected {WEIGHTS} or {INDEX} in {folder}, got neither.{way_out}"
  )


def _open(file: pathlib.Path) -> Any:
  with parsing.of(file, "a safetensors file"):
    return safetensors.safe_open(file, framework="numpy")


def _tensors(folder: pathlib.Path) -> dict[str, _Tensor]:
  """Finds the tensors in a folder's files."""
  tensors = {}
  for file in _files(folder):
    with _open(file) as weights:
      for key in sorted(weights.keys()):
        part = weights.get_slice(key)
        shape = tuple(part.get_shape())
        tensors[key] = _Tensor(file, key, shape, part.get_dtype())
  return tensors


def write_folder(
  path: epath.PathLike, arrays: Mapping[str, StoredArray]
) -> None:
  """Writes a T5 1.1 that `T5ForConditionalGeneration.from_pretrained` loads.

  Args:
    path: A new folder, or an empty one.
    arrays: T5X name -> array.

  Raises:
    ValueError: if it is another model, or the folder is not empty.
  """
  folder = local_files.local_path(path)
  local_files.check_new(folder)
  config = dataclasses.replace(
    config_of(arrays),
    logits_via_embedding=False,
    mlp_activations=("gelu", "linear"),
  )
  shapes = {name: array.shape for name, array in arrays.items()}
  expected = t5_names.shapes(config)
  problems = t5_names.differences(expected, shapes)
  known = ", ".join(map(str, _DTYPE_NAMES))
  problems += [
    f"{name} is {array.dtype}, expected one of {known}"
    for name, array in arrays.items()
    if array.dtype not in _DTYPE_NAMES
  ]
  if problems:
    way_out = (
      " Convert a prompt by itself: prompt-tuning convert prompt."
      if any("prompt" in name for name in shapes.keys() - expected.keys())
      else ""
    )
    raise ValueError(
      f"Not a T5 1.1: {len(problems)} differences. {'; '.join(problems[:10])}."
      f"{way_out}"
    )
  folder.mkdir(parents=True, exist_ok=True)
  _write_tensors(
    folder / WEIGHTS,
    {t5_names.hugging_face_name(name): (name, a) for name, a in arrays.items()},
  )
  dtypes = {array.dtype for array in arrays.values()}
  widest = max(dtypes, key=lambda dtype: dtype.itemsize)
  sizes = dataclasses.asdict(config)
  content = {
    **_FIXED,
    **{name: sizes[ours] for ours, name in _SIZES.items()},
    "dtype": widest.name,
  }
  (folder / CONFIG).write_text(json.dumps(content, indent=2) + "\n")


def _write_tensors(
  file: pathlib.Path, tensors: Mapping[str, tuple[str, StoredArray]]
) -> None:
  """Writes a safetensors file, one tensor at a time.

  The library of safetensors would need all tensors in memory.

  Args:
    file: Appears once it is complete.
    tensors: Hugging Face's name -> T5X's name, array.
  """
  header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
  end = 0
  for key, (name, array) in sorted(tensors.items()):
    start, end = end, end + array.nbytes
    header[key] = {
      "dtype": _DTYPE_NAMES[array.dtype],
      "shape": list(_turned(name, array.shape)),
      "data_offsets": [start, end],
    }
  encoded = json.dumps(header, separators=(",", ":")).encode()
  encoded += b" " * (-len(encoded) % 8)
  with safe_files.replacing(file) as out:
    out.write(len(encoded).to_bytes(8, "little"))
    out.write(encoded)
    for _, (name, array) in sorted(tensors.items()):
      whole = stored_arrays.read(array)
      if t5_names.is_transposed(name):
        whole = whole.T
      np.ascontiguousarray(whole).tofile(out)
