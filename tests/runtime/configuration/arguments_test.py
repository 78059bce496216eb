"""Tests of checks of Python arguments against annotations."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from pydantic import PositiveInt
import pytest

from t5x.configuration import arguments


@arguments.checked
def call(
  texts: Sequence[str],
  pairs: Iterable[tuple[str, str]] | None = None,
  *,
  size: PositiveInt = 1,
  rate: float = 0.5,
  lengths: Mapping[str, int] | None = None,
  **others,
):
  """Returns its arguments."""
  return texts, pairs, size, rate, lengths, others


@pytest.mark.parametrize(
  "given",
  [
    {"texts": ("a", "b")},
    {"texts": np.array(["a"])},
    {"texts": pd.Series(["a"])},
    {"texts": [], "pairs": iter([("a", "b")])},
    {"texts": [], "size": np.int64(2), "rate": np.float32(1)},
    {"texts": [], "rate": 1, "lengths": {"a": 1}, "other": object()},
  ],
)
def test_right_arguments_are_taken(given):
  assert call(**given)[0] is given["texts"]


@pytest.mark.parametrize(
  ("given", "message"),
  [
    ({"texts": ["a", b"b"]}, r"Expected texts\[1\] to be str, got b'b'\."),
    ({"texts": {"a": 1}}, r"texts to be Sequence\[str\], got \{"),
    ({"texts": [], "pairs": "ab"}, r"pairs to be Iterable.* \| None, got 'ab'"),
    ({"texts": [], "size": True}, "size to be int above 0, got True"),
    ({"texts": [], "lengths": {"a": "1"}}, r"Mapping\[str, int\] \| None"),
    ({"texts": ["a" * 99, 1], "size": 0}, r"texts\[1\] .*got 1\. .*size to be"),
    ({"texts": "a" * 99}, r"got 'a{79}\.\.\.\.$"),
  ],
)
def test_wrong_arguments_are_named(given, message):
  with pytest.raises(ValueError, match=message):
    call(**given)
