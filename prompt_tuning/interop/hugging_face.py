"""T5 1.1 models in Hugging Face's folders: `config.json` and safetensors.

A folder has the same arrays as a T5X checkpoint, under other names, and every
matrix but the embedding is transposed. Tensors are read and written part by
part: no model is held in memory.
"""

from collections.abc import Mapping
import dataclasses
import json
import os
import pathlib
from typing import Any

from etils import epath
import ml_dtypes
import numpy as np
import safetensors

from prompt_tuning.interop import hugging_face_config, local_paths, t5_names
from prompt_tuning.models.t5.config import TOKEN_EMBEDDING, T5Config, config_of
from t5x.files import safe_files
from t5x.formats import base_checkpoints, stored_arrays
from t5x.formats.stored_arrays import StoredArray

CONFIG = hugging_face_config.FILE
WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_DTYPES = {
  "F32": np.dtype(np.float32),
  "F16": np.dtype(np.float16),
  "BF16": np.dtype(ml_dtypes.bfloat16),
}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_HEAD = "lm_head.weight"
# Copies of `shared.weight`. A file may have one of them in its place.
_EMBEDDING_COPIES = (
  "encoder.embed_tokens.weight",
  "decoder.embed_tokens.weight",
)
# Some old checkpoints have this tensor, and no model reads it.
_UNUSED = (
  "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
)
# Bytes of a tensor that are written at once.
_BLOCK_BYTES = 64 * 2**20


def is_folder(path: str | os.PathLike[str]) -> bool:
  """Returns whether the folder holds a Hugging Face model of any kind."""
  return (epath.Path(path) / CONFIG).is_file()


@dataclasses.dataclass(frozen=True)
class Tensor:
  """A parameter in a safetensors file.

  Attributes:
    file: The file.
    key: Its name there.
    is_transposed: Whether it is transposed there.
    shape: Its shape, as T5X has it.
    dtype: Its dtype.
  """

  file: pathlib.Path
  key: str
  is_transposed: bool
  shape: tuple[int, ...]
  dtype: np.dtype

  def open(self) -> stored_arrays.Reader:
    # One file for each tensor: when it is closed, its pages leave the memory.
    file = safetensors.safe_open(self.file, framework="numpy")
    part = file.get_slice(self.key)

    def read(index: stored_arrays.Index, file=file) -> np.ndarray:
      del file  # It stays open as long as there is a reader.
      return part[index[::-1]].T if self.is_transposed else part[index]

    return read


def open_folder(
  path: str | os.PathLike[str],
) -> base_checkpoints.BaseCheckpoint:
  """Opens a T5 1.1, also an LM-adapted one, or a FLAN-T5.

  Args:
    path: A folder with `config.json` and `model.safetensors`, or its shards.

  Returns:
    The model under T5X's names. Its step is unknown: 0.

  Raises:
    ValueError: if it is another model, or its weights are missing, incomplete
      or pickled.
  """
  folder = local_paths.local_path(path)
  config = hugging_face_config.read(folder)
  files = _files(folder)
  if _HEAD not in files:
    raise ValueError(
      f"{folder}: expected {_HEAD}, got none: its head is tied to the "
      "embedding, as in T5 1.0, and that of a T5 1.1 is not."
    )
  expected = t5_names.shapes(config)
  arrays: dict[str, StoredArray] = {}
  problems = []
  used = {_UNUSED, *_EMBEDDING_COPIES}
  found = _tensors(files)
  for name, shape in expected.items():
    key = t5_names.hugging_face_name(name)
    if name == TOKEN_EMBEDDING and key not in found:
      key = next((copy for copy in _EMBEDDING_COPIES if copy in found), key)
    used.add(key)
    if key not in found:
      problems.append(f"{key} is missing")
      continue
    is_transposed = t5_names.is_transposed(name)
    got, dtype = found[key]
    if dtype not in _DTYPES:
      problems.append(f"{key} is {dtype}, expected one of {', '.join(_DTYPES)}")
    elif (got[::-1] if is_transposed else got) != shape:
      problems.append(
        f"{key} has shape {got}, expected "
        f"{shape[::-1] if is_transposed else shape}"
      )
    else:
      arrays[name] = Tensor(
        files[key], key, is_transposed, shape, _DTYPES[dtype]
      )
  problems += [f"{key} is not of a T5 1.1" for key in found if key not in used]
  if problems:
    raise ValueError(
      f"{folder} is not a T5 1.1 of the sizes in {CONFIG}: {len(problems)} "
      f"differences. {'; '.join(problems[:10])}."
    )
  return base_checkpoints.BaseCheckpoint(str(path), str(path), 0, arrays)


