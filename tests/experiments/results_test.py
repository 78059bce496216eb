"""Results and their tables, from records that are made up here."""

import math
import pathlib
import shutil

import made_up
from made_up import BY_TASK, NO_FIGURE, ONE_SIZE
import pandas as pd
import pytest

from prompt_tuning.experiments import figures, sheets, tables
from prompt_tuning.experiments.archive import Archive
from prompt_tuning.experiments.results import Results, View

ROOT = pathlib.Path(__file__).parents[2]
GAPS = ("[layout]", '[layout]\ngaps = [["model", "prompt"]]')
MAJORITIES = (
  ("[values.task.cb]", "[values.task.cb]\nmajority = 40.0"),
  ("[values.task.wic]", "[values.task.wic]\nmajority = 50.0"),
)


def _rows(tmp_path, text=made_up.SHEET, cells=None, **overrides):
  """Returns the rows of a sheet's table, of the cells that a rule chooses."""
  sheet = made_up.sheet(tmp_path, text)
  some = [x for x in sheet.cells() if cells is None or cells(x.point)]
  results = made_up.results(tmp_path, sheet, some, **overrides)
  return tables.table(results).rows


@pytest.mark.parametrize(
  ("count", "text"),
  [
    (512, "512"),
    (999, "999"),
    (999_499, "999K"),
    (999_500, "1M"),
    (76_961_152, "77M"),
    (999_999_999, "1B"),
  ],
)
def test_count_is_rounded_before_its_unit_is_chosen(count, text):
  assert tables.short_count(count) == text


@pytest.mark.parametrize("status", ["finished", "stopped"])
def test_scores_are_means_over_tasks_then_seeds(tmp_path, status):
  """A run that was stopped early counts too."""
  assert _rows(tmp_path, status=status) == [
    # 45, 55, 55, and 55, 80, 55.
    ["Prompt_tuning", "51.7 ± 5.8 (3)", "63.3 ± 14.4 (3)"],
    ["model", "55.0 ± 0.0 (3)", "55.0 ± 0.0 (3)"],
  ]


def test_table_may_have_a_single_row(tmp_path):
  """As that of a sweep of seeds alone, which has no axis for rows."""
  text = made_up.edited(
    ONE_SIZE,
    ('rows = ["method"]\ncolumns = "size"', 'rows = []\ncolumns = "method"'),
  )
  sheet = made_up.sheet(tmp_path, text)
  results = made_up.results(tmp_path, sheet)
  assert tables.table(results).rows == [
    ["", "51.7 ± 5.8 (3)", "55.0 ± 0.0 (3)"]
  ]
  assert "ours,x,,prompt,51.6" in tables.csv_text([results])
  assert figures.draw(results).axes[0].lines


def test_seed_counts_once_all_its_tasks_are_there(tmp_path):
  def is_there(point):
    return (
      point["method"] == "prompt"
      and (point["seed"], point["task"]) != (0, "wic")
      and not (point["seed"] == 1 and point["size"] == "l")
    )

  assert _rows(tmp_path, cells=is_there) == [
    ["Prompt_tuning", "55.0 ± 0.0 (2)", "55.0 (1)"],
    ["model", "-", "-"],
  ]


def test_record_without_scores_is_no_score(tmp_path):
  sheet = made_up.sheet(tmp_path)
  made_up.file(tmp_path, sheet.cells()[:12])
  others = sheet.cells()[12:]
  results = made_up.results(tmp_path, sheet, others, evals=[], best=None)
  assert tables.table(results).rows == [
    ["Prompt_tuning", "51.7 ± 5.8 (3)", "-"],
    ["model", "55.0 ± 0.0 (3)", "-"],
  ]
  assert ",l," not in tables.csv_text([results])


