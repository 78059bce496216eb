"""The command line of the table of plans."""

import pathlib
import re
import runpy
import sys

import pytest

from prompt_tuning.experiments import plan_table as table
from t5x.planning import targets

ROOT = pathlib.Path(__file__).parents[2]


def _plan_table(monkeypatch, *arguments):
  monkeypatch.setattr(sys, "argv", ["plan_table.py", *arguments])
  monkeypatch.setattr(targets, "prepare", lambda: None)
  runpy.run_path(str(ROOT / "scripts/plan_table.py"), run_name="__main__")


@pytest.mark.parametrize(
  ("flag", "message"),
  [
    ("--sizes=smal,base", "expected some of xxl, .*, small, got smal\n"),
    ("--methods=lora,x,y", "expected some of prompt_tuning, .*, got x, y\n"),
    ("--programs=infer", "expected some of train, .*, got infer\n"),
  ],
)
def test_table_refuses_names_it_does_not_have(
  monkeypatch, capsys, flag, message
):
  with pytest.raises(SystemExit):
    _plan_table(monkeypatch, flag)
  assert re.search(message, capsys.readouterr().err)


def test_table_without_a_compiler_ends_with_a_line(monkeypatch):
  def find(name):
    raise ValueError(f"No compiler for {name}")

  monkeypatch.setattr(targets, "find", find)
  monkeypatch.setattr(table, "read", lambda paths: [])
  with pytest.raises(SystemExit, match=r"^Error: No compiler for h100x8$"):
    _plan_table(monkeypatch, "--compile=gpu")
