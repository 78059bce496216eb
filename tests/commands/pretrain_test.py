"""The pretraining of a ladder, of a program that only leaves a record."""

import shutil

import counting

from prompt_tuning.commands import console
from prompt_tuning.mini.ladder import pretraining

LADDER = """
[[grids]]
size = ["ladder_xxs"]
stage = ["lm"]
seed = [1]
[values.size.ladder_xxs]
[values.stage.lm]
[layout]
rows = ["size"]
columns = "stage"
"""


def ladder(tmp_path, fail=""):
  counting.place(tmp_path, fail=fail)
  sheet = tmp_path / "configs" / "x.toml"
  head, *_ = sheet.read_text().partition("[[grids]]")
  sheet.with_name("ladder.toml").write_text(head + LADDER)


def pretrain(root):
  return console.main(["pretrain", f"--root={root}", "ladder_xxs"])


RUN = "ladder_xxs-lm-seed1"


def test_run_is_exported_and_is_made_again_without_checkpoints(
  tmp_path, monkeypatch, capsys
):
  exported = []

  def export(run, folder, stage):
    exported.append((run.name, folder.name, stage))
    return []

  monkeypatch.setattr(pretraining, "export", export)
  ladder(tmp_path)
  assert pretrain(tmp_path) == 0
  assert exported == [(RUN, "ladder_xxs", "lm")]
  shutil.rmtree(tmp_path / "runs")
  capsys.readouterr()
  assert pretrain(tmp_path) == 0
  assert "has a record but no checkpoints" in capsys.readouterr().out
  assert (tmp_path / f"results/ladder/{RUN}.json").exists()
  assert (tmp_path / f"runs/ladder/{RUN}/starts").read_text() == "0 "
  # A run that is not the record's is not exported.
  left = tmp_path / f"runs/ladder/{RUN}/record.json"
  left.write_text(left.read_text().replace('"now"', '"then"'))
  (tmp_path / "checkpoints/ladder_xxs/lm_100/checkpoint_4").mkdir(parents=True)
  assert pretrain(tmp_path) == 0
  assert len(exported) == 2


def test_failed_run_is_tried_again(tmp_path, capsys):
  ladder(tmp_path, fail="loss")
  for attempts in (1, 2):
    assert pretrain(tmp_path) == 1
    assert "ladder_xxs-lm-seed1: failed" in capsys.readouterr().err
    starts = tmp_path / "runs/ladder/ladder_xxs-lm-seed1/starts"
    assert len(starts.read_text().split()) == attempts
