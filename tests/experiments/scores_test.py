"""Scores, from records that are made up here."""

import made_up
import pytest

from prompt_tuning.experiments import scores


def _entries(sheet, known):
  return {
    (row[0], column): str(entry)
    for (row, column), entry in scores.of_sheet(sheet, known).entries.items()
  }


def test_scores_are_means_over_tasks_then_seeds(tmp_path):
  sheet = made_up.sheet(tmp_path)
  assert _entries(sheet, made_up.file(tmp_path, sheet.cells())) == {
    ("prompt", "s"): "51.7 ± 5.8 (3)",  # 45, 55, 55
    ("prompt", "l"): "63.3 ± 14.4 (3)",  # 55, 80, 55
    ("model", "s"): "55.0 ± 0.0 (3)",
    ("model", "l"): "55.0 ± 0.0 (3)",
  }


def test_seed_counts_once_all_its_tasks_are_there(tmp_path):
  sheet = made_up.sheet(tmp_path)
  some = [
    cell
    for cell in sheet.cells()
    if cell.point["method"] == "prompt"
    and (cell.point["seed"], cell.point["task"]) != (0, "wic")
    and not (cell.point["seed"] == 1 and cell.point["size"] == "l")
  ]
  assert _entries(sheet, made_up.file(tmp_path, some)) == {
    ("prompt", "s"): "55.0 ± 0.0 (2)",
    ("prompt", "l"): "55.0 (1)",
    ("model", "s"): "-",
    ("model", "l"): "-",
  }


def test_one_metric_of_several(tmp_path):
  sheet = made_up.sheet(
    tmp_path, made_up.SHEET.replace("[paper]", 'metric = "f1"\n[paper]')
  )
  known = made_up.file(tmp_path, sheet.cells())
  assert _entries(sheet, known)["model", "s"] == "50.0 ± 0.0 (3)"
  sheet = made_up.sheet(
    tmp_path, made_up.SHEET.replace("[paper]", 'metric = "em"\n[paper]')
  )
  with pytest.raises(ValueError, match="no metric 'em'"):
    scores.of_sheet(sheet, known)


@pytest.mark.parametrize(
  ("seeds", "expected"),
  [
    ("seed = [0, 1, 2]", "51.7 ± 5.8 (3)"),  # 45, 55, 55
    ("", "45.0 (1)"),
  ],
)
def test_mean_over_the_columns(tmp_path, seeds, expected):
  """With no axis but those of rows and columns, and perhaps seeds."""
  text = made_up.SHEET.replace("seed = [0, 1, 2]", seeds)
  text = text.replace('size = ["s", "l"]', "")
  text = text.replace(
    'columns = "size"\nmean_over = "task"', 'columns = "task"'
  )
  text = text.replace('SIZE = "$size"', 'SIZE = "s"')
  if not seeds:
    text = text.replace('SEED = "$seed"', "SEED = 0")
  sheet = made_up.sheet(tmp_path, text)
  known = made_up.file(tmp_path, sheet.cells())
  assert str(scores.means(sheet, known)[("prompt",)]) == expected


def test_task_that_a_row_or_a_seed_does_not_run_leaves_no_mean(tmp_path):
  """A second grid has one task alone, with more seeds and another method."""
  text = made_up.SHEET.replace('size = ["s", "l"]', 'size = ["s"]')
  text = text.replace(
    'columns = "size"\nmean_over = "task"', 'columns = "task"'
  )
  text = text.replace('method = ["prompt", "model"]', 'method = ["prompt"]')
  one = """[[grids]]
size = ["s"]
method = ["prompt", "model"]
task = ["cb"]
seed = [3, 4]
"""
  text = text.replace("[values.size.s]", f"{one}[values.size.s]")
  sheet = made_up.sheet(tmp_path, text)
  known = made_up.file(tmp_path, sheet.cells())
  assert str(scores.of_sheet(sheet, known).entries[("prompt",), "cb"]) == (
    "48.0 ± 4.5 (5)"
  )
  means = {row[0]: str(x) for row, x in scores.means(sheet, known).items()}
  assert means == {"prompt": "51.7 ± 5.8 (3)", "model": "-"}


def test_run_that_was_stopped_early_counts(tmp_path):
  sheet = made_up.sheet(tmp_path)
  known = made_up.file(tmp_path, sheet.cells(), status="stopped")
  assert _entries(sheet, known)["model", "s"] == "55.0 ± 0.0 (3)"
