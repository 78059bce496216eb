"""Tables, figures and pages, from records that are made up here."""

import io
import json
import pathlib

from matplotlib import image
import numpy as np
import pytest

from prompt_tuning import figures, pages, records, scores, sheets, tables

ROOT = pathlib.Path(__file__).parents[1]
SHEET = """
title = "Scores"
about = "What comes out."
budget = "a minute"
command = "python -m t5x.train --gin.SIZE=1 '--gin.MODEL_DIR=\\"x\\"'"
[programs.train]
module = "t5x.train"
folder = "MODEL_DIR"
gin_files = []
bindings = {SIZE = "$size", METHOD = "$method", TASK = "$task", SEED = "$seed"}
[[grids]]
size = ["s", "l"]
method = ["prompt", "model"]
task = ["cb", "wic"]
seed = [0, 1, 2]
[values.size.s]
[values.size.l]
[values.method.prompt]
label = "Prompt_tuning"
[values.method.model]
[values.task.cb]
[values.task.wic]
[layout]
rows = ["method"]
columns = "size"
mean_over = "task"
figure = "lines"
[paper]
source = "Figure 1"
columns = ["Small", "XXL"]
x = [77e6, 11e9]
note = "Read off."
[[paper.rows]]
label = "Prompt tuning"
row = "prompt"
values = [58.5, "~89.9"]
band = [[57.0, 60.0], [89.0, 91.0]]
how = "figure"
source = "Figure 1"
"""
# Size, method, seed -> the two tasks' scores; 50 and 60 elsewhere.
SCORES = {("s", "prompt", 0): (40.0, 50.0), ("l", "prompt", 1): (70.0, 90.0)}


def _sheet(tmp_path, text=SHEET):
  path = tmp_path / "configs" / "x.toml"
  path.parent.mkdir(exist_ok=True)
  path.write_text(text)
  return sheets.load(path, path.parent)


def _record(cell, **overrides):
  score = SCORES.get(
    (cell.point["size"], cell.point["method"], cell.point["seed"]), (50.0, 60.0)
  )[cell.point["task"] == "wic"]
  metrics = {"accuracy": score + 5, "f1": score - 5, "invalid": 30.0}
  evaluation = {"step": 1, "metrics": {cell.point["task"]: metrics}}
  return {
    "schema": 1,
    "kind": "train",
    "status": "finished",
    "started": "now",
    "command": cell.command,
    "commit": "0123456789",
    "versions": {"jax": "0"},
    "device": {"platform": "cpu", "cpus": 2},
    "gin": "A = 1",
    "seconds": 360.0,
    "parameters": {
      "trainable": 10 if cell.point["method"] == "prompt" else 990,
      "frozen": 990 if cell.point["method"] == "prompt" else 0,
    },
    "evals": [evaluation],
    "best": evaluation,
    **overrides,
  }


def _file(tmp_path, cells, **overrides):
  folder = tmp_path / "results" / "x"
  folder.mkdir(parents=True, exist_ok=True)
  for cell in cells:
    text = json.dumps(_record(cell, **overrides))
    (folder / f"{cell.name}.json").write_text(text)
  return records.load(tmp_path / "results")


def _entries(sheet, known):
  return {
    (row[0], column): str(entry)
    for (row, column), entry in scores.of_sheet(sheet, known).entries.items()
  }


def test_scores_are_means_over_tasks_then_seeds(tmp_path):
  sheet = _sheet(tmp_path)
  assert _entries(sheet, _file(tmp_path, sheet.cells())) == {
    ("prompt", "s"): "51.7 ± 5.8 (3)",  # 45, 55, 55
    ("prompt", "l"): "63.3 ± 14.4 (3)",  # 55, 80, 55
    ("model", "s"): "55.0 ± 0.0 (3)",
    ("model", "l"): "55.0 ± 0.0 (3)",
  }


