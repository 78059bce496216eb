"""Figures: where things lie, and in which colour."""

import made_up
import numpy as np
import pytest

from prompt_tuning.experiments import figure_styles, figures, tables
from prompt_tuning.experiments.results import Results

LENGTHS = (
  made_up.SHEET.split("[paper]")[0]
  .replace('size = ["s", "l"]', "length = [5, 20]")
  .replace('columns = "size"', 'columns = "length"\nx_label = "Length"')
  .replace('SIZE = "$size"', 'LENGTH = "$length"')
)


@pytest.mark.parametrize(
  "meaning", ["", "[values.length.5]\nx = 5\n[values.length.20]\nx = 20\n"]
)
def test_x_of_a_column_of_numbers_is_the_number(tmp_path, meaning):
  sheet = made_up.sheet(tmp_path, LENGTHS + meaning)
  results = made_up.results(tmp_path, sheet)
  assert tables.table(results).header == ["Method", "5", "20"]
  (panel,) = figures.draw(results).axes
  assert [list(line.get_xdata()) for line in panel.lines] == [[5, 20]] * 2
  labels = [tick.get_text() for tick in panel.get_xticklabels()]
  assert labels == ["5", "20"]
  assert panel.get_xlabel() == "Length"
  assert panel.get_xscale() == "linear"


def test_numbers_far_apart_lie_on_a_logarithmic_axis(tmp_path):
  sheet = made_up.sheet(tmp_path, LENGTHS.replace("[5, 20]", "[1, 100]"))
  (panel,) = figures.draw(made_up.results(tmp_path, sheet)).axes
  assert panel.get_xscale() == "log"


def test_each_task_has_a_panel_and_the_last_is_their_mean(tmp_path):
  text = made_up.SHEET.split("[paper]")[0].replace(
    'figure = "lines"', 'figure = "lines"\npanels = true'
  )
  text = text.replace("[values.task.cb]", "[values.task.cb]\nmajority = 33.0")
  sheet = made_up.sheet(tmp_path, text)
  results = made_up.results(tmp_path, sheet)
  panels = [x for x in figures.draw(results).axes if x.get_visible()]
  assert [x.get_title() for x in panels] == ["cb", "wic", "Mean"]
  # Of the prompt at s: 40, 50, 50 on cb, and 50, 60, 60 on wic.
  first = [x.lines[0].get_ydata()[0] for x in panels]
  np.testing.assert_allclose(first, [140 / 3, 170 / 3, 155 / 3])
  # The most frequent answer is known of cb alone.
  assert [len(x.lines) for x in panels] == [3, 2, 2]


def test_model_has_its_size_in_heading_and_figure(tmp_path):
  sheet = made_up.sheet(tmp_path)
  results = made_up.results(tmp_path, sheet)
  assert tables.table(results).header == ["Method", "s, 990", "l, 990"]
  assert results.xs == {"s": 990, "l": 990}


def _dots():
  """A sheet of dots by task, at one size."""
  text = made_up.SHEET.split("[paper]")[0].replace(
    'columns = "size"\nmean_over = "task"', ""
  )
  text = text.replace("[layout]", '[layout]\ncolumns = "task"')
  text = text.replace('size = ["s", "l"]', 'size = ["s"]')
  return text.replace('figure = "lines"', 'figure = "dots"')


def test_legend_of_dots_names_what_is_known_of_a_later_task_alone(tmp_path):
  text = _dots().replace(
    "[values.task.wic]", "[values.task.wic]\nmajority = 33.0"
  )
  results = made_up.results(tmp_path, made_up.sheet(tmp_path, text))
  (panel,) = figures.draw(results).axes
  _, labels = panel.get_legend_handles_labels()
  assert labels.count("Most frequent answer") == 1


def test_frozen_model_does_not_stretch_the_axis(tmp_path):
  """It is marked where it lies below what trains."""
  sheet = made_up.sheet(tmp_path, _dots())
  cells = {x.name: x for x in sheet.cells()}
  made_up.file(tmp_path, [x for n, x in cells.items() if "prompt" in n])
  nothing = {"step": 0, "metrics": {"cb": {"accuracy": 2.0}}}
  archive = made_up.file(
    tmp_path,
    [x for n, x in cells.items() if "model-cb" in n],
    best=nothing,
    parameters={"trainable": 0, "frozen": 990},
  )
  (panel,) = figures.draw(Results(sheet, archive)).axes
  assert panel.get_ylim()[0] == 30  # The lowest that trains is at 40.9.
  assert [text.get_text() for text in panel.texts] == ["2"]


def test_axis_of_lines_begins_at_zero_where_scores_are_low(tmp_path):
  sheet = made_up.sheet(tmp_path)
  figure = figures.draw(made_up.results(tmp_path, sheet))
  assert figure.axes[0].get_ylim()[0] == 40
  low = {"step": 1, "metrics": {"cb": {"f1": 8.0}}}
  some = [x for x in sheet.cells() if x.point["method"] == "model"]
  results = made_up.results(tmp_path, sheet, some, best=low)
  assert figures.draw(results).axes[0].get_ylim()[0] == 0


def test_method_has_one_style_whatever_stands_beside_it():
  names = ["lora", "model_tuning", "prompt_tuning"]
  alone = figure_styles.styles({"prompt_tuning": "prompt_tuning"})
  among = figure_styles.styles({x: x for x in names})
  assert among["prompt_tuning"] == alone["prompt_tuning"]
  assert len({x.color for x in among.values()}) == 3
  assert len({x.marker for x in among.values()}) == 3


def test_variants_of_a_method_are_shades_of_its_colour():
  styles = figure_styles.styles(
    {x: "prompt_tuning" for x in ("1", "20", "100")}
  )
  assert len({x.color for x in styles.values()}) == 3
  assert len({x.marker for x in styles.values()}) == 3
  brightness = [int(x.color[-2:], 16) for x in styles.values()]
  np.testing.assert_array_equal(brightness, sorted(brightness)[::-1])
  both = figure_styles.styles(
    {x: x for x in ("prompt_tuning", "prompt_tuning_100")}
  )
  alone = figure_styles.styles({"prompt_tuning": "prompt_tuning"})
  assert both["prompt_tuning"] == alone["prompt_tuning"]


def test_unknown_methods_are_told_apart():
  styles = figure_styles.styles({x: x for x in ("mine", "yours", "lora")})
  assert len({x.color for x in styles.values()}) == 3