@pytest.mark.parametrize(
  ("edits", "expected"),
  [
    ([], "51.7 ± 5.8 (3)"),  # 45, 55, 55
    ([("seed = [0, 1, 2]", ""), ('SEED = "$seed"', "SEED = 0")], "45.0 (1)"),
  ],
)
def test_mean_over_the_columns(tmp_path, edits, expected):
  """With no axis but those of rows and columns, and perhaps seeds."""
  text = made_up.edited(
    *edits,
    BY_TASK,
    NO_FIGURE,
    ('size = ["s", "l"]', ""),
    ('SIZE = "$size"', 'SIZE = "s"'),
    ("[layout]", "[layout]\nmean_column = true"),
  )
  assert _rows(tmp_path, text)[0][-1] == expected


def test_task_that_a_row_or_a_seed_does_not_run_leaves_no_mean(tmp_path):
  """A second grid has one task alone, with more seeds and another method."""
  one = """[[grids]]
size = ["s"]
method = ["prompt", "model"]
task = ["cb"]
seed = [3, 4]
"""
  text = made_up.edited(
    ONE_SIZE,
    BY_TASK,
    NO_FIGURE,
    ('method = ["prompt", "model"]', 'method = ["prompt"]'),
    ("[values.size.s]", f"{one}[values.size.s]"),
    ("[layout]", "[layout]\nmean_column = true"),
  )
  assert _rows(tmp_path, text) == [
    ["Prompt_tuning", "48.0 ± 4.5 (5)", "56.7 ± 5.8 (3)", "51.7 ± 5.8 (3)"],
    ["model", "50.0 ± 0.0 (2)", "-", "-"],
  ]


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


AFTER = ('columns = "size"', 'columns = "steps"\nafter = [10, 30, 50]')


def test_runs_are_looked_at_after_some_of_their_steps(tmp_path):
  text = made_up.edited(
    AFTER, ONE_SIZE, ('task = ["cb", "wic"]', 'task = ["cb"]')
  )
  sheet = made_up.sheet(tmp_path, text)
  evals = _evals(40.0, 60.0, 50.0, 90.0)
  steps = {"first": 1000, "last": 1040}
  results = made_up.results(
    tmp_path, sheet, evals=evals, best=evals[-1], steps=steps
  )
  scores = ["40.0 ± 0.0 (3)", "60.0 ± 0.0 (3)", "-"]
  assert [x[1:] for x in tables.table(results).rows] == [scores, scores]
  ends = tables.table(results, at_end=True)
  # The best until then is 60.
  assert ends.rows[0][1:] == ["40.0 ± 0.0 (3)", "50.0 ± 0.0 (3)", "-"]
  assert list(results.line(("prompt",))["x"]) == [10, 30]
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


def test_steps_of_a_layout_are_no_axis_of_a_grid(tmp_path):
  text = made_up.edited(AFTER, ("seed = [", "steps = [1, 2]\nseed = ["))
  with pytest.raises(ValueError, match="an axis steps of its own"):
    made_up.sheet(tmp_path, text)


def test_points_of_a_line_are_in_order(tmp_path):
  text = made_up.edited(('size = ["s", "l"]', "size = [20, 5, 100]"))
  results = made_up.results(tmp_path, made_up.sheet(tmp_path, text))
  assert list(results.line(("model",))["x"]) == [5, 20, 100]


def test_own_record_counts_before_that_of_another_sheet(tmp_path):
  sheet = made_up.sheet(tmp_path)
  cell, *_ = sheet.cells()
  made_up.file(tmp_path, [cell])
  shutil.copytree(tmp_path / "results" / "x", tmp_path / "results" / "a")
  found = Archive.load(tmp_path / "results").find(cell)
  assert found.path.parent.name == "x"


