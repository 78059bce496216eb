"""Values of the wrong type, before they are used."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax.numpy as jnp
import pytest

from t5x.configuration import gin_resolution, gin_values


class Model:
  pass


def train(
  model: Model,
  steps: int,
  rate: float,
  seed: int | None = None,
  lengths: Mapping[str, int] | None = None,
  names: Sequence[str] = (),
  mode: Literal["a", "b"] = "a",
  pairs: Sequence[tuple[str, str | None]] = (),
  fn: Callable[..., None] | None = None,
  dtype: jnp.dtype = jnp.float32,
  anything: Any = None,
  *,
  shuffle: bool = False,
):
  """A program."""


def check(binding):
  text = (
    "from __gin__ import dynamic_registration\n"
    "import __main__ as train_script\n"
    "MACRO = 7\n"
    f"train_script.train.{binding}\n"
  )
  read = gin_resolution.Bindings(bindings=[text])
  gin_values.check(gin_resolution.resolve(read, "train"), train)


@pytest.mark.parametrize(
  "binding",
  [
    "steps = 3",
    "steps = %MACRO",
    "steps = %gin.REQUIRED",
    "rate = 1",
    "seed = None",
    "lengths = {'inputs': 8}",
    "names = ['a']",
    "names = ('a',)",
    "mode = 'b'",
    "pairs = (('a', None),)",
    "fn = @train_script.train",
    "model = @train_script.Model()",
    "dtype = 'bfloat16'",
    "anything = 'x'",
    "shuffle = True",
    "unknown = 1",
  ],
)
def test_right_values(binding):
  check(binding)


@pytest.mark.parametrize(
  ("binding", "message"),
  [
    ("steps = '20'", r"train.steps='20': expected int. Numbers and"),
    ("steps = 2.5", r"train.steps=2.5: expected int\.$"),
    ("steps = True", "expected int"),
    ("rate = '0.3'", "expected float"),
    ("seed = 'abc'", "expected int or None"),
    ("lengths = {'inputs': '64'}", r"expected Mapping\[str, int\] or None"),
    ("lengths = [64]", r"expected Mapping\[str, int\] or None"),
    ("names = 'abc'", r"expected Sequence\[str\]"),
    ("mode = 'c'", "expected 'a' or 'b'"),
    ("pairs = (('a',),)", "expected Sequence"),
    ("fn = 'f'", "expected an @reference to a function or None"),
    ("model = 'mini_s'", "expected an @reference to Model"),
    ("shuffle = 1", "expected bool"),
  ],
)
def test_wrong_values(binding, message):
  with pytest.raises(ValueError, match=message):
    check(binding)


def test_macro_is_named_once():
  text = (
    "import __main__ as train_script\nSTEPS = 'x'\n"
    "train_script.train:\n  steps = %STEPS\n  rate = %STEPS\n"
  )
  read = gin_resolution.Bindings(bindings=[text])
  with pytest.raises(ValueError, match="STEPS='x'") as error:
    gin_values.check(gin_resolution.resolve(read, "train"), train)
  assert str(error.value).count("STEPS='x'") == 1
