"""Tests of results and their tables, from made-up records."""

import math
import shutil

import made_up
from made_up import BY_TASK, NO_FIGURE, ONE_SIZE
import pytest

from prompt_tuning.experiments import figures, pages, tables, text_tables
from prompt_tuning.experiments.records import Archive
from prompt_tuning.experiments.results import Results, View

GAPS = ("[layout]", '[layout]\ngaps = [["model", "prompt"]]')
MEAN = ("[layout]", "[layout]\nmean_column = true")
COSTS = ("[layout]", "[layout]\nparameters = true\ncosts = true")
NO_SIZE = (('size = ["s", "l"]', ""), ('SIZE = "$size"', 'SIZE = "s"'))
NO_SEED = (("seed = [0, 1, 2]", ""), ('SEED = "$seed"', "SEED = 0"))
RUNS = ["method", "size", "task", "seed"]
ONE_ROW = (
  'rows = ["method"]\ncolumns = "size"',
  'rows = []\ncolumns = "method"',
)
# A second grid has only one task, with more seeds and another method.
ONE_TASK = (
  ('method = ["prompt", "model"]', 'method = ["prompt"]'),
  (
    "[values.size.s]",
    '[[grids]]\nsize = ["s"]\nmethod = ["prompt", "model"]\ntask = ["cb"]\n'
    "seed = [3, 4]\n[values.size.s]",
  ),
)


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


def _some_are_there(point):
  return (
    point["method"] == "prompt"
    and (point["seed"], point["task"]) != (0, "wic")
    and not (point["seed"] == 1 and point["size"] == "l")
  )


@pytest.mark.parametrize(
  ("edits", "cells", "expected"),
  [
    # Means over tasks, then seeds: 45, 55, 55, and 55, 80, 55.
    (
      [],
      None,
      """Prompt_tuning | 51.7 ± 5.8 (3) | 63.3 ± 14.4 (3)
      model | 55.0 ± 0.0 (3) | 55.0 ± 0.0 (3)""",
    ),
    # A seed counts once all of its tasks have records.
    (
      [],
      _some_are_there,
      "Prompt_tuning | 55.0 ± 0.0 (2) | 55.0 (1)\nmodel | - | -",
    ),
    # The records have no memory figure.
    (
      [COSTS],
      _some_are_there,
      """Prompt_tuning | 10 | 1% | 250.0 | - | 55.0 ± 0.0 (2) | 55.0 (1)
      model | - | - | - | - | - | -""",
    ),
    # A sweep of seeds alone has no axis for rows.
    ([ONE_SIZE, ONE_ROW], None, " | 51.7 ± 5.8 (3) | 55.0 ± 0.0 (3)"),
    # A mean over the columns; the table and the seeds use all axes.
    (
      [BY_TASK, NO_FIGURE, *NO_SIZE, MEAN],
      lambda x: x["method"] == "prompt",
      """Prompt_tuning | 46.7 ± 5.8 (3) | 56.7 ± 5.8 (3) | 51.7 ± 5.8 (3)
      model | - | - | -""",
    ),
    (
      [BY_TASK, NO_FIGURE, *NO_SIZE, *NO_SEED, MEAN],
      None,
      """Prompt_tuning | 40.0 (1) | 50.0 (1) | 45.0 (1)
      model | 50.0 (1) | 60.0 (1) | 55.0 (1)""",
    ),
    # A row or a seed without one of the tasks has no mean.
    (
      [ONE_SIZE, BY_TASK, NO_FIGURE, MEAN, *ONE_TASK],
      None,
      """Prompt_tuning | 48.0 ± 4.5 (5) | 56.7 ± 5.8 (3) | 51.7 ± 5.8 (3)
      model | 50.0 ± 0.0 (2) | - | -""",
    ),
    # With two row axes, a gap compares rows that differ in one of them.
    (
      [
        *(BY_TASK, NO_FIGURE, GAPS),
        ('rows = ["method"]', 'rows = ["method", "size"]'),
      ],
      None,
      """Prompt_tuning, s | 46.7 ± 5.8 (3) | 56.7 ± 5.8 (3)
      model, s | 50.0 ± 0.0 (3) | 60.0 ± 0.0 (3)
      Prompt_tuning, l | 56.7 ± 11.5 (3) | 70.0 ± 17.3 (3)
      model, l | 50.0 ± 0.0 (3) | 60.0 ± 0.0 (3)
      Gap: model - Prompt_tuning, s | +3.3 ± 5.8 (3) | +3.3 ± 5.8 (3)
      Gap: model - Prompt_tuning, l | -6.7 ± 11.5 (3) | -10.0 ± 17.3 (3)""",
    ),
  ],
)
def test_table(tmp_path, edits, cells, expected):
  sheet = made_up.sheet(tmp_path, made_up.edited(*edits))
  some = [x for x in sheet.cells() if cells is None or cells(x.point)]
  results = made_up.results(tmp_path, sheet, some)
  lines = [line.strip() for line in expected.splitlines()]
  assert [" | ".join(x).strip() for x in tables.table(results).rows] == lines
  if ONE_ROW in edits:
    assert "ours,x,,prompt,51.6" in tables.csv_text([results])
    assert figures.draw(results).axes[0].lines


def test_record_without_scores_is_no_score(tmp_path):
  sheet = made_up.sheet(tmp_path)
  made_up.file(tmp_path, sheet.cells()[:12])
  others = sheet.cells()[12:]
  results = made_up.results(tmp_path, sheet, others, evals=[], best=None)
  assert [x[1:] for x in tables.table(results).rows] == [
    ["51.7 ± 5.8 (3)", "-"],
    ["55.0 ± 0.0 (3)", "-"],
  ]
  assert ",l," not in tables.csv_text([results])


