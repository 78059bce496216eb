"""Runs whose folder was damaged while they were stopped: nothing is lost."""

import json
import os
import shutil

from damages import DAMAGES
import numpy as np
import pytest
import tiny

from prompt_tuning import prompt_files
from t5x import checkpoints
from t5x.files import run_lock

LAST_STEP = tiny.BASE_STEP + 6


def _train(folder, base):
  return tiny.train(
    folder, base, actions={"INFER_EVAL": [tiny.save_best_prompt(folder)]}
  )


def _go_on(copy, base, run):
  """Trains, and compares what counts of the two runs."""
  _train(copy, base)
  found, expected = (
    prompt_files.load_prompt(folder / "prompt.safetensors")
    for folder in (copy, run)
  )
  np.testing.assert_array_equal(found[0], expected[0])
  assert found[1] == expected[1]
  for name in ("status", "evals", "best", "steps"):
    assert tiny.record(copy)[name] == tiny.record(run)[name]


def _lines(folder, kind=""):
  lines = (folder / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines if kind in line]


@pytest.mark.parametrize(
  "damage",
  [
    pytest.param(x, marks=[] if x == "cut off" else pytest.mark.slow)
    for x in DAMAGES
  ],
)
def test_best_prompt_is_written_again(run, base, copy, damage, caplog):
  """Also where the run is over, and nothing else is to do."""
  DAMAGES[damage](copy / "prompt.safetensors")
  _go_on(copy, base, run)
  assert "It is written again from checkpoint_" in caplog.text


def test_prompt_that_is_nowhere_any_more_is_an_error(run, base, copy):
  best = tiny.record(run)["best"]["step"]
  (copy / "prompt.safetensors").unlink()
  shutil.rmtree(copy / f"checkpoint_{best}")
  if best == LAST_STEP:
    # The run goes on from the one before, and finds it again.
    _go_on(copy, base, run)
    return
  with pytest.raises(ValueError, match=r"safetensors is missing, and checkpoi"):
    _train(copy, base)


def test_damaged_newest_checkpoint_changes_no_result(run, base, copy, caplog):
  state = copy / f"checkpoint_{LAST_STEP}" / "state"
  files = [path for path in state.rglob("*") if path.is_file()]
  DAMAGES["a bit flipped"](max(files, key=lambda path: path.stat().st_size))
  with pytest.raises(ValueError, match="checkpoint_13 is damaged: the"):
    checkpoints.open_checkpoint(str(copy))
  _go_on(copy, base, run)
  assert f"checkpoint_{LAST_STEP} is damaged" in caplog.text
  assert (copy / f"checkpoint_{LAST_STEP}.damaged").is_dir()
  assert (copy / f"checkpoint_{LAST_STEP}").is_dir()
  steps = [[x["step"] for x in _lines(folder)] for folder in (copy, run)]
  assert steps[0] == steps[1]


@pytest.mark.slow
@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000])
def test_garbled_files_are_kept_aside_and_made_anew(
  run, base, copy, content, caplog
):
  """The record, and metrics, to which evaluations are added."""
  (copy / "record.json").write_text(content)
  (copy / "metrics.jsonl").write_text("\0\0\0\n7\n{\n")
  _go_on(copy, base, run)
  assert (copy / "record.json.damaged").read_text() == content
  assert "record.json is damaged" in caplog.text
  assert "metrics.jsonl is damaged (line 1" in caplog.text
  assert (copy / "metrics.jsonl.damaged").exists()
  kind = "inference_eval"
  assert _lines(copy, kind) == _lines(run, kind) != []


def test_second_run_in_a_folder_is_refused(run, base, copy, monkeypatch):
  monkeypatch.setattr(run_lock, "HEARTBEAT_SECONDS", 0.2)
  before = sorted(os.listdir(copy))
  with (
    run_lock.RunLock(str(copy), "MODEL_DIR"),
    pytest.raises(ValueError, match="in use by another run: process"),
  ):
    _train(copy, base)
  assert sorted(os.listdir(copy)) == before
