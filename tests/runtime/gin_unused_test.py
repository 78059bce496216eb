"""Which bindings change nothing, and what is said of them."""

from absl import logging
import pytest

from t5x.configuration import gin_resolution, gin_unused

FILE = """
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


def check(monkeypatch, binding):
  """Returns the warnings."""
  said = []
  monkeypatch.setattr(logging, "warning", lambda text, x: said.append(text % x))
  read = gin_resolution.Bindings(bindings=[FILE, binding])
  gin_unused.check(read, "train", ["RATE = 1", binding])
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
    check(monkeypatch, binding)
  assert binding.partition(" =")[0] in str(error.value)


@pytest.mark.parametrize(
  "binding",
  [
    "network.Unused.size = 1",
    "train/network.Unused.size = 1",
    "trian/nobody.Knows.it = 1",
    "trian/RATE = 1",
    "UNUSED = 2",
  ],
)
def test_others_that_change_nothing_are_warned_of(monkeypatch, binding):
  [said] = check(monkeypatch, binding)
  assert said.startswith(f"Nothing uses {binding.partition(' =')[0]} here")


@pytest.mark.parametrize(
  "binding",
  [
    "train/utils.DatasetConfig.seed = 1",
    "utils.DatasetConfig.shuffle = False",
    "RATE = 0.3",
    "import mine",
  ],
)
def test_nothing_is_said_of_what_is_used(monkeypatch, binding):
  assert check(monkeypatch, binding) == []
