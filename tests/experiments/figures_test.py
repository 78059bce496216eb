"""Figures: where things lie, and in which colour."""

import made_up
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
  ("numbers", "meaning", "scale"),
  [
    ([20, 5], "", "linear"),
    ([20, 5], "[values.length.5]\nx = 5\n", "linear"),
    ([100, 5], "", "log"),  # They are far apart.
  ],
)
def test_x_of_a_column_of_numbers_is_the_number(
  tmp_path, numbers, meaning, scale
):
  text = LENGTHS.replace("[5, 20]", str(numbers))
  sheet = made_up.sheet(tmp_path, text + meaning)
  results = made_up.results(tmp_path, sheet)
  assert tables.table(results).header == ["Method", *map(str, numbers)]
  (panel,) = figures.draw(results).axes
  assert [list(line.get_xdata()) for line in panel.lines] == [numbers[::-1]] * 2
  labels = [tick.get_text() for tick in panel.get_xticklabels()]
  assert labels == [str(x) for x in numbers]
  assert panel.get_xlabel() == "Length"
  assert panel.get_xscale() == scale


def _dots():
  """A sheet of dots by task, at one size."""
  edits = (made_up.ONE_SIZE, made_up.BY_TASK, ('"lines"', '"dots"'))
  return made_up.edited(*edits, text=made_up.SHEET.split("[paper]")[0])


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
  results = made_up.results(tmp_path, sheet)
  # A model's x is its size, which the heading has too.
  assert tables.table(results).header == ["Method", "s, 990", "l, 990"]
  assert results.xs == {"s": 990, "l": 990}
  figure = figures.draw(results)
  assert figure.axes[0].get_ylim()[0] == 40
  low = {"step": 1, "metrics": {"cb": {"f1": 8.0}}}
  some = [x for x in sheet.cells() if x.point["method"] == "model"]
  results = made_up.results(tmp_path, sheet, some, best=low)
  assert figures.draw(results).axes[0].get_ylim()[0] == 0


def test_methods_and_their_variants_are_told_apart():
  """Unknown ones too. Variants are shades, from light to dark."""
  names = ["lora", "mine", "yours", "prompt_tuning", "prompt_tuning_100"]
  alone = figure_styles.styles({"prompt_tuning": "prompt_tuning"})
  among = figure_styles.styles({x: x for x in names})
  assert among["prompt_tuning"] == alone["prompt_tuning"]
  assert len({x.color for x in among.values()}) == 5
  variants = figure_styles.styles(
    {x: "prompt_tuning" for x in ("1", "20", "100")}
  ).values()
  assert len({x.marker for x in variants}) == 3
  brightness = [int(x.color[-2:], 16) for x in variants]
  assert brightness == sorted({*brightness})[::-1]
