"""Tables, from records that are made up here."""

import pathlib

import made_up
import pytest

from prompt_tuning.experiments import figures, sheets, tables
from prompt_tuning.experiments.archive import Archive
from prompt_tuning.experiments.results import Results

ROOT = pathlib.Path(__file__).parents[2]


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


def test_record_without_scores_is_no_score(tmp_path):
  sheet = made_up.sheet(tmp_path)
  made_up.file(tmp_path, sheet.cells()[:12])
  others = sheet.cells()[12:]
  results = made_up.results(tmp_path, sheet, others, evals=[], best=None)
  assert tables.of_scores(results).rows == [
    ["Prompt_tuning", "51.7 ± 5.8 (3)", "-"],
    ["model", "55.0 ± 0.0 (3)", "-"],
  ]
  assert not any("l" in row for row in tables.csv_rows(results))


def test_means_over_tasks_come_with_each_task(tmp_path):
  text = made_up.SHEET.replace(
    "[values.task.cb]", "[values.task.cb]\nmajority = 40.0"
  )
  text = text.replace("[values.task.wic]", "[values.task.wic]\nmajority = 50.0")
  text = text.replace("[layout]", '[layout]\ngaps = [["model", "prompt"]]')
  sheet = made_up.sheet(tmp_path, text)
  results = made_up.results(tmp_path, sheet)
  assert tables.of_scores(results).rows == [
    ["Most frequent answer", "45.0", "45.0"],
    ["Prompt_tuning", "51.7 ± 5.8 (3)", "63.3 ± 14.4 (3)"],
    ["model", "55.0 ± 0.0 (3)", "55.0 ± 0.0 (3)"],
    ["Gap: model - Prompt_tuning", "+3.3 ± 5.8 (3)", "-8.3 ± 14.4 (3)"],
  ]
  assert tables.by_task(results).rows == [
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
  assert tables.by_task(results).rows == [
    ["Prompt_tuning, s", "70.0 (1)", "30.0 (1)"]
  ]


def test_tasks_as_columns(tmp_path):
  text = made_up.SHEET.replace(
    'columns = "size"\nmean_over = "task"', ""
  ).replace("[layout]", '[layout]\ncolumns = "task"\nmean_column = true\n')
  text = text.replace('size = ["s", "l"]', 'size = ["s"]')
  text = text.replace('figure = "lines"', 'parameters = true\nfigure = "dots"')
  for task in ("cb", "wic"):
    text = text.replace(
      f"[values.task.{task}]", f"[values.task.{task}]\nmajority = 50.0"
    )
  sheet = made_up.sheet(tmp_path, text)
  results = made_up.results(tmp_path, sheet)
  table = tables.of_scores(results)
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
    other = sheet.model_copy(update={"layout": layout, "paper": None})
    drawn = figures.of_results(Results(other, results.archive))
    labels = drawn.axes[0].get_legend_handles_labels()[1]
    assert {"Prompt_tuning", "model"} <= set(labels)


def test_gap_stands_last_beside_mean_and_parameters(tmp_path):
  text = made_up.SHEET.replace('columns = "size"\nmean_over = "task"', "")
  text = text.replace('size = ["s", "l"]', 'size = ["s"]')
  text = text.replace(
    "[layout]",
    '[layout]\ncolumns = "task"\nmean_column = true\nparameters = true\n'
    'gaps = [["model", "prompt"]]',
  )
  sheet = made_up.sheet(tmp_path, text)
  results = made_up.results(tmp_path, sheet)
  assert tables.of_scores(results).rows[-1] == [
    *("Gap: model - Prompt_tuning", "", ""),
    *("+3.3 ± 5.8 (3)", "+3.3 ± 5.8 (3)", ""),
  ]


def test_gap_of_rows_over_two_axes_is_of_rows_alike_but_for_one(tmp_path):
  text = made_up.SHEET.replace(
    'rows = ["method"]\ncolumns = "size"\nmean_over = "task"',
    'rows = ["method", "size"]\ncolumns = "task"\ngaps = [["model", "prompt"]]',
  )
  text = text.replace('figure = "lines"', "")
  results = made_up.results(tmp_path, made_up.sheet(tmp_path, text))
  assert tables.of_scores(results).rows[-2:] == [
    ["Gap: model - Prompt_tuning, s", "+3.3 ± 5.8 (3)", "+3.3 ± 5.8 (3)"],
    ["Gap: model - Prompt_tuning, l", "-6.7 ± 11.5 (3)", "-10.0 ± 17.3 (3)"],
  ]


def test_ensemble(tmp_path):
  text = made_up.SHEET.replace(
    'columns = "size"\nmean_over = "task"', ""
  ).replace(
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
  sheet = made_up.sheet(tmp_path, text)
  prompts = [cell for cell in sheet.cells() if "seed" in cell.point]
  results = made_up.results(tmp_path, sheet, prompts[:-1])
  # Average and best are of all prompts, or of none.
  assert tables.of_ensemble(results).rows == [
    ["cb", "56.7", "70.0", "-"],  # 50, 70, 50
    ["wic", "-", "-", "-"],
  ]
  results = made_up.results(tmp_path, sheet, prompts)
  assert tables.of_ensemble(results).rows == [
    ["cb", "56.7", "70.0", "-"],  # 50, 70, 50
    ["wic", "70.0", "90.0", "-"],  # 60, 90, 60
  ]
  results = made_up.results(tmp_path, sheet)
  assert tables.of_ensemble(results).rows[-1] == [
    *("Mean", "63.3", "80.0", "55.0")
  ]


def test_a_run_is_a_row_where_tasks_are_columns():
  """The probes of the ladder's pretraining, by the committed records."""
  sheet = sheets.load("ladder", ROOT / "configs")
  results = Results(sheet, Archive.load(ROOT / "results"))
  text = tables.of_tasks(results)
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
  lines = [*tables.csv_rows(results)]
  assert [
    "ours",
    "ladder",
    "ladder_m/lm",
    "ladder_probe_truth",
    98.0,
    "",
    1,
  ] in (lines)
