"""Models in Hugging Face folders: `config.json` and files of weights.

A folder has the same arrays as a T5X checkpoint, under other names, and every
matrix but the embedding is transposed. Tensors are read and written part by
part: no model is held in memory.
"""

from collections.abc import Mapping
import dataclasses
import json
import os
import pathlib
import re
import shutil
from typing import TYPE_CHECKING, Any

from etils import epath
import numpy as np

from prompt_tuning.data import chat_templates
from prompt_tuning.interop import (
  decoder_configs,
  hub,
  local_files,
  parameter_names,
  safetensors_files,
  t5_configs,
  t5gemma_configs,
  weight_files,
)
from prompt_tuning.models.config import TOKEN_EMBEDDING
from prompt_tuning.models.decoder.config import DecoderConfig
from prompt_tuning.models.layers import Config
from prompt_tuning.models.t5.config import T5Config, config_of
from prompt_tuning.models.t5gemma.config import T5GemmaConfig
from t5x.files import parsing
from t5x.formats import stored_arrays
from t5x.formats.base_checkpoints import BaseCheckpoint
from t5x.formats.stored_arrays import StoredArray

if TYPE_CHECKING:
  from prompt_tuning.data.tokenizers_vocabulary import TokenizersVocabulary

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
# Settings of a folder with int8 matrices, which this trainer alone reads.
_OF_INT8: dict[str, Any] = {"base_weights": str, "fingerprint": str}
_HEAD, _EMBEDDING = "lm_head.weight", "shared.weight"
# Copies of a T5's embedding. A file may have one of them in its place.
_EMBEDDING_COPIES = (
  "encoder.embed_tokens.weight",
  "decoder.embed_tokens.weight",
)
# The class of a configuration -> its family.
FAMILIES = {
  T5Config: t5_configs,
  DecoderConfig: decoder_configs,
  T5GemmaConfig: t5gemma_configs,
}


def is_folder(path: epath.PathLike) -> bool:
  """Returns whether the folder holds a Hugging Face model of any kind."""
  return (epath.Path(path) / CONFIG).is_file()


def _folder(path: epath.PathLike) -> pathlib.Path:
  """Returns the folder of a model, after fetching it if it is a hub name."""
  folder, name = local_files.local_path(path), os.fspath(path)
  if not is_folder(folder) and hub.is_name(name):
    return pathlib.Path(hub.folder(name, hub.MODEL))
  return folder


def vocabulary(
  path: str, use_chat_template: bool = True
) -> "TokenizersVocabulary":
  """Returns the vocabulary of a decoder.

  Args:
    path: Its folder, or its name on the hub.
    use_chat_template: Whether inputs are wrapped, if it has a template.

  Raises:
    ValueError: if there is no `tokenizer.json`, or no end token.
  """
  from prompt_tuning.data import tokenizers_vocabulary  # Imports TensorFlow.

  folder = _folder(path)
  config, template = read_config(folder), None
  if use_chat_template and not isinstance(config, T5GemmaConfig):
    template = chat_templates.read(folder)
  return tokenizers_vocabulary.TokenizersVocabulary(
    folder / TOKENIZER, _end_id(folder), template, config.vocab_size
  )


def _end_id(folder: pathlib.Path) -> int:
  """Returns the tokenizer's id of the end token."""
  what, fields = "a model configuration", {"eos_token_id": Any}
  content = parsing.json_file(folder / CONFIG, what, fields)
  # Some chat models have several.
  eos_id, *_ = np.ravel(content["eos_token_id"]).tolist()
  if not isinstance(eos_id, int):
    raise ValueError(f"{folder / CONFIG}: expected eos_token_id, got {eos_id}.")
  return eos_id


