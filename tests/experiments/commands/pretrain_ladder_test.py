"""The pretraining of a ladder, of a program that only leaves a record."""

import counting
import pytest

from prompt_tuning.experiments.commands import pretrain_ladder

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


def test_failed_run_is_tried_again(tmp_path):
  counting.place(tmp_path, fail="loss")
  sheet = tmp_path / "configs" / "x.toml"
  head, *_ = sheet.read_text().partition("[[grids]]")
  sheet.with_name("ladder.toml").write_text(head + LADDER)
  for attempts in (1, 2):
    with pytest.raises(SystemExit, match="ladder_xxs-lm-seed1: failed"):
      pretrain_ladder.main([f"--root={tmp_path}", "ladder_xxs"])
    starts = tmp_path / "runs/ladder/ladder_xxs-lm-seed1/starts"
    assert len(starts.read_text().split()) == attempts
