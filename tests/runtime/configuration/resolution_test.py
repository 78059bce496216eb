"""Tests of reading gin files and of resolving settings, however written."""

import pytest

from t5x.configuration import reading, resolution

FILE = """
from __gin__ import dynamic_registration
import __main__ as train_script
from t5x import utils
from mine.nets import network

RATE = 0.3
LENGTHS = {"inputs": 64, "targets": 8}
MODEL = @network.Model()

train_script.train:
  model = %MODEL
  train_dataset_cfg = @train/utils.DatasetConfig()
  rate_fn = @utils.schedule()
utils.schedule.rate = %RATE
utils.DatasetConfig:
  lengths = %LENGTHS
  shuffle = False
train/utils.DatasetConfig.shuffle = True
network.Model.predict.beams = 4
network.Unused.size = 3
"""
SETTINGS = {
  "mine.Model.predict.beams": "4",
  "t5x.schedule.rate": "0.3",
  "train.model": "@mine.Model()",
  "train.rate_fn": "@t5x.schedule()",
  "train.train_dataset_cfg": "@train/t5x.DatasetConfig()",
  "train/t5x.DatasetConfig.lengths": "{'inputs': 64, 'targets': 8}",
  "train/t5x.DatasetConfig.shuffle": "True",
}


def settings(text, *bindings):
  read = resolution.Bindings(texts=[text, *bindings])
  return {x.name: x.text for x in resolution.resolve(read, "train")}


@pytest.mark.parametrize(
  "replaced",
  [
    {},
    {"RATE": "STEP_SIZE"},
    {
      "import utils": "import utils as tools",
      "utils.DatasetConfig": "tools.DatasetConfig",
      "utils.schedule": "tools.schedule",
    },
    {"mine.nets": "mine.networks"},
    {'{"inputs": 64, "targets": 8}': "{'targets': 8, 'inputs': 64}"},
    {"size = 3": "size = 4"},  # The program does not use it.
    {"rate = %RATE": "rate = 3e-1"},
  ],
)
def test_macros_imports_scopes_and_methods_in_any_words(replaced):
  text = FILE
  for old, new in replaced.items():
    assert old in text
    text = text.replace(old, new)
  assert settings(text) == SETTINGS


@pytest.mark.parametrize(
  ("binding", "name", "value"),
  [
    ("RATE = 7", "t5x.schedule.rate", "7"),
    ("RATE = %RATE", "t5x.schedule.rate", "%RATE"),  # It refers to itself.
    ("utils.schedule.rate = 2", "t5x.schedule.rate", "2"),
    ("network.Model.predict.beams = 1", "mine.Model.predict.beams", "1"),
  ],
)
def test_bindings_win_and_need_no_imports(binding, name, value):
  assert settings(FILE, binding) == SETTINGS | {name: value}
  # A binding may set a parameter that no file sets.
  without = "\n".join(x for x in FILE.splitlines() if ".rate" not in x)
  assert settings(without, "utils.schedule.rate = 0.3") == SETTINGS


def test_other_values_are_seen():
  found = settings(FILE.replace("shuffle = True", "seed = 1"))
  assert found["train/t5x.DatasetConfig.shuffle"] == "False"
  found = settings(FILE.replace("mine.nets", "other.nets"))
  assert found["train.model"] == "@other.Model()"
  # No binding configures the program.
  assert settings("SEED = 1", "SEED = 2") == {"SEED": "2"}


def test_two_of_one_name_are_told_apart():
  text = FILE + "\nfrom mine.other import network as other\n"
  text += "train_script.train.second = @other.Model()\nother.Model.size = 9\n"
  resolved = settings(text)
  assert resolved["train.second"] == "@mine.other.network.Model()"
  assert resolved["mine.other.network.Model.size"] == "9"
  assert "mine.Model.size" not in resolved


def test_macros_have_values_and_comments(tmp_path):
  (tmp_path / "inner.gin").write_text("# How long.\nLENGTH = 1\nD = 2\n")
  (tmp_path / "mine.gin").write_text(
    "# Of the file.\n\n"
    'include "inner.gin"\n'
    "LENGTH = 100\n"
    'SPLITS = ["train",\n          "test"]\n'
    "# Must be given,\n# always.\n"
    "A = %gin.REQUIRED  # unlike %B\n"
    "  # as %C was before\n"
    'x.y = {"#": [%E]}\n'
  )
  read = resolution.Bindings(["mine.gin"], paths=[str(tmp_path)])
  assert {name: (x.text, x.comment) for name, x in read.macros.items()} == {
    "LENGTH": ("100", "How long."),
    "D": ("2", ""),
    "SPLITS": ("['train', 'test']", ""),
    "A": (reading.REQUIRED, "Must be given, always."),
  }
  assert read.lacking == {"A", "E"}
  assert read.files == ["mine.gin", "inner.gin"]