def test_seed_counts_once_all_its_tasks_are_there(tmp_path):
  sheet = _sheet(tmp_path)
  some = [
    cell
    for cell in sheet.cells()
    if cell.point["method"] == "prompt"
    and (cell.point["seed"], cell.point["task"]) != (0, "wic")
    and not (cell.point["seed"] == 1 and cell.point["size"] == "l")
  ]
  assert _entries(sheet, _file(tmp_path, some)) == {
    ("prompt", "s"): "55.0 ± 0.0 (2)",
    ("prompt", "l"): "55.0 (1)",
    ("model", "s"): "-",
    ("model", "l"): "-",
  }


def test_failed_runs_are_named(tmp_path):
  sheet = _sheet(tmp_path)
  cells = sheet.cells()
  _file(tmp_path, cells[:6])
  known = _file(
    tmp_path, cells[6:12], status="failed", error="it broke", best=None
  )
  assert _entries(sheet, known)["model", "s"] == "failed"
  page = pages.of_sheet(sheet, known)["x.md"].decode()
  assert "24 cells: 6 failed, 6 finished, 12 not run yet; 0.6 hours" in page
  assert "* s-model-cb-seed0: it broke" in page


def test_one_metric_of_several(tmp_path):
  sheet = _sheet(tmp_path, SHEET.replace("[paper]", 'metric = "f1"\n[paper]'))
  known = _file(tmp_path, sheet.cells())
  assert _entries(sheet, known)["model", "s"] == "50.0 ± 0.0 (3)"
  sheet = _sheet(tmp_path, SHEET.replace("[paper]", 'metric = "em"\n[paper]'))
  with pytest.raises(ValueError, match="no metric 'em'"):
    scores.of_sheet(sheet, known)


def test_page_of_a_sheet(tmp_path):
  sheet = _sheet(tmp_path)
  assert pages.of_sheet(sheet, {}) == {}
  files = pages.of_sheet(sheet, _file(tmp_path, sheet.cells()))
  assert set(files) == {
    f"x.{end}" for end in ("md", "csv", "tex", "svg", "png")
  }
  page = files["x.md"].decode()
  assert "| Prompt_tuning | 51.7 ± 5.8 (3) | 63.3 ± 14.4 (3) |" in page
  assert "| Prompt tuning | 58.5 | ~89.9 | Figure 1, read off the" in page
  assert "Read off." in page
  assert "CPU, 2 cores (24 runs)" in page
  assert "0123456 (24 runs)" in page
  assert r"Prompt\_tuning & 51.7 $\pm$ 5.8 (3)" in files["x.tex"].decode()
  lines = files["x.csv"].decode().splitlines()
  assert lines[0] == "source,sheet,row,column,mean,std,n"
  assert any(line.startswith("ours,x,prompt,s,51.66") for line in lines)
  assert "Figure 1 (figure),x,Prompt tuning,XXL,89.9,," in lines


def test_tasks_as_columns(tmp_path):
  text = SHEET.replace('columns = "size"\nmean_over = "task"', "").replace(
    "[layout]", '[layout]\ncolumns = "task"\nmean_column = true\n'
  )
  text = text.replace('size = ["s", "l"]', 'size = ["s"]')
  text = text.replace('figure = "lines"', 'parameters = true\nfigure = "dots"')
  for task in ("cb", "wic"):
    text = text.replace(
      f"[values.task.{task}]", f"[values.task.{task}]\nmajority = 50.0"
    )
  sheet = _sheet(tmp_path, text)
  known = _file(tmp_path, sheet.cells())
  table = tables.score_text(sheet, known)
  assert table.header == ["Method", "Trainable", "Share", "cb", "wic", "Mean"]
  assert table.rows == [
    ["Most frequent answer", "", "", "50.0", "50.0", "50.0"],
    [
      *("Prompt_tuning", "10", "1%"),
      *("46.7 ± 5.8 (3)", "56.7 ± 5.8 (3)", "51.7 ± 5.8 (3)"),
    ],
    [
      *("model", "990", "100%"),
      *("50.0 ± 0.0 (3)", "60.0 ± 0.0 (3)", "55.0 ± 0.0 (3)"),
    ],
  ]
  for kind in ("dots", "parameters"):
    layout = sheet.layout.model_copy(update={"figure": kind})
    drawn = figures.of_sheet(
      sheet.model_copy(update={"layout": layout, "paper": None}), known
    )
    labels = drawn.axes[0].get_legend_handles_labels()[1]
    assert {"Prompt_tuning", "model"} <= set(labels)


