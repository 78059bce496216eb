"""The command that writes the table of plans."""

import re

import pytest

from prompt_tuning.commands import console
from prompt_tuning.experiments import plan_table
from t5x.planning import targets


@pytest.mark.parametrize(
  ("flag", "message"),
  [
    ("--sizes=smal,base", "--sizes: expected some of xxl, .*, got smal\n"),
    ("--methods=lora,x,y", "expected some of prompt_tuning, .*, got x, y\n"),
    ("--programs=infer", "expected some of train, .*, got infer\n"),
    ("--attention=flash", "The table has no such cell"),
    ("--methods=lora", "Error: No compiler for h100x8"),
  ],
)
def test_errors(monkeypatch, capsys, tmp_path, flag, message):
  def find(name):
    raise ValueError(f"No compiler for {name}")

  monkeypatch.setattr(targets, "prepare", lambda: None)
  monkeypatch.setattr(targets, "find", find)
  words = ["plan-table", "--compile=gpu", f"--root={tmp_path}", flag]
  assert console.main(words) == 1
  assert re.search(message, capsys.readouterr().err)
  assert not (tmp_path / "results").exists()
  assert plan_table.select("tpu", "flash")
