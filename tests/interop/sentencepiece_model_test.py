"""Tests of SentencePiece models rebuilt from a `tokenizer.json`."""

import base64
import functools
import json
import operator
import pathlib

from etils import epath
import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2
import tiny

from prompt_tuning.interop import sentencepiece_model

TEXT = """The house is big and the garden is small.
A boy named Ada saw 12 birds (and one cat) near the old house!
Why is the ﬁne garden at No. ① so small? Because the cat is there.
Der Hund läuft durch den Garten; das Haus ist groß.
"""
SENTENCES = [
  *TEXT.splitlines(),
  "",
  "  two  spaces\tand a tab\n ",
  "① wide, ½ and ﬁ",
  "unseen: 漢字 🙂 \u200bzero-width",
  "<pad></s><unk> ▁",
]
MAP = "normalizer", "normalizers", 0


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> bytes:
  """A small model trained with T5's settings."""
  path = tmp_path_factory.mktemp("model") / "spiece.model"
  tiny.train_sentencepiece(path, TEXT.splitlines() * 20, vocab_size=64)
  return path.read_bytes()


@pytest.fixture
def tokenizer(original):
  """The tokenizer that Hugging Face's converter writes for that model."""
  proto = sentencepiece_model_pb2.ModelProto.FromString(original)
  charsmap = proto.normalizer_spec.precompiled_charsmap
  vocab = [[piece.piece, piece.score] for piece in proto.pieces]
  sentinels = [f"<extra_id_{i}>" for i in reversed(range(3))]
  return {
    "added_tokens": [
      {"id": i, "content": piece, "special": True}
      for i, piece in [
        *enumerate(["<pad>", "</s>", "<unk>"]),
        *enumerate(sentinels, start=len(vocab)),
      ]
    ],
    "normalizer": {
      "type": "Sequence",
      "normalizers": [
        {
          "type": "Precompiled",
          "precompiled_charsmap": base64.b64encode(charsmap).decode(),
        },
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
      ],
    },
    "pre_tokenizer": {"type": "Metaspace", "prepend_scheme": "always"},
    "model": {
      "type": "Unigram",
      "unk_id": 2,
      "vocab": vocab + [[sentinel, 0.0] for sentinel in sentinels],
    },
  }


def _rebuild(tokenizer, folder) -> bytes:
  path = folder / "tokenizer.json"
  path.write_text(json.dumps(tokenizer), encoding="utf-8")
  return sentencepiece_model.sentencepiece_from_tokenizer_json(path)


def test_encodes_and_decodes_as_the_original(original, tokenizer, tmp_path):
  content = _rebuild(tokenizer, tmp_path)
  rebuilt, expected = (
    sentencepiece_model_pb2.ModelProto.FromString(x)
    for x in (content, original)
  )
  assert [(p.piece, p.score, p.type) for p in rebuilt.pieces] == [
    (p.piece, p.score, p.type) for p in expected.pieces
  ]
  rebuilt = sentencepiece.SentencePieceProcessor(model_proto=content)
  expected = sentencepiece.SentencePieceProcessor(model_proto=original)
  for sentence in SENTENCES:
    ids = expected.encode(sentence)
    assert rebuilt.encode(sentence) == ids
    assert rebuilt.decode(ids) == expected.decode(ids)
  for name in ("pad_id", "eos_id", "bos_id", "unk_id", "vocab_size"):
    assert getattr(rebuilt, name)() == getattr(expected, name)(), name


@pytest.mark.parametrize(
  "in_front", [{"prepend_scheme": "always"}, {"add_prefix_space": True}]
)
def test_texts_may_be_split_at_spaces(tokenizer, tmp_path, in_front):
  """Tokenizers of transformers 5 and older files on the hub are read."""
  expected = _rebuild(tokenizer, tmp_path)
  tokenizer["normalizer"] = tokenizer["normalizer"]["normalizers"][0]
  steps = [{"type": "WhitespaceSplit"}, {"type": "Metaspace", **in_front}]
  tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
  assert _rebuild(tokenizer, tmp_path) == expected


def test_tokenizer_alone_makes_a_file_in_the_cache(
  tokenizer, tmp_path, monkeypatch
):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  content = _rebuild(tokenizer, tmp_path)
  folder = epath.Path(tmp_path)
  (made,) = sentencepiece_model.files_in(folder)
  assert made.read_bytes() == content
  assert (tmp_path / "cache") in pathlib.Path(made).parents
  (tmp_path / "own.model").touch()
  assert sentencepiece_model.files_in(folder) == [folder / "own.model"]


def test_added_pieces_that_are_not_special_are_never_split(tokenizer, tmp_path):
  tokenizer["model"]["vocab"][40] = ["zqx", -20.0]
  tokenizer["added_tokens"].append(
    {"id": 40, "content": "zqx", "special": False}
  )
  rebuilt = sentencepiece.SentencePieceProcessor(
    model_proto=_rebuild(tokenizer, tmp_path)
  )
  assert 40 in rebuilt.encode("a zqx b")


@pytest.mark.parametrize(
  ("path", "values", "message"),
  [
    (["model"], [[]], ""),
    (["model", "type"], ["BPE"], "expected a Unigram model"),
    (["model", "vocab"], [7, [1, 2, 3], [[]] * 3, [["a"]] * 3], ""),
    (["model", "vocab"], [[["a", "b"], ["c", "d"], ["e", "f"]]], ""),
    (["model", "vocab", 3], [["<extra_id_9>", 0.0]], "only after other pieces"),
    (["model", "unk_id"], ["1", 2**40, None], ""),
    (["added_tokens"], [["a"], None], ""),
    (["normalizer"], [{"type": "NFKC"}], "expected T5's normalisation"),
    (["normalizer", "normalizers"], [["a"]], ""),
    ([*MAP, "precompiled_charsmap"], [7, "a"], ""),
    (["pre_tokenizer"], [None], "expected T5's normalisation"),
  ],
)
def test_a_malformed_tokenizer_is_named(
  tokenizer, tmp_path, path, values, message
):
  *parents, name = path
  for value in values:
    functools.reduce(operator.getitem, parents, tokenizer)[name] = value
    named = f"^{tmp_path}/.* is not a tokenizer of T5's"
    with pytest.raises(ValueError, match=f"{named} .*{message}"):
      _rebuild(tokenizer, tmp_path)


@pytest.mark.parametrize(
  "content", [b"", b"[" * 100_000, b"\xff", b"[]", b'{"a": {"b": [[[{}]]]}}']
)
def test_file_that_is_no_tokenizer_is_named(tmp_path, content):
  path = tmp_path / "tokenizer.json"
  path.write_bytes(content)
  with pytest.raises(ValueError, match=f"^{path} is not a tokenizer"):
    sentencepiece_model.sentencepiece_from_tokenizer_json(path)
