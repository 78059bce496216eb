"""Conversion of a Unigram `tokenizer.json` to a SentencePiece model."""

import base64
import json
import pathlib
import re
from typing import Any

from etils import epath
from sentencepiece import sentencepiece_model_pb2

from prompt_tuning.data import vocabulary as vocabulary_lib
from t5x.files import parsing

_PIECE = sentencepiece_model_pb2.ModelProto.SentencePiece
# T5's sentinels are not in its SentencePiece file; seqio appends them.
_SENTINEL = re.compile(r"<extra_id_\d+>")
# Steps around the model: repeated spaces are joined, or texts split at them, as
# transformers 5 and the files of T5 on the hub do.
_STEPS = (
  ["Precompiled", "Replace", "Metaspace"],
  ["Precompiled", "WhitespaceSplit", "Metaspace"],
)


def files_in(folder: epath.Path) -> list[epath.Path]:
  """Returns the SentencePiece files of a folder.

  If a Hugging Face folder has only a tokenizer.json, a SentencePiece file is
  made from it in the user's cache.
  """
  found = sorted(folder.glob("*.model"))
  tokenizer = folder / "tokenizer.json"
  if not found and tokenizer.is_file():
    content = sentencepiece_from_tokenizer_json(tokenizer)
    found = [epath.Path(vocabulary_lib.cached_file(content))]
  return found


def sentencepiece_from_tokenizer_json(path: epath.PathLike) -> bytes:
  """Rebuilds the SentencePiece model that a `tokenizer.json` was made from.

  The file has pieces, scores, ids and the character map. Hugging Face stores
  the treatment of white space as steps around the model. They must be T5's: a
  space in front, repeated spaces joined.

  Returns:
    The serialised model, to be written to a `.model` file.

  Raises:
    ValueError: if the file is not a T5-like Unigram tokenizer.
  """
  content = pathlib.Path(path).read_bytes()
  with parsing.of(path, "a tokenizer of T5's as Hugging Face writes it"):
    return _rebuilt(json.loads(content))


def _rebuilt(tokenizer: Any) -> bytes:
  model = tokenizer["model"]
  if model.get("type") != "Unigram" or model.get("byte_fallback"):
    raise ValueError(
      "expected a Unigram model without byte fallback, got type"
      f" {model.get('type')!r}, byte_fallback {model.get('byte_fallback')}."
    )
  vocabulary = [(piece, score) for piece, score in model["vocab"]]
  rows = [row for row in vocabulary if not _SENTINEL.fullmatch(row[0])]
  if rows != vocabulary[: len(rows)]:
    raise ValueError("expected <extra_id_*> only after other pieces.")
  unknown = model["unk_id"]
  if type(unknown) is not int or not 0 <= unknown < len(rows):
    raise ValueError(
      f"expected unk_id to be one of {len(rows)} pieces, got {unknown!r:.60}."
    )

  proto = sentencepiece_model_pb2.ModelProto()
  types = {
    token["id"]: _PIECE.CONTROL if token["special"] else _PIECE.USER_DEFINED
    for token in tokenizer["added_tokens"]
  } | {unknown: _PIECE.UNKNOWN}
  for i, (piece, score) in enumerate(rows):
    proto.pieces.add(piece=piece, score=score, type=types.get(i))

  ids = {piece: i for i, (piece, _) in enumerate(rows)}
  trainer = proto.trainer_spec
  trainer.model_type = sentencepiece_model_pb2.TrainerSpec.UNIGRAM
  trainer.vocab_size = len(rows)
  trainer.unk_id = unknown
  trainer.pad_id = ids.get("<pad>", -1)
  trainer.bos_id = ids.get("<s>", -1)
  trainer.eos_id = ids.get("</s>", -1)
  trainer.pad_piece = "<pad>"

  steps = tokenizer["normalizer"] or {}
  steps = steps.get("normalizers", [steps])
  splits = tokenizer["pre_tokenizer"] or {}
  splits = splits.get("pretokenizers", [splits])
  kinds = [step.get("type") for step in (*steps, *splits)]
  # Older files have a flag for it.
  scheme = "always" if splits[-1].get("add_prefix_space") else None
  scheme = splits[-1].get("prepend_scheme", scheme)
  if kinds not in _STEPS or scheme != "always":
    raise ValueError(
      f"expected T5's normalisation, {' or '.join(map(str, _STEPS))} with a"
      f" space always in front, got {kinds} and {splits}."
    )
  normalizer = proto.normalizer_spec
  normalizer.name = "nmt_nfkc"
  normalizer.precompiled_charsmap = base64.b64decode(
    steps[0]["precompiled_charsmap"]
  )
  normalizer.add_dummy_prefix = True
  normalizer.remove_extra_whitespaces = True
  normalizer.escape_whitespaces = True
  return proto.SerializeToString()