def open_folder(path: epath.PathLike) -> BaseCheckpoint:
  """Opens a T5 (1.0, 1.1, FLAN-T5, mT5, ByT5), T5Gemma, or decoder.

  Args:
    path: A folder with `config.json` and `model.safetensors`, or otherwise
      `pytorch_model.bin`, or the shards of either. Or a name on the hub,
      OWNER/NAME; see `hub.is_name`.

  Returns:
    The model under T5X's names. Its step is unknown and set to 0. The metadata
    has its `config`, and for int8 the fingerprint of the original floats.

  Raises:
    ValueError: if it is another model; its weights are missing, incomplete or
      not tensors; or the hub has no such model.
  """
  folder = _folder(path)
  config = read_config(folder)
  tensors = weight_files.find(folder)
  is_t5 = isinstance(config, T5Config)
  if is_t5:
    for copy in _EMBEDDING_COPIES:
      if copy in tensors:
        tensors.setdefault(_EMBEDDING, tensors.pop(copy))
    if config.logits_via_embedding and (head := tensors.pop(_HEAD, None)):
      _check_same(folder, head, tensors.get(_EMBEDDING, head))
  # To list the names of too many layers would take minutes.
  if (num_layers := sum(config.stacks)) > len(tensors):
    raise ValueError(
      f"{folder}: expected the tensors of {num_layers} layers, as {CONFIG} "
      f"says, got {len(tensors)}."
    )
  expected = parameter_names.shapes(config)
  keys = {x: parameter_names.hugging_face_name(x, config) for x in expected}
  read, unread = {*keys.values()}, re.compile(FAMILIES[type(config)].UNREAD)
  tensors = {
    key: tensor
    for key, tensor in tensors.items()
    if key in read or not unread.fullmatch(key)
  }
  if problems := _differences(
    {key: _turned(name, expected[name]) for name, key in keys.items()},
    tensors,
  ):
    is_quantised = "quantization_config" in (folder / CONFIG).read_text()
    why = " It is quantised: choose the model that is not." * is_quantised
    raise ValueError(
      f"{folder} is not a model of the sizes in {CONFIG}: {len(problems)} "
      f"differences. {'; '.join(problems[:10])}.{why}"
    )
  arrays = {
    name: _turned_array(name, tensors[key]) for name, key in keys.items()
  }
  found = str(folder.absolute())
  if is_t5:
    return BaseCheckpoint(str(path), found, 0, arrays)
  metadata = {"config": config, "folder": found}
  if config.base_weights:
    what = "that of int8 weights"
    content = parsing.json_file(folder / CONFIG, what, _OF_INT8)
    metadata["fingerprint"] = content["fingerprint"]
  _exchange(arrays, folder)
  return BaseCheckpoint(str(path), found, 0, arrays, metadata)


def _check_same(
  folder: pathlib.Path, head: StoredArray, embedding: StoredArray
) -> None:
  """Checks the copy of a tied head that some files have."""
  read = stored_arrays.read
  if not np.array_equal(read(head), read(embedding)):
    raise ValueError(
      f"{folder}: expected {_HEAD} to be {_EMBEDDING}, as the embedding is the "
      f"head by {CONFIG}."
    )


def _exchange(arrays: dict[str, StoredArray], folder: pathlib.Path) -> None:
  """Exchanges the pieces of a decoder's arrays, or restores their order."""
  if (folder / TOKENIZER).is_file():
    from prompt_tuning.data import tokenizers_vocabulary  # Imports TensorFlow.

    arguments = folder / TOKENIZER, _end_id(folder)
    num_rows = arrays[TOKEN_EMBEDDING].shape[0]
    row = tokenizers_vocabulary.exchanged_id(*arguments, num_rows)
    for name, axis_of_pieces in (
      (TOKEN_EMBEDDING, 0),
      (f"{TOKEN_EMBEDDING}_scale", 0),
      ("decoder_embedder/embedding", 0),
      ("decoder_embedder/embedding_scale", 0),
      ("decoder/logits_dense/kernel", 1),
    ):
      if row and name in arrays:
        arrays[name] = safetensors_files.exchange(
          arrays[name], axis_of_pieces, row
        )


def read_config(folder: pathlib.Path) -> Config:
  """Reads the sizes; refuses models that our network does not compute.

  Raises:
    ValueError: if the configuration is missing, or that of another model.
  """
  file = folder / CONFIG
  if not file.is_file():
    if folder.is_dir():
      raise ValueError(
        f"{folder} is not a Hugging Face folder: no {CONFIG} in it."
      )
    raise ValueError(
      f"Found no folder {folder} in {pathlib.Path.cwd()}. The name of a model "
      "on the hub is OWNER/NAME."
    )
  config = parsing.json_file(file, "a model configuration", {"model_type": Any})
  model_type = config["model_type"]
  for family in FAMILIES.values():
    if model_type in family.MODEL_TYPES:
      found = family.read_config(file, config)
      with parsing.of(file, "a model configuration"):
        weights = config.get("base_weights")
        return dataclasses.replace(found, base_weights=weights)
  known = ", ".join(x for y in FAMILIES.values() for x in y.MODEL_TYPES)
  raise ValueError(f"{file}: expected model_type {known}, got {model_type}.")


