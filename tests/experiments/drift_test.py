"""Tests of finding records by configuration and of listing drifted ones."""

import datetime
import json
import os
import shutil

from counting import replace
import made_up
import numpy as np
import pytest
from started import TESTS

from prompt_tuning.experiments import launching, pages, running, sheets
from prompt_tuning.experiments.records import Archive
from prompt_tuning.experiments.results import Results
from t5x import checkpoints
from t5x.configuration import identity

REPOSITORY = TESTS / "testdata" / "drift"
NAMES = ["x/cb-seed0", "x/cb-seed1"]


def record(cell, **settings):
  """Returns the record of a cell's run, with `settings` replaced."""
  cell.point.setdefault("method", "model")  # A made-up record needs it.
  settings = Archive().configuration(cell).settings | settings
  configuration = identity.RunConfiguration("train", settings).to_json()
  # A Python program called the trainer, so the command identifies no run.
  return made_up.record(cell, configuration=configuration, command=[])


@pytest.fixture
def root(tmp_path, monkeypatch):
  """A repository with a sheet of two cells and their records."""
  monkeypatch.chdir(tmp_path)
  shutil.copytree(REPOSITORY, tmp_path, dirs_exist_ok=True)
  (tmp_path / "results" / "x").mkdir(parents=True)
  file(tmp_path)
  return tmp_path


def file(root, settings=None, **fields):
  """Files the record of each cell."""
  for cell in cells(root):
    text = json.dumps(record(cell, **settings or {}) | fields)
    (root / "results" / "x" / f"{cell.name}.json").write_text(text)


def sheet(root):
  return sheets.load("x", root / "configs")


def cells(root):
  return sheet(root).cells()


def results(root):
  return Results(sheet(root), Archive(root, root / "results"))


def drifted(root):
  return pages.drifted([results(root)])


def test_records_of_other_code_are_listed(root):
  file(root, {"code.data_order": "'another'"})
  difference = """code.data_order: 'another' -> "seqio's\""""
  assert drifted(root) == {difference: NAMES}
  page = pages.drift_page([results(root)])
  assert page.endswith(f"## {difference}\n\n* `{NAMES[0]}`\n* `{NAMES[1]}`\n")


def test_other_names_of_files_and_macros_change_nothing(root):
  shutil.move(root / "gin" / "train.gin", root / "gin" / "learn.gin")
  replace(root / "configs" / "x.toml", "gin/train.gin", "gin/learn.gin")
  replace(root / "configs" / "x.toml", "SEED =", "LUCK =")
  replace(root / "gin" / "learn.gin", "SEED", "LUCK")
  replace(root / "gin" / "learn.gin", "RATE", "LEARNING_RATE")
  assert all(run.record for run in results(root).runs)
  assert "None." in pages.drift_page([results(root)])


@pytest.mark.parametrize(
  ("file", "old", "new"),
  [
    ("gin/train.gin", "0.3", "0.1"),
    ("configs/x.toml", 'SEED = "$seed"}', 'SEED = "$seed", RATE = 0.1}'),
  ],
)
def test_another_rate_lists_the_records(root, file, old, new):
  replace(root / file, old, new)
  now = results(root)
  difference = "RATE (t5x.schedule.rate): 0.3 -> 0.1"
  assert drifted(root) == {difference: NAMES}
  assert f"* {difference} (2 records)" in (pages.drift_note(now) or "")
  # The tables show the old records, but the launcher runs the cells again.
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
  file(root, base=base | {"fingerprint": first})
  assert drifted(root) == {}
  for step in (7, 9):  # A run takes the newest checkpoint.
    second = train_base(step, step)
    difference = f"weights of tiny: {first[:8]} -> {second[:8]}"
    assert drifted(root) == {difference: NAMES}
  shutil.rmtree(root / "base")  # The repository does not have every base.
  assert drifted(root) == {}


def test_file_of_examples_that_was_written_since_lists_the_records(root):
  replace(
    root / "configs" / "x.toml",
    'SEED = "$seed"',
    'SEED = "$seed", TRAIN_FILE = "mine.csv"',
  )
  file(root, started="2026-01-01T12:00:00+00:00")
  assert drifted(root) == {}  # There is no such file here.
  (root / "mine.csv").write_text("text,label\n")
  begin = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC).timestamp()
  for seconds, count in ((0, 0), (1, 1)):
    os.utime(root / "mine.csv", (begin + seconds, begin + seconds))
    assert len(drifted(root)) == count
  times = "2026-01-01 12:00:00+00:00 -> written 2026-01-01 12:00:01+00:00"
  assert drifted(root) == {f"file mine.csv: before {times}": NAMES}


