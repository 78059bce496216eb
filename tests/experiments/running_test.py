"""A cell's run: how it ends, and what is filed of that."""

import json
import signal
import subprocess
import sys
import threading

import counting
import pytest

from prompt_tuning.experiments import launching, processes, running
from prompt_tuning.experiments.archive import Archive


def test_run_of_other_settings_is_set_aside(tmp_path):
  place = counting.place(tmp_path)
  (cell, *_) = counting.cells(place)
  running.run_cell(cell, place)
  counting.edit(place, "SLEEP = 0.0", "SLEEP = 0")
  assert counting.cells(place)[0].bindings != cell.bindings
  running.run_cell(counting.cells(place)[0], place)
  assert (place.folder(cell) / "starts").read_text() == "0 "
  assert (tmp_path / "runs" / "x" / "cb-seed0.old0" / "steps").exists()


@pytest.mark.parametrize("keeps", [True, False])
def test_prompt_is_filed_beside_its_record_where_the_sheet_says_so(
  tmp_path, keeps
):
  place = counting.place(tmp_path)
  keeps_prompt = f"keeps_prompt = {str(keeps).lower()}\ngin_files"
  counting.edit(place, "gin_files", keeps_prompt)
  first, second, _ = counting.cells(place)
  place.folder(first).mkdir(parents=True)
  (place.folder(first) / "prompt.safetensors").write_bytes(b"learned")
  for cell in (first, second):
    running.run_cell(cell, place)
  files = {x.name: x.read_bytes() for x in place.results.rglob("*.safetensors")}
  assert files == ({"cb-seed0.safetensors": b"learned"} if keeps else {})


def test_unreadable_record_is_set_aside(tmp_path):
  place = counting.place(tmp_path)
  (cell, *_) = counting.cells(place)
  place.folder(cell).mkdir(parents=True)
  (place.folder(cell) / "record.json").write_text('{"schema": 1')
  assert running.run_cell(cell, place).status == "finished"
  assert (tmp_path / "runs" / "x" / "cb-seed0.old0" / "record.json").exists()


@pytest.mark.parametrize(
  ("fail", "error"),
  [
    ("11", "killed by signal 11: Error in step 1"),
    ("9", "killed by signal 9 (out of memory?): Error in step 1"),
    ("nan", "cb/accuracy is nan"),
    ("silent", "exit status 0"),
  ],
)
def test_run_that_does_not_say_how_it_ended_has_failed(tmp_path, fail, error):
  place = counting.place(tmp_path, fail=fail)
  cell = counting.cells(place)[1]
  log = place.folder(cell) / "log.txt"
  log.parent.mkdir(parents=True)
  log.write_text("Error: of an earlier attempt\n")
  outcome = running.run_cell(cell, place)
  assert outcome.status == "failed"
  assert error in outcome.error
  record = counting.filed(place)[cell.name]
  assert error in record["error"]
  # What the run itself had written before is kept.
  assert (record["seconds"] == 1.0) == (fail != "nan")


@pytest.mark.parametrize("status", ["running", "interrupted", "failed"])
def test_attempt_that_wrote_no_record_fails_with_what_was_known(
  tmp_path, status
):
  """What the attempt before knew, its seeds among it, is kept."""
  place = counting.place(tmp_path)
  cell = counting.cells(place)[1]
  assert running.run_cell(cell, place).counts
  left = place.folder(cell) / "record.json"
  known = json.loads(left.read_text()) | {"status": status, "seconds": 7.0}
  known["error"] = "no" if status == "failed" else None
  place.record(cell).unlink()
  counting.edit(place, 'FAIL = ""', 'FAIL = "parse"')
  cell = counting.cells(place)[1]
  known["configuration"] = place.archive().configuration(cell).to_json()
  left.write_text(json.dumps(known))
  outcome = running.run_cell(cell, place)
  assert (outcome.status, outcome.error) == ("failed", "SEED must not be 1.")
  record = counting.filed(place)[cell.name]
  assert record["evals"] == known["evals"]
  assert record["seconds"] == 7.0


def test_run_that_was_asked_to_stop_has_no_record(tmp_path):
  place = counting.place(tmp_path, fail=str(int(signal.SIGTERM)))
  cell = counting.cells(place)[1]
  assert running.run_cell(cell, place).status == "interrupted"
  assert not counting.filed(place)


def test_second_launcher_leaves_what_the_first_has_filed(tmp_path):
  place = counting.place(tmp_path, fail="loss")
  cell = counting.cells(place)[1]
  for _ in range(2):
    assert running.run_cell(cell, place).status == "failed"
  starts = place.folder(cell) / "starts"
  assert len(starts.read_text().split()) == 1
  # Unless it was there before, and is to be tried again.
  seen = Archive.load(place.results).record(cell)
  running.run_cell(cell, place, seen)
  assert len(starts.read_text().split()) == 2