def _differences(
  expected: Mapping[str, tuple[int, ...]], got: Mapping[str, StoredArray]
) -> list[str]:
  """Lists arrays whose names, shapes or dtypes differ."""
  shapes = {name: x.shape for name, x in got.items()}
  int8 = np.dtype(np.int8)
  floats = [x for x in safetensors_files.DTYPE_NAMES if x != int8]
  known = {
    name: [int8] if f"{name}_scale" in expected else floats for name in got
  }
  return parameter_names.differences(expected, shapes) + [
    f"{name} is {x.dtype}, expected one of {', '.join(map(str, known[name]))}"
    for name, x in got.items()
    if x.dtype not in known[name]
  ]


def _turned(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
  """Returns a parameter's shape in the other software's orientation."""
  return shape[::-1] if parameter_names.is_transposed(name) else shape


def _turned_array(name: str, array: StoredArray) -> StoredArray:
  """Returns one of our arrays in the other software's orientation."""
  if not parameter_names.is_transposed(name):
    return array

  def open_turned(*arguments: Any) -> stored_arrays.Reader:
    read = array.open(*arguments)
    return lambda index: read(index[::-1]).T

  return StoredArray(_turned(name, array.shape), array.dtype, open_turned)


def write_folder(
  path: epath.PathLike,
  arrays: Mapping[str, StoredArray],
  metadata: Mapping[str, Any] | None = None,
) -> None:
  """Writes a model that transformers' `from_pretrained` loads, unless in int8.

  Args:
    path: A new folder, or an empty one.
    arrays: T5X name -> array, of a T5, a T5Gemma 1 or a decoder.
    metadata: For all but a T5: its `config`, the `folder` whose other files are
      copied, and the `fingerprint` if it is in int8.

  Raises:
    ValueError: if it is another model, or the folder is not empty.
  """
  folder = local_files.local_path(path)
  local_files.check_new(folder)
  config: Config | None = (metadata or {}).get("config")
  if config is None:
    config = config_of(arrays)
    is_gated = len(config.mlp_activations) > 1  # A T5 1.1, with a head.
    config = dataclasses.replace(config, logits_via_embedding=not is_gated)
  expected = parameter_names.shapes(config)
  if problems := _differences(expected, arrays):
    way_out = (
      " Convert a prompt by itself: prompt-tuning convert prompt."
      if any("prompt" in name for name in arrays.keys() - expected.keys())
      else ""
    )
    what = "T5" if isinstance(config, T5Config) else "model of its folder"
    raise ValueError(
      f"Not a {what}: {len(problems)} differences. {'; '.join(problems[:10])}."
      f"{way_out}"
    )
  is_merged = isinstance(config, T5GemmaConfig) and config.is_merged
  if is_merged and not config.base_weights:
    raise ValueError(
      "Expected a model that is text alone, got a T5Gemma 2: it has an encoder "
      "of images, which is not read. Use its own folder."
    )
  folder.mkdir(parents=True, exist_ok=True)
  if isinstance(config, T5Config):
    content = t5_configs.content(config)
  else:
    assert metadata is not None
    source = pathlib.Path(metadata["folder"])
    arrays = dict(arrays)
    _exchange(arrays, source)
    for file in (*source.glob("*.json"), *source.glob("*.jinja")):
      if file.name != CONFIG and not file.name.endswith(weight_files.INDEX):
        shutil.copy(file, folder)
    content = json.loads((source / CONFIG).read_text())
    for name in ("torch_dtype", *_OF_INT8):
      content.pop(name, None)
    if config.base_weights:
      of_int8 = config.base_weights, metadata["fingerprint"]
      content |= dict(zip(_OF_INT8, of_int8, strict=True))
  safetensors_files.write(
    folder / safetensors_files.WEIGHTS,
    {
      parameter_names.hugging_face_name(x, config): _turned_array(x, array)
      for x, array in arrays.items()
    },
  )
  dtypes = {array.dtype for array in arrays.values()}
  content["dtype"] = max(dtypes, key=lambda dtype: dtype.itemsize).name
  (folder / CONFIG).write_text(json.dumps(content, indent=2) + "\n")
