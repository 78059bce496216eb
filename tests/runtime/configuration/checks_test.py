"""Tests of bindings without effect and values of the wrong type.

`mistakes.toml` covers missing values, and wrong values in commands.
"""

from collections.abc import Callable, Mapping, Sequence
import re
import shutil
import sys
from typing import Annotated, Any, Literal

import jax.numpy as jnp
from pydantic import Field, PositiveInt
import pytest

from t5x.configuration import checks, reading, resolution

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


NO_EFFECT = "a warning"


@pytest.mark.parametrize(
  ("binding", "message"),
  [
    # A scope that nothing uses is an error.
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
def test_bindings_have_an_effect(binding, message):
  read = resolution.Bindings(texts=[CONFIGURATION, binding])
  found = list(checks.without_effect(read, "train", ["RATE = 1", binding]))
  assert (message is None) == (not found)
  for label, problem in found:
    assert label == binding.partition(" =")[0]
    assert (problem is None) == (message is NO_EFFECT)
    if problem is not None:
      assert re.search(message, problem)
      assert label in problem


@pytest.fixture
def source(tmp_path, monkeypatch):
  """The name of a copy of this module that must not be imported."""
  shutil.copy(__file__, tmp_path / "never_imported.py")
  monkeypatch.syspath_prepend(str(tmp_path))
  yield "never_imported"
  assert "never_imported" not in sys.modules


class Model:
  pass


def train(
  model: Model,
  steps: PositiveInt,
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
  share: Annotated[float, Field(ge=0, lt=1)] = 0.0,
):
  """A program."""


@pytest.mark.parametrize(
  ("binding", "message"),
  [
    ("steps = 3", None),
    ("steps = %MACRO", None),
    ("steps = '20'", r"train.steps='20': expected int above 0. Numbers and"),
    ("steps = 2.5", r"train.steps=2.5: expected int above 0\.$"),
    ("share = 0.0", None),
    ("rate = 1", None),
    ("seed = None", None),
    ("lengths = {'inputs': 8}", None),
    ("lengths = {'inputs': '64'}", r"expected Mapping\[str, int\] \| None"),
    ("names = ['a']", None),
    ("mode = 'b'", None),
    ("pairs = (('a', None),)", None),
    ("pairs = (('a',),)", "expected Sequence"),
    ("fn = @train_script.train", None),
    ("fn = 'f'", r"expected Callable\[\.\.\., None\] \| None"),
    ("model = @train_script.Model()", None),
    ("dtype = 'bfloat16'", None),
    ("anything = 'x'", None),
    ("shuffle = True", None),
  ],
)
def test_values_have_the_types_of_annotations(source, binding, message):
  text = (
    "from __gin__ import dynamic_registration\n"
    "import __main__ as train_script\n"
    "MACRO = 7\n"
    f"train_script.train.{binding}\n"
  )
  settings = resolution.resolve(resolution.Bindings(texts=[text]), "train")
  found = list(checks.wrong_values(settings, source))
  assert len(found) == (message is not None)
  if found:
    assert re.search(message, found[0])


def test_macro_is_named_once(source):
  text = (
    "import __main__ as train_script\nSTEPS = 'x'\n"
    "train_script.train:\n  steps = %STEPS\n  rate = %STEPS\n"
  )
  read = resolution.Bindings(texts=[text])
  (found,) = checks.wrong_values(resolution.resolve(read, "train"), source)
  assert found.startswith("STEPS='x' (train.")


@pytest.mark.parametrize(
  ("name", "remedy"),
  [
    ("prompts.random_uniform", "add --gin_file=gin/prompts/random_uniform.gin"),
    ("prompts.random_unifrom", "Did you mean prompts.random_uniform or "),
    ("mean.around", "can bind only functions that its gin files use"),
  ],
)
def test_a_function_that_no_file_of_the_command_uses_has_a_remedy(name, remedy):
  error = f"No configurable matching '{name}'. In bindings string line 4"
  assert remedy in checks.unregistered(error, reading.search_paths())
