"""Records are found by their configuration; drifted ones are listed."""

import json
import shutil

import made_up
import numpy as np
import pytest

from prompt_tuning.experiments import launching, pages, running, sheets
from prompt_tuning.experiments.records import Archive
from prompt_tuning.experiments.results import Results
from t5x import checkpoints
from t5x.configuration import identity

SHEET = made_up.edited(
  made_up.ONE_SIZE,
  made_up.NO_FIGURE,
  ('["prompt", "model"]', '["model"]'),
  ('["cb", "wic"]', '["cb"]'),
  ("[0, 1, 2]", "[0, 1]"),
  ('SIZE = "$size"', 'RATE = 0.3, BASE = "base"'),
)
NAMES = ["x/s-model-cb-seed0", "x/s-model-cb-seed1"]


@pytest.fixture
def root(tmp_path, monkeypatch):
  """A repository with a sheet of two cells and their records."""
  monkeypatch.chdir(tmp_path)
  made_up.sheet(tmp_path, SHEET)
  made_up.file(tmp_path, cells(tmp_path))
  return tmp_path


def cells(root):
  return sheets.load("x", root / "configs").cells()


def results(root):
  sheet = sheets.load("x", root / "configs")
  return Results(sheet, Archive(root, root / "results"))


def drifted(root):
  return pages.drifted([results(root)])


def bind(root, binding):
  """Gives the sheet another binding in the place of its rate."""
  made_up.sheet(root, made_up.edited(("RATE = 0.3", binding), text=SHEET))


def test_another_rate_lists_the_records(root):
  bind(root, "RATE = 0.1")
  now = results(root)
  difference = "RATE (RATE): 0.3 -> 0.1"
  assert drifted(root) == {difference: NAMES}
  assert f"* {difference} (2 records)" in (pages.drift_note(now) or "")
  page = pages.drift_page([now])
  assert page.endswith(f"## {difference}\n\n* `{NAMES[0]}`\n* `{NAMES[1]}`\n")
  # They are shown, and made again by the launcher.
  assert all(run.record for run in now.runs)
  assert not any(now.archive.record(run.cell) for run in now.runs)


def test_other_weights_of_the_base_list_the_records(root):
  def train_base(value, step=7):
    shutil.rmtree(root / "base" / f"checkpoint_{step}", ignore_errors=True)
    weights = {"kernel": np.full((2, 2), value, np.float32)}
    path = checkpoints.save_base_checkpoint(
      str(root / "base"), step, weights, {"name": "tiny"}
    )
    return checkpoints.open_checkpoint(path).fingerprint

  base = {"path": "base/checkpoint_7", "step": 7, "name": "tiny"}
  first = train_base(1.0)
  made_up.file(root, cells(root), base=base | {"fingerprint": first})
  assert drifted(root) == {}
  for step in (7, 9):  # The newest of the folder is what a run takes.
    second = train_base(step, step)
    difference = f"weights of tiny: {first[:8]} -> {second[:8]}"
    assert drifted(root) == {difference: NAMES}
  shutil.rmtree(root / "base")  # Not all are in the repository.
  assert drifted(root) == {}


def test_interrupted_run_that_was_wired_otherwise_is_set_aside(root):
  """It would have the same numbers, but `t5x.train` does not go on with it."""
  (cell, _) = cells(root)
  place = running.Workspace(root, root / "results")
  shutil.rmtree(place.results / "x")
  left = place.folder(cell) / "record.json"
  left.parent.mkdir(parents=True)
  settings = Archive().configuration(cell).settings
  for own, resumes in (({}, True), ({"t5x.schedule.logger_cls": "1"}, False)):
    run = identity.RunConfiguration("train", settings | own).to_json()
    fields = made_up.record(cell, configuration=run, status="interrupted")
    left.write_text(json.dumps(fields))
    assert bool(running.resumable(left, cell, place)) == resumes
  assert not left.exists()


def test_prompt_that_was_made_again_lists_what_began_with_it(root):
  prompts = "results/y/${seed}.safetensors"
  bind(root, f'PROMPT_FILE = "{prompts}"')
  made_up.file(root, cells(root), started="2026-01-01T12:00:00+00:00")
  prompt = root / "results" / "y" / "0.safetensors"
  prompt.parent.mkdir()
  prompt.write_bytes(b"")
  for second, names in ((0, []), (1, NAMES[:1])):
    started = f"2026-01-01T11:59:0{second}+00:00"
    made = made_up.record(cells(root)[0], started=started, seconds=60.0)
    prompt.with_suffix(".json").write_text(json.dumps(made))
    found = drifted(root)
    assert [x for some in found.values() for x in some] == names
  [text] = found
  assert "prompt results/y/0.safetensors: before 2026-01-01 12:00:00" in text
  # Launched again once its record is deleted, it does not come back.
  place = running.Workspace(root, root / "results")
  for cell, resumes in zip(cells(root), (False, True), strict=True):
    left = place.folder(cell) / "record.json"
    left.parent.mkdir(parents=True)
    place.record(cell).rename(left)
    assert bool(running.resumable(left, cell, place)) == resumes
    assert left.exists() == resumes


def test_of_two_records_the_finished_one_counts(root):
  failed = made_up.record(cells(root)[0], status="failed", error="no")
  (root / "results" / "x" / "a.json").write_text(json.dumps(failed))
  assert results(root).runs[0].stored.name == NAMES[0]


def test_failure_of_today_is_listed_beside_the_results_that_have_drifted(root):
  bind(root, "RATE = 0.1")
  cell, other = cells(root)
  failed = made_up.record(cell, status="failed", error="it broke")
  path = root / "results" / "x" / f"{cell.name}.failed.json"
  path.write_text(json.dumps(failed))
  now = results(root)
  assert launching.open_cells([cell, other], now.archive) == [other]
  assert [len(x) for x in pages.drifted([now]).values()] == [2]
  assert all(run.record for run in now.runs)
  page = pages.sheet_files(now)["x.md"].decode()
  assert page.count(f"* {cell.name}.failed: it broke") == 1
  assert "Records beside the table" not in page
