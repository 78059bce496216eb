"""The readers of prompts, models and vocabularies from other sources."""

import json
import pathlib

from fuzz.reader import Reader, file, made
import hf_t5s
import numpy as np
import onnx_graphs
import seqio

from prompt_tuning import prompt_files
from prompt_tuning.data import vocabulary as vocabulary_lib
from prompt_tuning.interop import (
  hugging_face,
  onnx_t5,
  parameter_names,
  peft_adapters,
  safetensors_files,
  sentencepiece_model,
)
from prompt_tuning.models.t5.config import T5Config
from t5x.formats import stored_arrays

_METADATA = prompt_files.PromptMetadata("52cb", "eed7", task="rte", score=50.5)
PROMPT = np.linspace(-1, 1, 24, dtype=np.float32).reshape(3, 8)
_TOKENIZER = {
  "added_tokens": [{"id": 0, "content": "<pad>", "special": True}],
  "normalizer": {
    "normalizers": [
      {"type": "Precompiled", "precompiled_charsmap": ""},
      {"type": "Replace"},
    ]
  },
  "pre_tokenizer": {"type": "Metaspace", "prepend_scheme": "always"},
  "model": {
    "type": "Unigram",
    "unk_id": 2,
    "vocab": [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["▁a", -1.5]],
  },
}


def _hugging_face(folder: pathlib.Path) -> None:
  config = T5Config(16, 4, 2, 1, 1, head_dim=2, mlp_dim=4)
  hf_t5s.save(folder / "hf", config)
  names = {
    parameter_names.hugging_face_name(name, config)
    for name in parameter_names.shapes(config)
  }
  text = json.dumps(
    {"weight_map": dict.fromkeys(names, safetensors_files.WEIGHTS)}
  )
  (folder / "hf" / f"{safetensors_files.WEIGHTS}.index.json").write_text(text)


def _read_hugging_face(path: pathlib.Path) -> None:
  for array in hugging_face.open_folder(path.parent).arrays.values():
    stored_arrays.read(array)


def _sentencepiece(folder: pathlib.Path) -> None:
  path = folder / "tokenizer.json"
  path.write_text(json.dumps(_TOKENIZER))
  model = sentencepiece_model.sentencepiece_from_tokenizer_json(path)
  (folder / "spiece.model").write_bytes(model)


def _read_sentencepiece(path: pathlib.Path) -> None:
  seqio.vocabularies._load_model_internal.cache_clear()
  vocabulary = seqio.SentencePieceVocabulary(str(path), extra_ids=2)
  vocabulary_lib.checked(vocabulary).encode("a b")


def _adapter(folder: pathlib.Path) -> None:
  peft_adapters.save_adapter(folder / "adapter", PROMPT, _METADATA, "base")


def _read_adapter(path: pathlib.Path) -> None:
  peft_adapters.load_adapter(path.parent)


TENSORS = prompt_files.content(PROMPT, _METADATA, ".safetensors")
NUMPY = prompt_files.content(PROMPT, None, ".npy")

READERS: dict[str, Reader] = {
  "prompt, safetensors": file(
    "x.safetensors", TENSORS, prompt_files.load_prompt
  ),
  "prompt, npy": file("x.npy", NUMPY, prompt_files.load_prompt),
  "adapter's configuration": made(_adapter, "*/*.json", _read_adapter),
  "adapter's weights": made(_adapter, "*/*.safetensors", _read_adapter),
  "Hugging Face's configuration": made(
    _hugging_face,
    "*/config.json",
    lambda path: hugging_face.read_config(path.parent),
  ),
  "Hugging Face's weights": made(
    _hugging_face, "*/*.safetensors", _read_hugging_face, called="/hf"
  ),
  "Hugging Face's index": made(
    _hugging_face, "*/*.index.json", _read_hugging_face, called="/hf"
  ),
  "Hugging Face's tokenizer": file(
    "tokenizer.json",
    json.dumps(_TOKENIZER),
    sentencepiece_model.sentencepiece_from_tokenizer_json,
  ),
  "SentencePiece": made(_sentencepiece, "*.model", _read_sentencepiece),
  "ONNX": made(
    lambda folder: onnx_graphs.save(folder / "encoder.onnx"),
    *("*.onnx", onnx_t5._weights),
  ),
}