def test_interrupted_run_that_was_wired_otherwise_is_set_aside(root):
  """`t5x.train` would not resume such a run, despite the same numbers."""
  (cell, _) = cells(root)
  place = running.Workspace(root, root / "results")
  shutil.rmtree(place.results / "x")
  left = place.folder(cell) / "record.json"
  left.parent.mkdir(parents=True)

  for settings, resumes in (({}, True), ({"t5x.schedule.logger_cls": "1"}, 0)):
    fields = record(cell, **settings) | {"status": "interrupted"}
    left.write_text(json.dumps(fields))
    assert bool(running.resumable(left, cell, place)) == resumes
  assert not left.exists()


@pytest.mark.parametrize(
  ("folder", "prompt", "made_by"),
  [
    ("results/y", "cb-seed${seed}.safetensors", "cb-seed0.json"),
    ("runs/y/cb-seed${seed}", "prompt.safetensors", "record.json"),
  ],
)
def test_prompt_that_was_made_again_lists_what_began_with_it(
  root, folder, prompt, made_by
):
  replace(
    root / "configs" / "x.toml",
    'SEED = "$seed"',
    f'SEED = "$seed", PROMPT_FILE = "{folder}/{prompt}"',
  )
  prompt = f"{folder}/{prompt}".replace("${seed}", "0")
  file(root, started="2026-01-01T12:00:00+00:00")
  (root / prompt).parent.mkdir(parents=True)
  (root / prompt).write_bytes(b"")
  for second, names in ((0, []), (1, NAMES[:1])):
    started = f"2026-01-01T11:59:0{second}+00:00"
    made = record(cells(root)[0]) | {"started": started, "seconds": 60.0}
    (root / prompt).with_name(made_by).write_text(json.dumps(made))
    found = drifted(root)
    assert [x for some in found.values() for x in some] == names
  [text] = found
  assert f"prompt {prompt}: before 2026-01-01 12:00:00" in text
  # A run that started before its prompt was made is not resumed either.
  place = running.Workspace(root, root / "results")
  cell, other = cells(root)
  for x in (cell, other):
    place.folder(x).mkdir(parents=True)
    place.record(x).rename(place.folder(x) / "record.json")
  left = [place.folder(x) / "record.json" for x in (cell, other)]
  assert not running.resumable(left[0], cell, place)
  assert not left[0].exists()
  assert running.resumable(left[1], other, place)


def test_records_of_two_sheets_of_one_name_are_told_apart(root):
  """The sheets `x` and `full/x` have separate records."""
  for folder in ("configs", "results"):
    (root / folder / "full").mkdir()
  shutil.copy(root / "configs" / "x.toml", root / "configs" / "full")
  shutil.move(root / "results" / "x", root / "results" / "full" / "x")
  replace(root / "gin" / "train.gin", "0.3", "0.1")
  full = sheets.load("full/x", root / "configs")
  archive = Archive(root, root / "results")
  names = [f"full/{x}" for x in NAMES]
  assert [*pages.drifted([Results(full, archive)]).values()] == [names]
  assert [x.name for x in archive.stored] == names


def test_of_two_records_the_finished_one_counts(root):
  failed = record(cells(root)[0]) | {"status": "failed", "error": "no"}
  (root / "results" / "x" / "a.json").write_text(json.dumps(failed))
  assert results(root).runs[0].stored.name == "x/cb-seed0"


def test_failure_of_today_is_listed_beside_the_results_that_have_drifted(root):
  replace(root / "gin" / "train.gin", "0.3", "0.1")
  cell, other = cells(root)
  failed = record(cell) | {"status": "failed", "error": "it broke"}
  path = running.Workspace(root, root / "results").record(cell)
  path = path.with_suffix(".failed.json")
  path.write_text(json.dumps(failed))
  now = results(root)
  assert launching.open_cells([cell, other], now.archive) == [other]
  assert [len(x) for x in pages.drifted([now]).values()] == [2]
  assert all(run.record for run in now.runs)
  page = "".join(pages._runs(now))
  assert page.count("* cb-seed0.failed: it broke") == 1
  assert "Records beside the table" not in page
