"""For the tests of the room: a run that is over, and the way to a bucket."""

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


@pytest.fixture(scope="module")
def line():
  import bucket  # It needs an extra.

  with bucket.in_place_of_googles() as line:
    yield line