def test_means_over_tasks_come_with_each_task(tmp_path):
  sheet = made_up.sheet(tmp_path, made_up.edited(*MAJORITIES, GAPS))
  results = made_up.results(tmp_path, sheet)
  assert tables.table(results).rows == [
    ["Most frequent answer", "45.0", "45.0"],
    ["Prompt_tuning", "51.7 ± 5.8 (3)", "63.3 ± 14.4 (3)"],
    ["model", "55.0 ± 0.0 (3)", "55.0 ± 0.0 (3)"],
    ["Gap: model - Prompt_tuning", "+3.3 ± 5.8 (3)", "-8.3 ± 14.4 (3)"],
  ]
  assert tables.table_by_task(results).rows == [
    ["Most frequent answer", "40.0", "50.0"],
    ["Prompt_tuning, s", "46.7 ± 5.8 (3)", "56.7 ± 5.8 (3)"],
    ["Prompt_tuning, l", "56.7 ± 11.5 (3)", "70.0 ± 17.3 (3)"],
    ["model, s", "50.0 ± 0.0 (3)", "60.0 ± 0.0 (3)"],
    ["model, l", "50.0 ± 0.0 (3)", "60.0 ± 0.0 (3)"],
    ["Gap: model - Prompt_tuning, s", "+3.3 ± 5.8 (3)", "+3.3 ± 5.8 (3)"],
    ["Gap: model - Prompt_tuning, l", "-6.7 ± 11.5 (3)", "-10.0 ± 17.3 (3)"],
  ]


def test_a_run_on_a_mixture_is_split_into_its_tasks(tmp_path):
  sheet = made_up.sheet(tmp_path)
  cells = [x for x in sheet.cells() if x.name == "s-prompt-cb-seed0"]
  metrics = {"cb_prefixed": {"f1": 70.0}, "wic_prefixed": {"f1": 30.0}}
  best = {"step": 1, "metrics": metrics}
  results = made_up.results(tmp_path, sheet, cells, best=best)
  assert tables.table_by_task(results).rows == [
    ["Prompt_tuning, s", "70.0 (1)", "30.0 (1)"]
  ]


def test_tasks_as_columns(tmp_path):
  """Beside the mean, the parameters that train, and the gap in the last row."""
  text = made_up.edited(
    BY_TASK,
    ONE_SIZE,
    GAPS,
    *MAJORITIES,
    ("[layout]", "[layout]\nmean_column = true\nparameters = true"),
    ('figure = "lines"', 'figure = "dots"'),
  )
  sheet = made_up.sheet(tmp_path, text)
  results = made_up.results(tmp_path, sheet)
  table = tables.table(results)
  assert table.header == ["Method", "Trainable", "Share", "cb", "wic", "Mean"]
  assert table.rows == [
    ["Most frequent answer", "", "", "40.0", "50.0", "45.0"],
    [
      *("Prompt_tuning", "10", "1%"),
      *("46.7 ± 5.8 (3)", "56.7 ± 5.8 (3)", "51.7 ± 5.8 (3)"),
    ],
    [
      *("model", "990", "100%"),
      *("50.0 ± 0.0 (3)", "60.0 ± 0.0 (3)", "55.0 ± 0.0 (3)"),
    ],
    [
      *("Gap: model - Prompt_tuning", "", ""),
      *("+3.3 ± 5.8 (3)", "+3.3 ± 5.8 (3)", ""),
    ],
  ]
  for kind in ("dots", "parameters"):
    layout = sheet.layout.model_copy(update={"figure": kind})
    other = sheet.model_copy(update={"layout": layout, "paper": None})
    drawn = figures.draw(Results(other, results.archive))
    labels = drawn.axes[0].get_legend_handles_labels()[1]
    assert {"Prompt_tuning", "model"} <= set(labels)


def test_gap_of_rows_over_two_axes_is_of_rows_alike_but_for_one(tmp_path):
  text = made_up.edited(
    ('rows = ["method"]', 'rows = ["method", "size"]'), BY_TASK, NO_FIGURE, GAPS
  )
  assert _rows(tmp_path, text)[-2:] == [
    ["Gap: model - Prompt_tuning, s", "+3.3 ± 5.8 (3)", "+3.3 ± 5.8 (3)"],
    ["Gap: model - Prompt_tuning, l", "-6.7 ± 11.5 (3)", "-10.0 ± 17.3 (3)"],
  ]


