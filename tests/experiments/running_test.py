"""Tests of a cell's run: its end and its stored record."""

from concurrent import futures
import dataclasses
import json
import signal
import subprocess
import sys

import counting
import numpy as np
import pytest

from prompt_tuning import prompt_files
from prompt_tuning.experiments import launching, running


@pytest.fixture
def place(tmp_path):
  return counting.place(tmp_path)


def _starts(place, cell):
  return (place.folder(cell) / "starts").read_text().split()


def test_run_of_other_settings_and_unreadable_record_are_set_aside(place):
  cell, *_ = counting.cells(place)
  running.run_cell(cell, place)
  cell, *_ = counting.edit(place, "SLEEP = 0.0", "SLEEP = 0")
  running.run_cell(cell, place)
  assert _starts(place, cell) == ["0"]
  assert (place.root / "runs" / "x" / "cb-seed0.old0" / "steps").exists()
  place.record(cell).unlink()
  (place.folder(cell) / "record.json").write_text('{"schema": 1')
  assert running.run_cell(cell, place).status == "finished"
  aside = place.root / "runs" / "x" / "cb-seed0.old1" / "record.json"
  assert aside.read_text() == '{"schema": 1'


def test_prompt_is_filed_beside_its_record_where_the_sheet_says_so(place):
  """The filed prompt, like a record, does not name this machine's folder."""
  array, base = np.ones((2, 3), np.float32), f"{place.root}/checkpoints/base"
  header = prompt_files.PromptMetadata("ab", "cd", base_model=base)
  for seed, keeps in enumerate(("", "keeps_prompt = true\n")):
    cell = counting.edit(place, "gin_files", f"{keeps}gin_files")[seed]
    place.folder(cell).mkdir(parents=True)
    left = place.folder(cell) / "prompt.safetensors"
    prompt_files.save_prompt(left, array, header)
    running.run_cell(cell, place)
  (filed,) = place.results.rglob("*.safetensors")
  assert filed.name == "cb-seed1.safetensors"
  found, read = prompt_files.load_prompt(filed)
  np.testing.assert_array_equal(found, array)
  assert read == dataclasses.replace(header, base_model="checkpoints/base")


@pytest.mark.parametrize(
  ("fail", "error", "seconds"),
  [
    ("11", "killed by signal 11: Error in step 1", 1.0),
    ("9", "killed by signal 9 (out of memory?): Error in step 1", 1.0),
    ("nan", "cb/accuracy is nan", 0.0),
    ("silent", "exit status 0", 1.0),
  ],
)
def test_run_that_does_not_say_how_it_ended_has_failed(
  tmp_path, fail, error, seconds
):
  """A record that the run itself wrote is kept, if it can be read."""
  place = counting.place(tmp_path, fail=fail)
  cell = counting.cells(place)[1]
  place.folder(cell).mkdir(parents=True)
  (place.folder(cell) / "log.txt").write_text("Error: of an earlier attempt\n")
  outcome = running.run_cell(cell, place)
  assert outcome.status == "failed"
  assert error in outcome.error
  record = counting.filed(place)[cell.name]
  assert error in record["error"]
  assert record["seconds"] == seconds


@pytest.mark.parametrize("status", ["running", "interrupted", "failed"])
def test_attempt_that_wrote_no_record_fails_with_what_was_known(place, status):
  """The record keeps the evaluations and the time of the previous attempt."""
  cell = counting.cells(place)[1]
  assert running.run_cell(cell, place).score == 51.0
  left = place.folder(cell) / "record.json"
  known = json.loads(left.read_text()) | {"status": status, "seconds": 7.0}
  known["error"] = "no" if status == "failed" else None
  place.record(cell).unlink()
  cell = counting.edit(place, 'FAIL = ""', 'FAIL = "parse"')[1]
  known["configuration"] = place.archive().configuration(cell).to_json()
  left.write_text(json.dumps(known))
  outcome = running.run_cell(cell, place)
  assert (outcome.status, outcome.error) == ("failed", "SEED must not be 1.")
  record = counting.filed(place)[cell.name]
  assert record["evals"] == known["evals"]
  assert record["seconds"] == 7.0


