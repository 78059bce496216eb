"""Vocabularies of `tokenizers`, with start tokens and a first piece in use."""

import numpy as np
import pytest
import tensorflow as tf
import tiny_decoder

from prompt_tuning.data.tokenizers_vocabulary import TokenizersVocabulary
from prompt_tuning.interop import checkpoint_conversion, hugging_face
from prompt_tuning.models.config import TOKEN_EMBEDDING
from t5x.formats import stored_arrays

tokenizers = pytest.importorskip("tokenizers")

# As Llama 3 has them: id 0 is "!", and special tokens come last.
WORDS = ["!", "a", "b", "Ġb"]
SPECIAL = ["<start>", "<end>", "<reserved>"]


@pytest.fixture
def path(tmp_path):
  ids = {word: i for i, word in enumerate(WORDS)}
  model = tokenizers.models.BPE(vocab=ids, merges=[])
  tokenizer = tokenizers.Tokenizer(model)
  tokenizer.add_special_tokens(SPECIAL)
  tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
    single="<start> $A", special_tokens=[("<start>", len(WORDS))]
  )
  tokenizer.save(str(tmp_path / "tokenizer.json"))
  return tmp_path / "tokenizer.json"


def test_first_piece_changes_places_and_inputs_have_a_start(path):
  vocabulary = TokenizersVocabulary(path, eos_id=5)
  assert vocabulary.encode("ab!") == [1, 2, 6]
  assert vocabulary.of_inputs.encode("ab!") == [4, 1, 2, 6]
  assert vocabulary.decode([1, 2, 6, 5, 1]).replace(" ", "") == "ab!"
  assert vocabulary.eos_id == 5
  assert vocabulary.vocab_size == 7
  encoded = vocabulary.of_inputs.encode_tf(tf.constant("ab!"))
  np.testing.assert_array_equal(encoded, [4, 1, 2, 6])
  assert vocabulary == TokenizersVocabulary(path, eos_id=5)
  assert vocabulary != vocabulary.of_inputs


def test_embeddings_change_places_with_their_pieces(path, tmp_path):
  folder = tmp_path / "model"
  plain = hugging_face.open_folder(tiny_decoder.save(folder))
  (folder / "tokenizer.json").write_bytes(path.read_bytes())
  table, exchanged = (
    stored_arrays.read(x.arrays[TOKEN_EMBEDDING])
    for x in (plain, hugging_face.open_folder(folder))
  )
  np.testing.assert_array_equal(exchanged[[0, 6]], table[[6, 0]])
  np.testing.assert_array_equal(exchanged[7:], table[7:])
  # They have their places again in a folder that we write.
  model = checkpoint_conversion.open_model(str(folder))
  checkpoint_conversion.convert(model, "hf", str(tmp_path / "out"))
  for name in ("model.safetensors", "tokenizer.json"):
    written, given = (tmp_path / x / name for x in ("out", "model"))
    assert written.read_bytes() == given.read_bytes()


def test_refuses_what_is_no_tokenizer(tmp_path):
  (tmp_path / "tokenizer.json").write_text("{}")
  with pytest.raises(ValueError, match="Expected a tokenizer"):
    TokenizersVocabulary(tmp_path / "tokenizer.json", 1)
