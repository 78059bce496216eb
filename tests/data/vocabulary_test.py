import pathlib

import pytest
import seqio
import tensorflow as tf
import tiny

from prompt_tuning.data import vocabulary


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
  """A SentencePiece model with T5's special ids."""
  folder = tmp_path_factory.mktemp("vocabulary")
  return tiny.train_sentencepiece(folder / "x.model")


@pytest.fixture
def unbound(monkeypatch):
  """The tasks' vocabulary before any model is chosen."""
  monkeypatch.setattr(vocabulary.MODEL_VOCABULARY, "in_use", None)
  return vocabulary.MODEL_VOCABULARY


def test_is_the_vocabulary_of_the_model(unbound, model_file):
  of_model = seqio.SentencePieceVocabulary(model_file, extra_ids=5)
  assert vocabulary.of_model(of_model) is of_model
  ids = unbound.encode("the boat")
  assert ids == of_model.encode("the boat")
  assert unbound.decode(ids) == "the boat"
  assert unbound.encode_tf("the boat").numpy().tolist() == ids
  assert unbound.decode_tf(tf.constant(ids)).numpy() == b"the boat"
  assert (unbound.vocab_size, unbound.extra_ids) == (24, 5)
  assert (unbound.pad_id, unbound.eos_id, unbound.unk_id) == (0, 1, 2)
  assert isinstance(unbound, seqio.Vocabulary)
  # Both orders: the class of the left operand answers.
  assert unbound == of_model
  assert of_model == unbound
  for other in (
    seqio.SentencePieceVocabulary(model_file, extra_ids=6),
    seqio.ByteVocabulary(),
  ):
    assert unbound != other
    assert other != unbound


@pytest.mark.parametrize("content", [None, "", "no model", "the first half"])
def test_file_that_is_no_model_is_one_clear_error(
  unbound, model_file, tmp_path, content
):
  path = tmp_path / "bad.model"
  if content is not None:
    whole = pathlib.Path(model_file).read_bytes()
    half = whole[: len(whole) // 2]
    path.write_bytes(half if "half" in content else content.encode())
  given = seqio.SentencePieceVocabulary(str(path), extra_ids=5)
  with pytest.raises(ValueError, match=r"Expected a Sent.*bad\.model, got"):
    vocabulary.of_model(given)
  assert unbound.in_use is None


def test_file_with_sentinels_of_its_own_is_told_of(
  unbound, model_file, tmp_path
):
  with_sentinels = seqio.SentencePieceVocabulary(model_file, extra_ids=5)
  path = tmp_path / "5extra.model"
  path.write_bytes(with_sentinels.sp_model)
  again = seqio.SentencePieceVocabulary(str(path), extra_ids=5)
  with pytest.raises(ValueError, match=r"5extra.* already has.*extra_ids=0"):
    vocabulary.of_model(again)
  plain = seqio.SentencePieceVocabulary(str(path), extra_ids=0)
  assert vocabulary.of_model(plain).vocab_size == 24
  # By default, a file without sentinels gets T5's.
  assert vocabulary.of_file(str(path)).vocab_size == 24
  assert vocabulary.of_file(model_file).vocab_size == 119


def test_a_later_model_takes_over_from_none(unbound):
  with pytest.raises(ValueError, match=r"@vocabulary\.of_model\(\)"):
    unbound.encode("the boat")
  # Mixtures compare their tasks' vocabularies before any model is chosen.
  assert unbound == vocabulary.MODEL_VOCABULARY
  first = vocabulary.of_model(seqio.ByteVocabulary(extra_ids=0))
  vocabulary.of_model(seqio.ByteVocabulary(extra_ids=10))
  assert unbound.extra_ids == 10
  assert unbound != first