def _view(**scores):
  """Makes a view of one column: row -> seed -> score."""
  places = [(row, 0, seed) for row, x in scores.items() for seed in x]
  index = pd.MultiIndex.from_tuples(places, names=["row", "column", "seed"])
  values = [x for row in scores.values() for x in row.values()]
  frame = pd.DataFrame({"score": values, "failed": False}, index=index)
  return View(frame, ["row"], "column")


@pytest.mark.parametrize(
  ("below", "expected"),
  [
    ({1: 60.0}, (10.0, math.nan, 1)),
    ({1: 60.0, 2: 70.0}, (15.0, math.hypot(200**0.5, 50**0.5), 2)),
    ({"": 50.0}, (30.0, math.nan, 1)),  # One without a seed is below all.
    ({3: math.nan}, None),
  ],
)
def test_gap_is_of_the_seeds_that_both_have(below, expected):
  view = _view(above={0: 80.0, 1: 70.0, 2: 90.0}, below=below)
  gap = view.gap(("above",), ("below",))
  if expected is None:
    assert gap.empty
  else:
    assert tuple(gap.loc[0]) == pytest.approx(expected, nan_ok=True)


def test_ensemble(tmp_path):
  grid = """[[grids]]
size = ["l"]
method = ["model"]
task = ["cb", "wic"]
[values.method.model.bindings]
SEED = 0
"""
  text = made_up.edited(
    ('columns = "size"\nmean_over = "task"', ""),
    ('rows = ["method"]', 'kind = "ensemble"\nrows = ["task"]'),
    ('kind = "ensemble"', 'kind = "ensemble"\ncolumns = "method"'),
    NO_FIGURE,
    ('size = ["s", "l"]', 'size = ["l"]'),
    ('["prompt", "model"]', '["prompt"]'),
    ("[values.size.s]", f"{grid}[values.size.s]"),
    ("[values.method.model]\n", ""),
  )
  assert _rows(
    tmp_path,
    text,
    lambda x: "seed" in x and (x["task"], x["seed"]) != ("wic", 2),
  ) == [
    # Average and best are of all prompts, or of none.
    ["cb", "56.7", "70.0", "-"],  # 50, 70, 50
    ["wic", "-", "-", "-"],
  ]
  assert _rows(tmp_path, text, lambda x: "seed" in x) == [
    ["cb", "56.7", "70.0", "-"],
    ["wic", "70.0", "90.0", "-"],  # 60, 90, 60
  ]
  assert _rows(tmp_path, text)[-1] == ["Mean", "63.3", "80.0", "55.0"]


def test_a_run_is_a_row_where_tasks_are_columns():
  """The probes of the ladder's pretraining, by the committed records."""
  sheet = sheets.load("ladder", ROOT / "configs")
  results = Results(sheet, Archive.load(ROOT / "results"))
  text = tables.table(results)
  assert text.header[0] == "Size and stage"
  assert sorted(text.header[1:]) == [
    *("Cause or effect", "Entailment", "Pronoun", "Truth", "Who", "Word sense")
  ]
  rows = {row[0]: dict(zip(text.header, row, strict=True)) for row in text.rows}
  assert rows["Guessing"]["Entailment"] == "33.3"
  # A task is in the ladder if the ability that it needs is there.
  adapted = rows["m, LM adaptation"]
  passed = {name for name in text.header[1:] if float(adapted[name]) >= 80}
  assert passed == {"Cause or effect", "Entailment", "Pronoun", "Truth"}
  line = "ours,ladder,ladder_m/lm,ladder_probe_truth,98.0,,1\n"
  assert line in tables.csv_text([results])
