"""Tests of the positions and colours of marks in figures."""

import made_up

from prompt_tuning.experiments import figure_styles, figures

OURS = made_up.SHEET.partition("[paper]")[0]


def test_x_of_a_column_of_numbers_is_the_number(tmp_path):
  """Numbers that are not far apart get a linear axis."""
  text = made_up.edited(
    ('size = ["s", "l"]', "length = [20, 5]"),
    ('columns = "size"', 'columns = "length"\nx_label = "Length"'),
    ('SIZE = "$size"', 'LENGTH = "$length"'),
    text=OURS,
  )
  results = made_up.results(tmp_path, made_up.sheet(tmp_path, text))
  (panel,) = figures.draw(results).axes
  assert [list(line.get_xdata()) for line in panel.lines] == [[5, 20]] * 2
  labels = [tick.get_text() for tick in panel.get_xticklabels()]
  assert labels == ["20", "5"]
  assert (panel.get_xlabel(), panel.get_xscale()) == ("Length", "linear")


def test_dots_of_a_frozen_model_and_what_is_known_of_a_later_task(tmp_path):
  """A frozen model's score that is below the axis is written out."""
  text = made_up.edited(
    *(made_up.ONE_SIZE, made_up.BY_TASK),
    ('"lines"', '"dots"\nx_label = "Task"'),
    ("[values.task.wic]", "[values.task.wic]\nmajority = 35.0"),
    text=OURS,
  )
  sheet = made_up.sheet(tmp_path, text)
  by_method = {"model": [], "prompt": []}
  for cell in sheet.cells():
    by_method[cell.point["method"]].append(cell)
  made_up.file(tmp_path, by_method["prompt"])
  nothing = {"step": 0, "metrics": {"cb": {"accuracy": 2.0}}}
  results = made_up.results(
    tmp_path,
    sheet,
    [x for x in by_method["model"] if x.point["task"] == "cb"],
    best=nothing,
    parameters={"trainable": 0, "frozen": 990},
  )
  (panel,) = figures.draw(results).axes
  assert panel.get_ylim()[0] == 30
  assert [text.get_text() for text in panel.texts] == ["2"]
  assert panel.get_xlabel() == "Task"
  _, labels = panel.get_legend_handles_labels()
  assert labels.count("Most frequent answer") == 1


def test_dots_of_evaluations_alone_are_all_shown(tmp_path):
  """Without training runs, the axis also covers the most frequent answer."""
  text = made_up.edited(
    *(made_up.ONE_SIZE, made_up.BY_TASK, ('"lines"', '"dots"')),
    ("[values.task.wic]", "[values.task.wic]\nmajority = 35.0"),
    text=OURS,
  )
  sheet = made_up.sheet(tmp_path, text)
  results = made_up.results(
    *(tmp_path, sheet, sheet.cells()),
    best={"step": 0, "metrics": {"cb": {"accuracy": 82.0}}},
    parameters={"trainable": 0, "frozen": 990},
  )
  (panel,) = figures.draw(results).axes
  assert panel.get_ylim() == (30, 90)


def test_parameters_are_drawn_of_methods_that_have_all_tasks(tmp_path):
  edits = (made_up.ONE_SIZE, made_up.BY_TASK, ('"lines"', '"parameters"'))
  sheet = made_up.sheet(tmp_path, made_up.edited(*edits, text=OURS))
  for counted, tasks in ([], ["cb"]), ([10, 990], ["wic"]):
    cells = [x for x in sheet.cells() if x.point["task"] in tasks]
    figure = figures.draw(made_up.results(tmp_path, sheet, cells))
    assert figures.render(figure)
    drawn = [x.lines[0].get_xdata() for x in figure.axes[0].containers]
    assert [x.item() for x in drawn] == counted


def test_axis_of_lines_begins_at_zero_where_scores_are_low(tmp_path):
  sheet = made_up.sheet(tmp_path)
  results = made_up.results(tmp_path, sheet)
  assert results.xs == {"s": 990, "l": 990}  # A model's x is its size.
  assert figures.draw(results).axes[0].get_ylim()[0] == 40
  low = {"step": 1, "metrics": {"cb": {"f1": 8.0}}}
  results = made_up.results(tmp_path, sheet, best=low)
  assert figures.draw(results).axes[0].get_ylim()[0] == 0
  low["metrics"]["cb"] = {"matthews_corrcoef": -3.0}
  results = made_up.results(tmp_path, sheet, best=low)
  assert figures.draw(results).axes[0].get_ylim()[0] == -10


def test_methods_and_their_variants_are_told_apart():
  """Unknown methods get colours too; variants get shades, light to dark."""
  names = ["lora", "mine", "yours", "prompt_tuning", "prompt_tuning_100"]
  alone = figure_styles.styles({"prompt_tuning": "prompt_tuning"})
  among = figure_styles.styles({x: x for x in names})
  assert among["prompt_tuning"] == alone["prompt_tuning"]
  assert len({x.color for x in among.values()}) == 5
  variants = figure_styles.styles(
    {x: "prompt_tuning" for x in ("1", "20", "100")}
  ).values()
  assert len({x.marker for x in variants}) == 3
  brightness = [sum(bytes.fromhex(x.color[1:])) for x in variants]
  assert brightness == sorted({*brightness})[::-1]