def test_one_kind_of_run_is_in_one_folder_at_a_time(tmp_path):
  place = counting.place(tmp_path, sleep=0.05)
  sheet = place.root / "configs" / "x.toml"
  sheet.with_name("y.toml").write_text(sheet.read_text())
  cells = [counting.cells(place, sheet)[0] for sheet in "xy"]
  assert cells[0].bindings == cells[1].bindings
  threads = [
    threading.Thread(target=running.run_cell, args=(cell, place))
    for cell in cells
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(list(tmp_path.glob("runs/?/*/starts"))) == 1


def test_failure_does_not_take_the_place_of_results(tmp_path):
  place = counting.place(tmp_path)
  running.run_cell(counting.cells(place)[1], place)
  good = counting.filed(place)
  counting.edit(place, 'FAIL = ""', 'FAIL = "loss"')
  cell = counting.cells(place)[1]
  assert running.run_cell(cell, place).status == "failed"
  filed = counting.filed(place)
  assert "the loss is nan" in filed.pop("cb-seed1.failed")["error"]
  assert filed == good
  # It is tried again when it is asked for, and goes once there are results.
  archive = place.archive()
  assert launching.open_cells([cell], archive) == []
  assert launching.open_cells([cell], archive, retry_failed=True) == [cell]
  counting.edit(place, 'FAIL = "loss"', 'FAIL = "none"')
  assert running.run_cell(counting.cells(place)[1], place).counts
  assert list(counting.filed(place)) == ["cb-seed1"]


def test_prompt_of_a_failed_run_is_neither_filed_nor_read(tmp_path):
  place = counting.place(tmp_path, fail="loss")
  counting.edit(place, "gin_files", "keeps_prompt = true\ngin_files")
  cell = counting.cells(place)[1]
  prompt = place.folder(cell) / "prompt.safetensors"
  prompt.parent.mkdir(parents=True)
  prompt.write_bytes(b"half learned")
  place.prompt(cell).parent.mkdir(parents=True)
  place.prompt(cell).write_bytes(b"of an older run")
  assert running.run_cell(cell, place).status == "failed"
  assert not place.prompt(cell).exists()
  read = "runs/x/*/prompt.safetensors"
  counting.edit(place, "SEED =", f'PROMPT_FILE = "{read}", SEED =')
  outcome = running.run_cell(counting.cells(place)[0], place)
  assert f"it needs {read}" in outcome.error


def test_cell_without_the_prompt_it_begins_with_has_no_record(tmp_path):
  place = counting.place(tmp_path)
  files = 'PROMPT_FILES = "results/*/cb-seed[0-4].safetensors", NUM_PROMPTS = 2'
  counting.edit(place, "SEED =", f"{files}, SEED =")
  (cell, *_) = counting.cells(place)
  outcome = running.run_cell(cell, place)
  assert outcome.status == "failed"
  needed = "2 of results/*/cb-seed[0-4].safetensors"
  assert f"it needs {needed}, got 0" in outcome.error
  assert not counting.filed(place)
  (place.results / "y").mkdir(parents=True)
  (place.results / "y" / "cb-seed3.safetensors").write_bytes(b"")
  assert "got 1" in running.run_cell(cell, place).error
  (place.results / "y" / "cb-seed4.safetensors").write_bytes(b"")
  assert running.run_cell(cell, place).status == "finished"


def test_record_names_no_folder_of_this_machine(tmp_path):
  place = counting.place(tmp_path)
  other = f"/mnt{tmp_path}/words"
  counting.edit(
    place,
    "SEED =",
    f'OTHER = "{other}", OWN = "{tmp_path}/words", '
    f'LINES = "a\\n{tmp_path}/b", SEED =',
  )
  (cell, *_) = counting.cells(place)
  assert running.run_cell(cell, place).status == "finished"
  [filed] = place.archive().stored
  command = filed.record.command
  assert f'--gin.OTHER="{other}"' in command
  assert '--gin.OWN="words"' in command
  assert '--gin.LINES="a\\nb"' in command


def test_process_that_begins_while_others_are_stopped_is_stopped():
  running_ones = processes.Processes()

  def start():
    process = subprocess.Popen(
      [sys.executable, "-c", "import time; time.sleep(60)"]
    )
    running_ones.stop(signal.SIGTERM)  # As a signal handler may.
    return process

  with running_ones.running(start) as status:
    assert status == -signal.SIGTERM
  with running_ones.running(start) as status:  # Begins no more.
    assert status == -signal.SIGTERM