def test_second_launcher_leaves_what_the_first_has_filed(tmp_path):
  place = counting.place(tmp_path, fail="loss")
  cell = counting.cells(place)[1]
  for _ in range(2):
    assert running.run_cell(cell, place).status == "failed"
  assert len(_starts(place, cell)) == 1
  # The cell runs again if the launcher means to replace that record.
  running.run_cell(cell, place, place.archive().record(cell))
  assert len(_starts(place, cell)) == 2


def test_one_kind_of_run_is_in_one_folder_at_a_time(tmp_path):
  place = counting.place(tmp_path, sleep=0.05)
  sheet = place.root / "configs" / "x.toml"
  sheet.with_name("y.toml").write_text(sheet.read_text())
  cells = [counting.cells(place, sheet)[0] for sheet in "xy"]
  with futures.ThreadPoolExecutor() as pool:
    list(pool.map(running.run_cell, cells, [place] * 2))
  assert len(list(tmp_path.glob("runs/?/*/starts"))) == 1


def test_failure_does_not_take_the_place_of_results(place):
  running.run_cell(counting.cells(place)[1], place)
  good = counting.filed(place)
  cell = counting.edit(place, 'FAIL = ""', 'FAIL = "loss"')[1]
  assert running.run_cell(cell, place).status == "failed"
  filed = counting.filed(place)
  assert "the loss is nan" in filed.pop("cb-seed1.failed")["error"]
  assert filed == good
  # The failed run is tried again on request; results replace its record.
  archive = place.archive()
  assert launching.open_cells([cell], archive) == []
  assert launching.open_cells([cell], archive, retry_failed=True) == [cell]
  cell = counting.edit(place, 'FAIL = "loss"', 'FAIL = "none"')[1]
  assert running.run_cell(cell, place).counts
  assert list(counting.filed(place)) == ["cb-seed1"]


def test_prompt_of_a_failed_run_is_neither_filed_nor_read(tmp_path):
  place = counting.place(tmp_path, fail="loss")
  keeps = "keeps_prompt = true\ngin_files"
  cell = counting.edit(place, "gin_files", keeps)[1]
  kept = place.record(cell).with_suffix(".safetensors")
  for path in (place.folder(cell) / "prompt.safetensors", kept):
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half learned, or of an older run")
  assert running.run_cell(cell, place).status == "failed"
  assert not kept.exists()
  read = "runs/x/*/prompt.safetensors"
  cell, *_ = counting.edit(place, "SEED =", f'PROMPT_FILE = "{read}", SEED =')
  outcome = running.run_cell(cell, place)
  assert f"it needs {read}" in outcome.error


def test_cell_without_the_prompts_it_begins_with_has_no_record(place):
  files = 'PROMPT_FILES = "results/*/cb-seed[0-4].safetensors", NUM_PROMPTS = 2'
  cell, *_ = counting.edit(place, "SEED =", f"{files}, SEED =")
  (place.results / "y").mkdir(parents=True)
  for i in range(2):
    outcome = running.run_cell(cell, place)
    assert outcome.status == "failed"
    needed = "2 of results/*/cb-seed[0-4].safetensors"
    assert f"it needs {needed}, got {i}" in outcome.error
    assert not counting.filed(place)
    (place.results / "y" / f"cb-seed{i}.safetensors").write_bytes(b"")
  assert running.run_cell(cell, place).status == "finished"


def test_record_names_no_folder_of_this_machine(place):
  other = f"/mnt{place.root}/words"
  cell, *_ = counting.edit(
    place,
    "SEED =",
    f'OTHER = "{other}", OWN = "{place.root}/words", '
    f'LINES = "a\\n{place.root}/b", SEED =',
  )
  assert running.run_cell(cell, place).status == "finished"
  command = counting.filed(place)["cb-seed0"]["command"]
  expected = {"OTHER": other, "OWN": "words", "LINES": "a\\nb"}
  assert {f'--gin.{k}="{x}"' for k, x in expected.items()} <= {*command}


def test_process_that_begins_while_others_are_stopped_is_stopped(monkeypatch):
  processes = running.Processes()
  popen = subprocess.Popen

  def start(command):
    process = popen(command)
    processes.stop(signal.SIGTERM)  # A signal handler may do this.
    return process

  monkeypatch.setattr(subprocess, "Popen", start)
  command = [sys.executable, "-c", "import time; time.sleep(60)"]
  for _ in range(2):  # The second one does not start.
    assert processes.run(command) == -signal.SIGTERM
