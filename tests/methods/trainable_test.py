import pytest

from prompt_tuning.methods import trainable


def test_a_pattern_must_match_the_whole_path():
  matches = trainable.matches_any([r"encoder/prompt/.*", r".*/rel_embedding"])
  assert matches("encoder/prompt/prompt", None)
  assert matches("/encoder/prompt/prompt", None)
  assert matches("decoder/relpos_bias/rel_embedding", None)
  assert not matches("encoder/encoder_norm/scale", None)
  assert not matches("decoder/encoder/prompt/prompt", None)
  # Patterns may start with flax's slash.
  assert trainable.matches_any(["/token_embedder/.*"])(
    "token_embedder/embedding", None
  )
  # The pattern of the released code.
  assert trainable.matches_any([".*/prompt/.*"])("/encoder/prompt/prompt", None)


def test_says_which_patterns_match_nothing():
  matches = trainable.matches_any([".*/prompt/.*", ".*/typo/.*"])
  assert matches.unmatched(["encoder/prompt/prompt"]) == [".*/typo/.*"]
  with pytest.raises(ValueError, match="sequence of patterns"):
    trainable.matches_any("encoder/prompt/.*")