def test_means_over_tasks_come_with_each_task(tmp_path):
  text = SHEET.replace("[values.task.cb]", "[values.task.cb]\nmajority = 40.0")
  text = text.replace("[values.task.wic]", "[values.task.wic]\nmajority = 50.0")
  text = text.replace("[layout]", '[layout]\ngap = ["model", "prompt"]')
  sheet = _sheet(tmp_path, text)
  known = _file(tmp_path, sheet.cells())
  assert tables.score_text(sheet, known).rows == [
    ["Most frequent answer", "45.0", "45.0"],
    ["Prompt_tuning", "51.7 ± 5.8 (3)", "63.3 ± 14.4 (3)"],
    ["model", "55.0 ± 0.0 (3)", "55.0 ± 0.0 (3)"],
    ["Gap: model - Prompt_tuning", "+3.3", "-8.3"],
  ]
  assert tables.by_task_text(sheet, known).rows == [
    ["Most frequent answer", "40.0", "50.0"],
    ["Prompt_tuning, s", "46.7 ± 5.8 (3)", "56.7 ± 5.8 (3)"],
    ["Prompt_tuning, l", "56.7 ± 11.5 (3)", "70.0 ± 17.3 (3)"],
    ["model, s", "50.0 ± 0.0 (3)", "60.0 ± 0.0 (3)"],
    ["model, l", "50.0 ± 0.0 (3)", "60.0 ± 0.0 (3)"],
  ]


def test_a_run_on_a_mixture_is_split_into_its_tasks(tmp_path):
  sheet = _sheet(tmp_path)
  cells = [x for x in sheet.cells() if x.name == "s-prompt-cb-seed0"]
  metrics = {"cb_prefixed": {"f1": 70.0}, "wic_prefixed": {"f1": 30.0}}
  best = {"step": 1, "metrics": metrics}
  known = _file(tmp_path, cells, best=best)
  assert tables.by_task_text(sheet, known).rows == [
    ["Prompt_tuning, s", "70.0 (1)", "30.0 (1)"]
  ]


def test_tables_are_written_into_a_page_of_prose(tmp_path):
  sheet = _sheet(tmp_path)
  known = _file(tmp_path, sheet.cells())
  page = (
    "A\n<!-- ours: x -->\nold\n<!-- end -->\n<!-- paper: x -->\n<!-- end -->\nB"
  )
  filled = pages.fill(page, {"x": sheet}, known)
  assert "old" not in filled
  assert "| Prompt_tuning | 51.7 ± 5.8 (3) | 63.3 ± 14.4 (3) |" in filled
  assert "| Prompt tuning | 58.5 | ~89.9 | Figure 1, read off" in filled
  assert filled.startswith("A\n<!-- ours: x -->\n\n| Method")
  assert filled.endswith("<!-- end -->\nB")
  assert pages.fill(filled, {"x": sheet}, known) == filled
  with pytest.raises(ValueError, match="<!-- ours: y --> names no sheet"):
    pages.fill(page.replace("ours: x", "ours: y"), {"x": sheet}, known)
  with pytest.raises(ValueError, match="no <!-- end --> of its own"):
    pages.fill(page.replace("<!-- end -->\n", "", 1), {"x": sheet}, known)


