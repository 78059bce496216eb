"""Fixtures of this folder: a finished run, and a connection to a bucket."""

import shutil

import pytest
import tiny


@pytest.fixture(scope="session")
def run(tmp_path_factory, base):
  """The folder of a finished run; a test that changes it takes `copy`."""
  folder = tmp_path_factory.mktemp("run")
  # A run on an earlier base was killed before it saved a step, and left this.
  (folder / "metrics.jsonl").write_text('{"step": 1}\n')
  assert tiny.train_prompt(folder, base).status == "finished"
  return folder


@pytest.fixture
def copy(run, tmp_path):
  return shutil.copytree(run, tmp_path / "copy")


@pytest.fixture(scope="module")
def line():
  import bucket  # This needs an extra.

  with bucket.in_place_of_googles() as line:
    yield line
