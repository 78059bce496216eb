"""Missing values, bindings without effect and values of the wrong type."""

from collections.abc import Callable, Mapping, Sequence
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
    # There is a model's file, which leaves the path to the user.
    (
      ["gin/models/t5_1_1_xxl.gin", "gin/recipes/lora.gin"],
      "^The gin files require INITIAL_CHECKPOINT_PATH",
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


def warnings(monkeypatch, binding):
  """Returns the warnings about a binding."""
  said = []
  monkeypatch.setattr(logging, "warning", lambda text, x: said.append(text % x))
  read = resolution.Bindings(texts=[CONFIGURATION, binding])
  checks.check_used(read, "train", ["RATE = 1", binding])
  return said


@pytest.mark.parametrize(
  ("binding", "near"),
  [
    ("trian/utils.DatasetConfig.seed = 1", "Did you mean train"),
    ("other/utils.DatasetConfig.seed = 1", "Did you mean train"),
    ("train/utils.schedule.rate = 1", r"would change nothing\.$"),
    ("trian/network.Unused.size = 1", "Did you mean train"),
  ],
)
def test_scope_that_nothing_uses_is_refused(monkeypatch, binding, near):
  with pytest.raises(ValueError, match=near) as error:
    warnings(monkeypatch, binding)
  assert binding.partition(" =")[0] in str(error.value)


@pytest.mark.parametrize(
  ("binding", "is_used"),
  [
    ("network.Unused.size = 1", False),
    ("train/network.Unused.size = 1", False),
    ("trian/nobody.Knows.it = 1", False),
    ("trian/RATE = 1", False),
    ("UNUSED = 2", False),
    ("train/utils.DatasetConfig.seed = 1", True),
    ("utils.DatasetConfig.shuffle = False", True),
    ("RATE = 0.3", True),
    ("import mine", True),
  ],
)
def test_bindings_without_effect_get_a_warning(monkeypatch, binding, is_used):
  name = binding.partition(" =")[0]
  expected = f"Nothing uses {name} here: binding it has no effect."
  assert warnings(monkeypatch, binding) == ([] if is_used else [expected])


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
  read = resolution.Bindings(texts=[text])
  checks.check_types(resolution.resolve(read, "train"), train)


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
    ("seed = 'abc'", r"expected int \| None"),
    ("lengths = {'inputs': '64'}", r"expected Mapping\[str, int\] \| None"),
    ("lengths = [64]", r"expected Mapping\[str, int\] \| None"),
    ("names = 'abc'", r"expected Sequence\[str\]"),
    ("mode = 'c'", r"expected Literal\['a', 'b'\]"),
    ("pairs = (('a',),)", "expected Sequence"),
    ("fn = 'f'", r"expected Callable\[\.\.\., None\] \| None"),
    ("model = 'mini_s'", "expected Model. Numbers and @ref"),
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
  read = resolution.Bindings(texts=[text])
  with pytest.raises(ValueError, match="STEPS='x'") as error:
    checks.check_types(resolution.resolve(read, "train"), train)
  assert str(error.value).count("STEPS='x'") == 1