def _files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """Returns tensor -> the file that holds it."""
  if (folder / INDEX).is_file():
    try:
      weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
      files = {key: folder / name for key, name in weight_map.items()}
    except (
      ValueError,
      KeyError,
      TypeError,
      AttributeError,
      RecursionError,
    ) as error:
      raise ValueError(
        f"{folder / INDEX}: expected JSON with weight_map, tensor -> file, got "
        f"{error!r}."
      ) from None
    if outside := sorted(
      {str(f) for f in files.values() if f.parent != folder or f.name == ".."}
    ):
      raise ValueError(
        f"{folder / INDEX}: expected files beside it, got {outside[0]}."
      )
    if missing := sorted({f.name for f in files.values() if not f.is_file()}):
      raise ValueError(
        f"{folder} is not complete: {INDEX} names {', '.join(missing)}."
      )
    return files
  file = folder / WEIGHTS
  if file.is_file():
    with _open(file) as weights:
      return dict.fromkeys(weights.keys(), file)
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
  try:
    return safetensors.safe_open(file, framework="numpy")
  except safetensors.SafetensorError as error:
    raise ValueError(f"{file} is not a safetensors file: {error}.") from None


def _tensors(
  files: Mapping[str, pathlib.Path],
) -> dict[str, tuple[tuple[int, ...], str]]:
  """Returns shape and dtype of each tensor."""
  tensors = {}
  for file in sorted(set(files.values())):
    with _open(file) as weights:
      there = set(weights.keys())
      for key in (key for key, place in files.items() if place == file):
        if key not in there:
          raise ValueError(f"{file}: expected the tensor {key}, got none.")
        part = weights.get_slice(key)
        tensors[key] = tuple(part.get_shape()), part.get_dtype()
  return tensors


def write_folder(
  path: str | os.PathLike[str], arrays: Mapping[str, StoredArray]
) -> None:
  """Writes a T5 1.1 that `T5ForConditionalGeneration.from_pretrained` loads.

  Args:
    path: A new folder, or an empty one.
    arrays: T5X name -> array.

  Raises:
    ValueError: if it is another model, or the folder is not empty.
  """
  folder = local_paths.local_path(path)
  if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
    raise ValueError(
      f"Expected a new folder for the model, got {folder}, which has content."
    )
  config = _config_of(arrays)
  folder.mkdir(parents=True, exist_ok=True)
  _write_tensors(
    folder / WEIGHTS,
    {t5_names.hugging_face_name(name): (name, a) for name, a in arrays.items()},
  )
  dtypes = {array.dtype for array in arrays.values()}
  content = {
    "architectures": ["T5ForConditionalGeneration"],
    "model_type": "t5",
    "is_encoder_decoder": True,
    "vocab_size": config.vocab_size,
    "d_model": config.emb_dim,
    "d_kv": config.head_dim,
    "d_ff": config.mlp_dim,
    "num_heads": config.num_heads,
    "num_layers": config.num_encoder_layers,
    "num_decoder_layers": config.num_decoder_layers,
    "relative_attention_num_buckets": config.relative_attention_num_buckets,
    "relative_attention_max_distance": 128,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "layer_norm_epsilon": 1e-6,
    "dropout_rate": 0.1,
    "initializer_factor": 1.0,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "use_cache": True,
    # The widest of the arrays' dtypes.
    "dtype": max(dtypes, key=lambda dtype: dtype.itemsize).name,
  }
  (folder / CONFIG).write_text(json.dumps(content, indent=2) + "\n")


def _config_of(arrays: Mapping[str, StoredArray]) -> T5Config:
  """Returns the sizes of a T5 1.1; refuses another model."""
  shapes = {name: array.shape for name, array in arrays.items()}
  config = dataclasses.replace(
    config_of(arrays),
    logits_via_embedding=False,
    mlp_activations=("gelu", "linear"),
  )
  expected = t5_names.shapes(config)
  problems = [
    f"{name}: expected {expected.get(name)}, got {shapes.get(name)}"
    for name in sorted(expected.keys() | shapes.keys())
    if expected.get(name) != shapes.get(name)
  ]
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
  return config


def _write_tensors(
  file: pathlib.Path, tensors: Mapping[str, tuple[str, StoredArray]]
) -> None:
  """Writes a safetensors file, block by block.

  The library of safetensors would need all tensors in memory.

  Args:
    file: Appears once it is complete.
    tensors: Hugging Face's name -> T5X's name, array.
  """
  header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
  end = 0
  for key, (name, array) in sorted(tensors.items()):
    start, end = end, end + int(np.prod(array.shape)) * array.dtype.itemsize
    is_transposed = t5_names.is_transposed(name)
    header[key] = {
      "dtype": _DTYPE_NAMES[array.dtype],
      "shape": list(array.shape[::-1] if is_transposed else array.shape),
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
      rows = max(1, _BLOCK_BYTES * len(whole) // whole.nbytes)
      for start in range(0, len(whole), rows):
        np.ascontiguousarray(whole[start : start + rows]).tofile(out)
