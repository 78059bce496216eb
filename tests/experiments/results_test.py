"""Results, from records that are made up here."""

import shutil

import made_up
import pytest

from prompt_tuning.experiments.archive import Archive


def _entries(results):
  return {
    (row[0], column): str(entry)
    for (row, column), entry in results.entries.items()
  }


def test_scores_are_means_over_tasks_then_seeds(tmp_path):
  sheet = made_up.sheet(tmp_path)
  assert _entries(made_up.results(tmp_path, sheet)) == {
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
  assert _entries(made_up.results(tmp_path, sheet, some)) == {
    ("prompt", "s"): "55.0 ± 0.0 (2)",
    ("prompt", "l"): "55.0 (1)",
    ("model", "s"): "-",
    ("model", "l"): "-",
  }


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
  results = made_up.results(tmp_path, sheet)
  assert str(results.means[("prompt",)]) == expected


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
  results = made_up.results(tmp_path, sheet)
  assert str(results.entries[("prompt",), "cb"]) == "48.0 ± 4.5 (5)"
  means = {row[0]: str(x) for row, x in results.means.items()}
  assert means == {"prompt": "51.7 ± 5.8 (3)", "model": "-"}


def test_run_that_was_stopped_early_counts(tmp_path):
  sheet = made_up.sheet(tmp_path)
  results = made_up.results(tmp_path, sheet, status="stopped")
  assert _entries(results)["model", "s"] == "55.0 ± 0.0 (3)"


def _evals(*scores):
  """Evaluations at steps 1,010, 1,020 and so on."""
  return [
    {
      "step": 1000 + 10 * (i + 1),
      "score": score,
      "metrics": {"cb": {"accuracy": score}},
    }
    for i, score in enumerate(scores)
  ]


def test_runs_are_looked_at_after_some_of_their_steps(tmp_path):
  sheet = made_up.sheet(
    tmp_path,
    made_up.SHEET.replace(
      'columns = "size"', 'columns = "steps"\nafter = [10, 30, 50]', 1
    )
    .replace('size = ["s", "l"]', 'size = ["s"]')
    .replace('task = ["cb", "wic"]', 'task = ["cb"]'),
  )
  evals = _evals(40.0, 60.0, 50.0, 90.0)
  results = made_up.results(
    tmp_path,
    sheet,
    evals=evals,
    best=evals[-1],
    steps={"first": 1000, "last": 1040},
  )
  assert _entries(results) == {
    (method, steps): text
    for method in ("prompt", "model")
    for steps, text in (
      (10, "40.0 ± 0.0 (3)"),
      (30, "60.0 ± 0.0 (3)"),
      (50, "-"),
    )
  }
  ends = _entries(results.at_their_ends())
  assert ends["prompt", 10] == "40.0 ± 0.0 (3)"
  assert ends["prompt", 30] == "50.0 ± 0.0 (3)"  # The best until then is 60.
  assert [point.x for point in results.line(("prompt",))] == [10, 30]
  assert len(results.runs) == 6  # Of the page's count of cells.


def test_run_that_was_stopped_has_no_scores_of_later_steps(tmp_path):
  sheet = made_up.sheet(tmp_path)
  results = made_up.results(
    tmp_path,
    sheet,
    status="stopped",
    evals=_evals(40.0, 60.0),
    steps={"first": 1000, "last": 2000},
    step=1020,
  )
  record = results.runs[0].record
  assert record.after(20).score == 60.0
  assert record.after(30) is None


def test_points_of_a_line_are_in_order(tmp_path):
  text = made_up.SHEET.replace('size = ["s", "l"]', "size = [20, 5, 100]")
  results = made_up.results(tmp_path, made_up.sheet(tmp_path, text))
  assert [point.x for point in results.line(("model",))] == [5, 20, 100]


def test_own_record_counts_before_that_of_another_sheet(tmp_path):
  sheet = made_up.sheet(tmp_path)
  cell, *_ = sheet.cells()
  made_up.file(tmp_path, [cell])
  shutil.copytree(tmp_path / "results" / "x", tmp_path / "results" / "a")
  found = Archive.load(tmp_path / "results").find(cell)
  assert found.path.parent.name == "x"


def test_steps_of_a_layout_are_no_axis_of_a_grid(tmp_path):
  text = made_up.SHEET.replace(
    'columns = "size"', 'columns = "steps"\nafter = [10]', 1
  )
  with pytest.raises(ValueError, match="an axis steps of its own"):
    made_up.sheet(
      tmp_path, text.replace("seed = [", "steps = [1, 2]\nseed = [", 1)
    )
