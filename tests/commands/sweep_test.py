"""Sweeps as they are started, on a program that only leaves a record."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import counting
import documented
import pytest

from prompt_tuning.commands import console
from prompt_tuning.experiments import sheets
from prompt_tuning.experiments.archive import Archive

ARGUMENTS = ("--gin.SEED=0,1,2", "--gin.FAIL=''", "--module=program.train")
FAST = (*ARGUMENTS, "--gin.SLEEP=0.0", "--name=x")
MACROS = "SEED = 0\nSLEEP = 0.0\nFAIL = ''\n"


@pytest.fixture
def root(tmp_path, monkeypatch):
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


def test_sweep_ends_with_a_table_and_a_figure(root, capsys):
  _sweep(*FAST)
  out, errors = capsys.readouterr()
  assert out.splitlines()[:2] == [
    "         0         1         2",
    "  50.0 (1)  51.0 (1)  52.0 (1)",
  ]
  assert "3 runs: seed = 0, 1, 2." in errors
  assert "seed1: 51.0" in errors
  names = {path.name for path in (root / "runs/sweeps/x").glob("table.*")}
  assert names == {f"table.{x}" for x in ("csv", "md", "png", "svg", "tex")}


def test_runs_without_an_evaluation_have_no_score(root, capsys):
  program = root / "program" / "train.py"
  text = program.read_text()
  program.write_text(text.replace(", evals=[best], best=best", ""))
  assert program.read_text() != text
  _sweep(*FAST)
  out, errors = capsys.readouterr()
  assert "seed1: finished" in errors
  assert not out


@pytest.mark.parametrize("flags", [["--dry-run"], []])
def test_gin_files_are_those_of_the_root(root, monkeypatch, flags):
  (root / "mine.gin").write_text(MACROS)
  monkeypatch.chdir("/")
  _sweep(f"--root={root}", "--gin_file=mine.gin", *FAST, *flags)


@pytest.mark.parametrize(
  ("wrong", "message"),
  [
    ("--gin.SLEEEP=1.0", "No gin file defines SLEEEP, .*Did you mean SLEEP"),
    (
      "--gin.FAIL=words",
      "FAIL = words is not valid gin syntax. Strings are quoted",
    ),
  ],
)
def test_wrong_binding_is_refused_before_anything_runs(
  root, wrong, message, capsys
):
  (root / "mine.gin").write_text(MACROS)
  words = ("--gin_file=mine.gin", "--gin.SEED=0,1", wrong, *FAST[2:])
  _sweep(*words, status=1)
  assert re.search(message, capsys.readouterr().err)
  assert not _starts(root)


def test_what_has_run_in_another_sweep_is_not_run_again(root):
  _sweep(*FAST)
  _sweep("--gin.SEED=1,2,3", *FAST[1:-1], "--name=y")
  assert set(_starts(root)) == {"seed0", "seed1", "seed2", "seed3"}
  table = (root / "runs/sweeps/y/table.csv").read_text()
  assert len(table.splitlines()) == 4


def test_what_else_a_sweep_has_run_is_named_beside_its_table(root):
  _sweep(*FAST)
  _sweep("--gin.SEED=1,2", *FAST[1:])
  page = (root / "runs/sweeps/x/table.md").read_text()
  assert "Records beside the table, of other settings:\n\n* `seed0`" in page


def test_failed_run_is_in_the_table_and_in_the_exit_status(root, capsys):
  failing = [x.replace("FAIL=''", "FAIL='loss'") for x in FAST]
  _sweep(*failing, status=1)
  assert "  50.0 (1)  failed  52.0 (1)" in capsys.readouterr().out
  # It is recorded, and not run again, but it did not go away.
  starts = _starts(root)
  _sweep(*failing, status=1)
  assert "failed before" in capsys.readouterr().err
  assert _starts(root) == starts


def test_killed_sweep_goes_on(root):
  command = [
    *(sys.executable, "-m", "prompt_tuning", "sweep", *ARGUMENTS),
    *("--gin.SLEEP=0.1", "--jobs=2", "--name=x"),
  ]
  environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
  first = subprocess.Popen(
    command,
    cwd=root,
    env=environment,
    stderr=subprocess.DEVNULL,
    start_new_session=True,
  )
  deadline = time.monotonic() + 60
  while not list(root.glob("runs/sweeps/x/*/steps")):
    assert first.poll() is None
    assert time.monotonic() < deadline
    time.sleep(0.01)
  os.killpg(first.pid, signal.SIGKILL)
  first.wait()
  again = subprocess.run(
    command, cwd=root, env=environment, capture_output=True, text=True
  )
  assert again.returncode == 0, again.stderr
  assert "50.0 (1)  51.0 (1)  52.0 (1)" in again.stdout
  starts = [[int(n) for n in x.split()] for x in _starts(root).values()]
  assert len(starts) == 3
  # What had saved a step did not begin anew.
  assert all(x == sorted(x) for x in starts)
  assert any(x[-1] > 0 for x in starts)


def test_dry_run_prints_commands_and_runs_nothing(root, capsys):
  _sweep(*FAST, "--dry-run")
  lines = capsys.readouterr().out.splitlines()
  assert lines[1] == (
    "python -m program.train --gin.SEED=1 '--gin.FAIL=\"\"' --gin.SLEEP=0.0 "
    "'--gin.MODEL_DIR=\"runs/sweeps/x/seed1\"'"
  )
  assert not (root / "runs").exists()


def test_written_sheet_is_launched_by_its_name(root, capsys):
  _sweep("--gin.SEED=0,1", *FAST[1:])
  _sweep(*FAST, "--write_sheet=configs/mine.toml")
  assert "3 cells, 2 of them with a record" in capsys.readouterr().out
  sheet = sheets.load("mine", root / "configs")
  archive = Archive.load(root / "results")
  done = [cell.name for cell in sheet.cells() if archive.finished(cell)]
  assert done == ["seed0", "seed1"]
  record = json.loads((root / "results/mine/seed0.json").read_text())
  assert record["best"]["metrics"] == {"cb": {"accuracy": 50.0}}


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--gin_file=no.gin", *FAST], "no gin file no.gin, which no-seed0 and 2"),
    ([*FAST, "--write_sheet=x.toml"], "expected a file such as .*mine.toml"),
    ([*FAST, "--write_sheet=configs/x.toml"], "is there already"),
    (["--gin.SEED=1"], "There is no list to sweep"),
  ],
)
def test_what_cannot_be_done_is_one_line(root, arguments, message, capsys):
  _sweep(*arguments, status=1)
  assert re.match(f"Error: .*{message}", capsys.readouterr().err)
  assert not (root / "runs").exists()


DOCUMENTED = [
  words[2:]
  for words in documented.commands(*documented.PAGES)
  if words[:2] == ["prompt-tuning", "sweep"]
]


@pytest.mark.parametrize("arguments", DOCUMENTED, ids=" ".join)
def test_documented_sweeps_are_sweeps(tmp_path, arguments, capsys):
  kept = [x for x in arguments if not x.startswith("--write_sheet")]
  _sweep(*kept, "--dry-run", f"--root={tmp_path}")
  assert len(capsys.readouterr().out.splitlines()) == 8


def test_sweeps_are_documented():
  assert len(DOCUMENTED) >= 2
