"""Tests of commands whose folder has an earlier run."""

import json

from documented import ROOT
import pytest

from t5x.configuration import identity, reading, resolution
from t5x.runs import preflight

FILES = ["gin/models/ladder_xs.gin", "gin/recipes/prompt_tuning.gin"]
BINDINGS = [
  "TASK = 'ladder_cb'",
  "MODEL_DIR = 'run'",
  "TRAIN_STEPS_RELATIVE = 4",
  "EVAL_PERIOD = 4",
]


def _words(files, bindings):
  return [
    *(f"--gin_file={x}" for x in files),
    *(f"--gin_bindings={x}" for x in bindings),
  ]


def _problems(files=FILES, bindings=BINDINGS):
  return list(preflight.problems("train", _words(files, bindings)))


@pytest.fixture
def run(tmp_path, monkeypatch):
  """The folder of a run that has saved a step."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")
  folder = tmp_path / "run"
  (folder / "checkpoint_4").mkdir(parents=True)
  read = resolution.Bindings(FILES, BINDINGS, reading.search_paths())
  before = identity.RunConfiguration.from_bindings("train", read)
  (folder / identity.FILE).write_text(identity.dump(before, []))
  command = ["python", "-m", "t5x.train", *_words(FILES, BINDINGS)]
  record = {"kind": "train", "command": command}
  (folder / "record.json").write_text(json.dumps(record))
  return folder


def test_same_run_may_resume(run):
  assert _problems() == []
  assert _problems(bindings=[*BINDINGS, "TRAIN_STEPS_RELATIVE = 8"]) == []


def test_other_files_are_named_and_no_internals(run):
  (problem,) = _problems([FILES[0], "gin/recipes/lora.gin"])
  assert problem == (
    "MODEL_DIR='run' has a run with gin/models/ladder_xs.gin, "
    "gin/recipes/prompt_tuning.gin; this command names "
    "gin/models/ladder_xs.gin, gin/recipes/lora.gin. Choose another folder."
  )


def test_other_settings_of_the_same_files_are_named(run):
  (problem,) = _problems(bindings=[*BINDINGS, "LEARNING_RATE = 0.1"])
  assert "LEARNING_RATE (" in problem
  assert "0.3 -> 0.1" in problem


def test_run_without_steps_and_damaged_records_hinder_nobody(run):
  for content in ("", "[]", "{", '{"kind": "train"}'):
    (run / "record.json").write_text(content)
    assert _problems() == []
  (run / "checkpoint_4").rename(run / "checkpoint_4.orbax-checkpoint-tmp-1")
  assert _problems([FILES[0], "gin/recipes/lora.gin"]) == []


def test_long_differences_are_cut(run):
  names = [identity.Difference(f"x{i}", "1", "2") for i in range(99)]
  shown = identity.describe([*names, identity.Difference("y", "1", "2", "Y")])
  assert shown.startswith("Y (y): 1 -> 2; x0: ")
  assert shown.endswith("; and 92 more")
