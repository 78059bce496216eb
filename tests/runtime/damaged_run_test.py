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

pytestmark = pytest.mark.slow

LAST_STEP = tiny.BASE_STEP + 6


def _train(folder, base):
  return tiny.train(
    folder, base, actions={"INFER_EVAL": [tiny.save_best_prompt(folder)]}
  )


def _assert_same(copy, run):
  """What counts of a run is the same."""
  found, expected = (
    prompt_files.load_prompt(folder / "prompt.safetensors")
    for folder in (copy, run)
  )
  np.testing.assert_array_equal(found[0], expected[0])
  assert found[1] == expected[1]
  records = [
    json.loads((folder / "record.json").read_text()) for folder in (copy, run)
  ]
  for name in ("status", "evals", "best", "steps"):
    assert records[0][name] == records[1][name]


def _steps(path):
  return [json.loads(line)["step"] for line in path.read_text().splitlines()]


@pytest.mark.parametrize("damage", DAMAGES)
def test_best_prompt_is_written_again(run, base, copy, damage, caplog):
  """Also where the run is over, and nothing else is to do."""
  DAMAGES[damage](copy / "prompt.safetensors")
  _train(copy, base)
  _assert_same(copy, run)
  assert "It is written again from checkpoint_" in caplog.text


def test_prompt_that_is_nowhere_any_more_is_an_error(run, base, copy):
  best = json.loads((run / "record.json").read_text())["best"]["step"]
  (copy / "prompt.safetensors").unlink()
  shutil.rmtree(copy / f"checkpoint_{best}")
  if best == LAST_STEP:
    # The run goes on from the one before, and finds it again.
    _train(copy, base)
    _assert_same(copy, run)
    return
  with pytest.raises(ValueError, match=r"safetensors is missing, and checkpoi"):
    _train(copy, base)


def test_damaged_newest_checkpoint_changes_no_result(run, base, copy, caplog):
  state = copy / f"checkpoint_{LAST_STEP}" / "state"
  files = [path for path in state.rglob("*") if path.is_file()]
  DAMAGES["a bit flipped"](max(files, key=lambda path: path.stat().st_size))
  with pytest.raises(ValueError, match="checkpoint_13 is damaged: the"):
    checkpoints.open_checkpoint(str(copy))
  _train(copy, base)
  _assert_same(copy, run)
  assert f"checkpoint_{LAST_STEP} is damaged" in caplog.text
  assert (copy / f"checkpoint_{LAST_STEP}.damaged").is_dir()
  assert (copy / f"checkpoint_{LAST_STEP}").is_dir()
  assert _steps(copy / "metrics.jsonl") == _steps(run / "metrics.jsonl")


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000])
def test_garbled_record_is_kept_aside_and_made_anew(
  run, base, copy, content, caplog
):
  (copy / "record.json").write_text(content)
  _train(copy, base)
  _assert_same(copy, run)
  assert (copy / "record.json.damaged").read_text() == content
  assert "record.json is damaged" in caplog.text


def test_garbled_metrics_are_kept_aside_and_evaluations_added(
  run, base, copy, caplog
):
  # Of a run that was killed before its record said that it was over.
  record = json.loads((copy / "record.json").read_text())
  (copy / "record.json").write_text(json.dumps(record | {"status": "running"}))
  (copy / "metrics.jsonl").write_text("\0\0\0\n7\n{\n")
  _train(copy, base)
  assert "metrics.jsonl is damaged (line 1" in caplog.text
  assert (copy / "metrics.jsonl.damaged").exists()
  assert [
    line
    for line in (copy / "metrics.jsonl").read_text().splitlines()
    if "inference_eval" in line
  ] == [
    line
    for line in (run / "metrics.jsonl").read_text().splitlines()
    if "inference_eval" in line
  ]


def test_second_run_in_a_folder_is_refused(run, base, copy, monkeypatch):
  monkeypatch.setattr(run_lock, "HEARTBEAT_SECONDS", 0.2)
  before = sorted(os.listdir(copy))
  with (
    run_lock.RunLock(str(copy), "MODEL_DIR"),
    pytest.raises(ValueError, match="in use by another run: process"),
  ):
    _train(copy, base)
  assert sorted(os.listdir(copy)) == before