def test_lines_are_the_scores(tmp_path):
  sheet = _sheet(tmp_path)
  figure = figures.of_sheet(sheet, _file(tmp_path, sheet.cells()))
  ours, paper = figure.axes
  np.testing.assert_allclose(ours.lines[0].get_ydata(), [51.667, 63.333], 1e-3)
  assert ours.lines[0].get_color() == paper.lines[0].get_color()
  np.testing.assert_array_equal(paper.lines[0].get_xdata(), [77e6, 11e9])
  np.testing.assert_array_equal(paper.lines[0].get_ydata(), [58.5, 89.9])
  labels = [tick.get_text() for tick in paper.get_xticklabels()]
  assert labels == ["Small\n77M", "XXL\n11B"]


def test_ensemble(tmp_path):
  text = SHEET.replace('columns = "size"\nmean_over = "task"', "").replace(
    '[layout]\nrows = ["method"]',
    '[layout]\nkind = "ensemble"\nrows = ["task"]\ncolumns = "method"',
  )
  text = text.replace('figure = "lines"', "")
  text = text.replace('size = ["s", "l"]', 'size = ["l"]')
  text = text.replace('["prompt", "model"]', '["prompt"]')
  text = text.replace(
    "[values.size.s]",
    '[[grids]]\nsize = ["l"]\nmethod = ["model"]\ntask = ["cb", "wic"]\n'
    "[values.method.model.bindings]\nSEED = 0\n[values.size.s]",
  )
  text = text.replace("[values.method.model]\n", "")
  sheet = _sheet(tmp_path, text)
  _file(tmp_path, [cell for cell in sheet.cells() if "seed" in cell.point])
  known = records.load(tmp_path / "results")
  assert tables.ensemble_text(sheet, known).rows == [
    ["cb", "56.7", "70.0", "-"],  # 50, 70, 50
    ["wic", "70.0", "90.0", "-"],  # 60, 90, 60
  ]
  for cell in sheet.cells():
    if "seed" not in cell.point:
      point = {**cell.point, "seed": 0}
      folder = tmp_path / "results" / "x"
      fields = _record(
        sheets.Cell("x", cell.name, point, "", True, cell.command)
      )
      (folder / f"{cell.name}.json").write_text(json.dumps(fields))
  known = records.load(tmp_path / "results")
  assert tables.ensemble_text(sheet, known).rows[-1] == [
    *("Mean", "63.3", "80.0", "55.0")
  ]


def test_same_records_make_the_same_files(tmp_path):
  sheet = _sheet(tmp_path)
  known = _file(tmp_path, sheet.cells())
  files = pages.of_sheet(sheet, known)
  assert files == pages.of_sheet(sheet, known)
  pages.write(files, tmp_path)
  assert pages.differences(files, tmp_path) == []


def test_differences_are_found(tmp_path):
  sheet = _sheet(tmp_path)
  files = pages.of_sheet(sheet, _file(tmp_path, sheet.cells()))
  pages.write(files, tmp_path)
  (tmp_path / "x.md").unlink()
  (tmp_path / "x.csv").write_text("other")
  pixels = image.imread(io.BytesIO(files["x.png"]))
  # The same picture, compressed in another way, and one that is darker.
  image.imsave(tmp_path / "x.png", pixels)
  assert (tmp_path / "x.png").read_bytes() != files["x.png"]
  assert pages.differences(files, tmp_path) == [
    "x.csv differs",
    "x.md is missing",
  ]
  image.imsave(tmp_path / "x.png", pixels * [0.5, 0.5, 0.5, 1])
  assert "x.png differs" in pages.differences(files, tmp_path)


def test_a_run_is_a_row_where_tasks_are_columns():
  """The probes of the ladder's pretraining, by the committed records."""
  sheet = sheets.load(ROOT / "configs" / "ladder.toml", ROOT / "configs")
  known = records.load(ROOT / "results" / "ladder")
  text = tables.task_text(sheet, known)
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
