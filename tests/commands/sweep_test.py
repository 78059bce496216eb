"""Tests of sweeps of a program that only writes a record."""

import json

import counting
import documented
import pytest

from prompt_tuning.commands import console
from prompt_tuning.experiments import sheets
from prompt_tuning.experiments.records import Archive

PROGRAM = ("--gin.FAIL=''", "--module=program.train", "--gin.SLEEP=0.0")
FAST = ("--gin.SEED=0,1,2", *PROGRAM, "--name=x")


@pytest.fixture
def root(tmp_path, monkeypatch):
  """A repository that is the working directory."""
  counting.place(tmp_path)
  monkeypatch.chdir(tmp_path)
  return tmp_path


def _starts(root):
  return {
    path.parent.name: path.read_text()
    for path in root.glob("runs/sweeps/*/*/starts")
  }


def _sweep(*arguments, status=0):
  assert console.main(["sweep", *arguments]) == status


def test_sweep_makes_a_table_and_a_figure_and_becomes_a_sheet(root, capsys):
  for _ in range(2):
    _sweep(*FAST)
    out, errors = capsys.readouterr()
  assert _starts(root) == {f"seed{i}": "0 " for i in range(3)}  # Run once.
  header, row, *_ = out.splitlines()
  assert header.split() == ["0", "1", "2"]
  assert row.split() == ["50.0", "(1)", "51.0", "(1)", "52.0", "(1)"]
  assert "3 runs: seed = 0, 1, 2." in errors
  names = {path.name for path in (root / "runs/sweeps/x").glob("table.*")}
  assert names == {f"table.{x}" for x in ("csv", "md", "png", "svg", "tex")}
  _sweep("--gin.SEED=0,1,7", *FAST[1:], "--write_sheet=configs/mine.toml")
  assert "3 cells, 2 of them with a record" in capsys.readouterr().out
  sheet = sheets.load("mine", root / "configs")
  archive = Archive(root, root / "results")
  done = [cell.name for cell in sheet.cells() if archive.record(cell)]
  assert done == ["seed0", "seed1"]
  record = json.loads((root / "results/mine/seed0.json").read_text())
  assert record["best"]["metrics"] == {"cb": {"accuracy": 50.0}}


def test_another_sweep_shares_runs_and_names_those_it_lacks(root, capsys):
  _sweep(*FAST)
  failing = [x.replace("FAIL=''", "FAIL='loss'") for x in PROGRAM]
  _sweep("--gin.SEED=1,2", *failing, "--name=z", status=1)
  assert "failed 52.0 (1)" in capsys.readouterr().out
  _sweep("--gin.SEED=2,3", *PROGRAM, "--name=y")
  assert "seed3: 53.0" in capsys.readouterr().err
  assert set(_starts(root)) == {"seed0", "seed1", "seed2", "seed3"}
  table = (root / "runs/sweeps/y/table.csv").read_text()
  assert table.splitlines()[1:] == [
    "ours,sweeps/y,,2,52.0,,1",
    "ours,sweeps/y,,3,53.0,,1",
  ]
  _sweep("--gin.SEED=1,2", *FAST[1:])
  page = (root / "runs/sweeps/x/table.md").read_text()
  assert "which the table leaves out:\n\n* `seed0`" in page


def test_run_without_a_score_is_not_tabulated(root, capsys):
  counting.edit_program(root, ", evals=[best], best=best", "")
  _sweep("--gin.SEED=1,2", *FAST[1:])
  out, errors = capsys.readouterr()
  assert "seed1: finished" in errors
  assert not out


DOCUMENTED = [
  words[2:]
  for words in documented.commands(*documented.PAGES)
  if words[:2] == ["prompt-tuning", "sweep"]
]


@pytest.mark.parametrize("arguments", DOCUMENTED, ids=" ".join)
def test_documented_sweeps_are_sweeps(tmp_path, monkeypatch, arguments, capsys):
  monkeypatch.chdir("/")  # Gin files are relative to the root.
  kept = [x for x in arguments if not x.startswith("--write_sheet")]
  _sweep(*kept, "--dry-run", f"--root={tmp_path}")
  assert len(capsys.readouterr().out.splitlines()) == 8
  assert not (tmp_path / "runs").exists()


def test_sweeps_are_documented():
  assert len(DOCUMENTED) >= 2
