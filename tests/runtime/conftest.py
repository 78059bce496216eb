"""A run of the base model that is over, for all tests of the room."""

import shutil

import pytest
import tiny


@pytest.fixture(scope="session")
def run(tmp_path_factory, base):
  """Not to be changed: `copy` is."""
  folder = tmp_path_factory.mktemp("run")
  # Of another run, on an earlier base, which was killed before it saved a step.
  (folder / "metrics.jsonl").write_text('{"step": 1}\n')
  assert tiny.train_prompt(folder, base).status == "finished"
  return folder


@pytest.fixture
def copy(run, tmp_path):
  return shutil.copytree(run, tmp_path / "copy")
