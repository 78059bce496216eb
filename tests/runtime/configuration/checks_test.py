"""Missing values, bindings without effect and values of the wrong type."""

from collections.abc import Callable, Mapping, Sequence
import re
from typing import Any, Literal

from absl import logging
import jax.numpy as jnp
import pytest

import prompt_tuning
from t5x.configuration import checks, resolution

PATHS = [prompt_tuning.gin_search_path()]
MODEL = "gin/models/ladder_s.gin"


@pytest.mark.parametrize(
  ("gin_files", "message"),
  [
    (["gin/runs/eval.gin"], r"gin/models gives .*MODEL.* one of .*t5_small_lo"),
    ([MODEL, "gin/runs/train.gin"], "gin/methods gives .*OPTIMIZER"),
    (
      [MODEL, "gin/recipes/lora.gin"],
      r"^The gin files require MODEL_DIR\. .*--gin\.MODEL_DIR=",
    ),
  ],
)
def test_missing_values_are_named_with_a_remedy(gin_files, message):
  read = resolution.Bindings(gin_files, paths=PATHS)
  with pytest.raises(ValueError, match=message):
    checks.check_complete(read, PATHS, ["TASK"])


CONFIGURATION = """
from __gin__ import dynamic_registration
import __main__ as train_script
from t5x import utils
from mine.nets import network

RATE = 0.3
UNUSED = 1

train_script.train:
  train_dataset_cfg = @train/utils.DatasetConfig()
  rate_fn = @utils.schedule()
utils.schedule.rate = %RATE
utils.DatasetConfig.shuffle = False
train/utils.DatasetConfig.seed = 3
network.Unused.size = 3
"""


NO_EFFECT = "Nothing uses .* here: binding it has no effect"


@pytest.mark.parametrize(
  ("binding", "message"),
  [
    # A scope that nothing uses is an error.
    ("trian/utils.DatasetConfig.seed = 1", "Did you mean train"),
    ("other/utils.DatasetConfig.seed = 1", "Did you mean train"),
    ("train/utils.schedule.rate = 1", r"would change nothing\.$"),
    ("trian/network.Unused.size = 1", "Did you mean train"),
    # Other bindings without effect get a warning.
    ("network.Unused.size = 1", NO_EFFECT),
    ("train/network.Unused.size = 1", NO_EFFECT),
    ("trian/nobody.Knows.it = 1", NO_EFFECT),
    ("trian/RATE = 1", NO_EFFECT),
    ("UNUSED = 2", NO_EFFECT),
    ("train/utils.DatasetConfig.seed = 1", None),
    ("utils.DatasetConfig.shuffle = False", None),
    ("RATE = 0.3", None),
    ("import mine", None),
  ],
)
def test_bindings_have_an_effect(monkeypatch, binding, message):
  said = []
  monkeypatch.setattr(logging, "warning", lambda text, x: said.append(text % x))
  read = resolution.Bindings(texts=[CONFIGURATION, binding])
  try:
    checks.check_used(read, "train", ["RATE = 1", binding])
    assert bool(said) == (message is NO_EFFECT)
  except ValueError as error:
    assert message is not NO_EFFECT
    said.append(str(error))
  assert (message is None) == (not said)
  for text in said:
    assert re.search(message, text)
    assert binding.partition(" =")[0] in text


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


@pytest.mark.parametrize(
  ("binding", "message"),
  [
    ("steps = 3", None),
    ("steps = %MACRO", None),
    ("steps = '20'", r"train.steps='20': expected int. Numbers and"),
    ("steps = 2.5", r"train.steps=2.5: expected int\.$"),
    ("steps = True", "expected int"),
    ("rate = 1", None),
    ("seed = None", None),
    ("seed = 'abc'", r"expected int \| None"),
    ("lengths = {'inputs': 8}", None),
    ("lengths = {'inputs': '64'}", r"expected Mapping\[str, int\] \| None"),
    ("lengths = [64]", r"expected Mapping\[str, int\] \| None"),
    ("names = ['a']", None),
    ("names = 'abc'", r"expected Sequence\[str\]"),
    ("mode = 'b'", None),
    ("mode = 'c'", r"expected Literal\['a', 'b'\]"),
    ("pairs = (('a', None),)", None),
    ("pairs = (('a',),)", "expected Sequence"),
    ("fn = @train_script.train", None),
    ("fn = 'f'", r"expected Callable\[\.\.\., None\] \| None"),
    ("model = @train_script.Model()", None),
    ("model = 'mini_s'", "expected Model. Numbers and @ref"),
    ("dtype = 'bfloat16'", None),
    ("anything = 'x'", None),
    ("shuffle = True", None),
    ("shuffle = 1", "expected bool"),
    ("unknown = 1", None),
  ],
)
def test_values_have_the_types_of_annotations(binding, message):
  text = (
    "from __gin__ import dynamic_registration\n"
    "import __main__ as train_script\n"
    "MACRO = 7\n"
    f"train_script.train.{binding}\n"
  )
  settings = resolution.resolve(resolution.Bindings(texts=[text]), "train")
  if message is None:
    checks.check_types(settings, train)
  else:
    with pytest.raises(ValueError, match=message):
      checks.check_types(settings, train)


def test_macro_is_named_once():
  text = (
    "import __main__ as train_script\nSTEPS = 'x'\n"
    "train_script.train:\n  steps = %STEPS\n  rate = %STEPS\n"
  )
  read = resolution.Bindings(texts=[text])
  with pytest.raises(ValueError, match="STEPS='x'") as error:
    checks.check_types(resolution.resolve(read, "train"), train)
  assert str(error.value).count("STEPS='x'") == 1