def test_score_of_a_layout_may_be_one_metric(tmp_path):
  metric = ("[layout]", '[layout]\nmetric = "f1"')
  sheet = made_up.sheet(tmp_path, made_up.edited(metric))
  metrics = {"cb": {"accuracy": 90.0, "f1": 40.0}, "qa": {"em": 10.0}}
  best = {"step": 1, "score": 60.0, "metrics": metrics}
  results = made_up.results(tmp_path, sheet, evals=[best], best=best)
  for row in tables.table(results).rows:
    assert row[1:] == ["40.0 ± 0.0 (3)", "40.0 ± 0.0 (3)"]
  runs = ('rows = ["method"]', f'kind = "tasks"\nrows = {RUNS}')
  usual = ("[values.task.wic]", "[values.task.wic]\nmajority = 35.0")
  text = made_up.edited(metric, runs, BY_TASK, NO_FIGURE, usual)
  runs = Results(made_up.sheet(tmp_path, text), results.archive)
  assert {tuple(x[1:]) for x in tables.table(runs).rows} == {("40.0",)}
  assert ",90.0," not in tables.csv_text([runs])
  metric = ("[layout]", '[layout]\nmetric = "f2"')
  sheet = made_up.sheet(tmp_path, made_up.edited(metric))
  with pytest.raises(ValueError, match=r"x/s-.* no task .* the metric 'f2'"):
    tables.table(Results(sheet, results.archive))


def test_run_that_was_stopped_has_no_scores_of_later_steps(tmp_path):
  sheet = made_up.sheet(tmp_path)
  evals = [
    {"step": 1000 + step, "score": x, "metrics": {"cb": {"accuracy": x}}}
    for step, x in ((10, 40.0), (20, 60.0), (30, 50.0))
  ]
  steps = {"first": 1000, "last": 2000}
  results = made_up.results(
    tmp_path, sheet, status="stopped", evals=evals, steps=steps, step=1030
  )
  record = results.runs[0].record
  assert record.after(30).score == 60.0  # The best until then.
  assert record.after(40) is None
  # A run may choose its best evaluation by a loss.
  lowest = record.model_copy(update={"best": record.evals[0]})
  assert lowest.after(30).score == 40.0
  after = ('columns = "size"', 'columns = "steps"\nafter = [40]')
  later = made_up.sheet(tmp_path, made_up.edited(after, ONE_SIZE))
  assert pages.sheet_files(Results(later, results.archive)) == {}
  text = made_up.edited(after, ("seed = [", "steps = [1, 2]\nseed = ["))
  with pytest.raises(ValueError, match="an own axis steps"):
    made_up.sheet(tmp_path, text)


def test_own_record_counts_before_that_of_another_sheet(tmp_path):
  sheet = made_up.sheet(tmp_path)
  cell, *_ = sheet.cells()
  made_up.file(tmp_path, [cell])
  shutil.copytree(tmp_path / "results" / "x", tmp_path / "results" / "a")
  found = Archive(tmp_path, tmp_path / "results").find(cell)
  assert found.path.parent.name == "x"


@pytest.mark.parametrize(
  ("below", "expected"),
  [
    ({1: 60.0}, (10.0, math.nan, 1)),
    ({1: 60.0, 2: 70.0}, (15.0, math.hypot(200**0.5, 50**0.5), 2)),
    ({"": 50.0}, (30.0, math.nan, 1)),  # No seed: paired with all.
    ({3: math.nan}, None),
  ],
)
def test_gap_is_of_the_seeds_that_both_have(below, expected):
  rows = {"above": {0: 80.0, 1: 70.0, 2: 90.0}, "below": below}
  runs = [
    ({"row": row, "column": 0, "seed": seed}, {"score": x, "failed": False})
    for row, some in rows.items()
    for seed, x in some.items()
  ]
  gap = View(runs, ["row"], "column").gap("above", "below")
  assert gap.get(0) == pytest.approx(expected, nan_ok=True)


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
  sheet = made_up.sheet(tmp_path, text)
  cells = {x.name: x for x in sheet.cells()}
  last = cells.pop("l-prompt-wic-seed2")
  prompts = [x for name, x in cells.items() if "seed" in name]
  results = made_up.results(tmp_path, sheet, prompts)
  assert tables.table(results).rows == [
    # The average and the best need all prompts.
    ["cb", "56.7", "70.0", "-"],  # 50, 70, 50
    ["wic", "-", "-", "-"],
  ]
  results = made_up.results(tmp_path, sheet, [last])
  wic = ["wic", "70.0", "90.0", "-"]  # 60, 90, 60
  assert tables.table(results).rows[1] == wic


def test_tables_of_texts_quote_the_signs_of_their_format():
  table = text_tables.Table(["a_b", "n"], [["x|y", "1"], ["longer", "20 ± 1"]])
  assert table.markdown().splitlines() == [
    "| a_b | n |",
    "| --- | ---: |",
    "| x\\|y | 1 |",
    "| longer | 20 ± 1 |",
  ]
  lines = table.latex().splitlines()
  assert lines[0] == r"\begin{tabular}{lr}"
  assert r"a\_b & n \\" in lines
  assert r"longer & 20 $\pm$ 1 \\" in lines
  signs = text_tables.Table([], [[r"a\b", "{x}", "2^3", "$5", "~7"]])
  assert signs.latex().splitlines()[-3] == (
    r"a\textbackslash{}b & \{x\} & 2\textasciicircum{}3 & \$5 & $\sim$7 \\"
  )
