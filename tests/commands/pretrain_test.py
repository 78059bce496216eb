"""Tests of `pretrain` on a program that only writes a record."""

import shutil
from unittest import mock

import counting

from prompt_tuning.commands import console
from prompt_tuning.mini.ladder import pretraining

LADDER = """
size = ["ladder_xxs"]
stage = ["lm"]
seed = [1]
[values.size.ladder_xxs]
[values.stage.lm]
[layout]
rows = ["size"]
columns = "stage"
"""
RUN = "ladder_xxs-lm-seed1"


def ladder(tmp_path, fail=""):
  counting.place(tmp_path, fail=fail)
  sheet = tmp_path / "configs" / "x.toml"
  head, grids, _ = sheet.read_text().partition("[[grids]]")
  sheet.with_name("ladder.toml").write_text(head + grids + LADDER)


def pretrain(root):
  return console.main(["pretrain", f"--root={root}", "ladder_xxs"])


def test_run_is_exported_and_is_made_again_without_checkpoints(
  tmp_path, monkeypatch, capsys
):
  export = mock.Mock(return_value=[])
  monkeypatch.setattr(pretraining, "export", export)
  ladder(tmp_path)
  assert pretrain(tmp_path) == 0
  folder = tmp_path / "checkpoints" / "ladder_xxs"
  export.assert_called_once_with(tmp_path / f"runs/ladder/{RUN}", folder, "lm")
  shutil.rmtree(tmp_path / "runs")
  capsys.readouterr()
  assert pretrain(tmp_path) == 0
  assert "has a record but no checkpoints" in capsys.readouterr().out
  assert (tmp_path / f"results/ladder/{RUN}.json").exists()
  assert (tmp_path / f"runs/ladder/{RUN}/starts").read_text() == "0 "
  # A run that differs from the stored record is not exported.
  left = tmp_path / f"runs/ladder/{RUN}/record.json"
  left.write_text(left.read_text().replace('"now"', '"then"'))
  (folder / "lm_100/checkpoint_4").mkdir(parents=True)
  assert pretrain(tmp_path) == 0
  assert export.call_count == 2


def test_failed_run_is_tried_again(tmp_path, capsys):
  ladder(tmp_path, fail="loss")
  for attempts in (1, 2):
    assert pretrain(tmp_path) == 1
    assert f"{RUN}: failed" in capsys.readouterr().err
    starts = tmp_path / f"runs/ladder/{RUN}/starts"
    assert len(starts.read_text().split()) == attempts
