"""A sheet of runs and their records, with made-up scores."""

import json

from started import TESTS

from prompt_tuning.experiments import sheets
from prompt_tuning.experiments.records import Archive
from prompt_tuning.experiments.results import Results
from t5x.runs import record_schema

SHEET = (TESTS / "testdata" / "made_up.toml").read_text()
# Edits: a sheet of one size, one of tasks as columns, one without the figure.
ONE_SIZE = ('size = ["s", "l"]', 'size = ["s"]')
BY_TASK = ('columns = "size"\nmean_over = "task"', 'columns = "task"')
NO_FIGURE = ('figure = "lines"', "")
# Size, method, seed -> the two tasks' scores; 50 and 60 elsewhere.
SCORES = {("s", "prompt", 0): (40.0, 50.0), ("l", "prompt", 1): (70.0, 90.0)}


def edited(*pairs, text=SHEET):
  """Returns the sheet's text with each old text, which must occur, replaced."""
  for old, new in pairs:
    assert old in text, old
    text = text.replace(old, new)
  return text


def sheet(tmp_path, text=SHEET):
  """Reads the sheet `x` with this text."""
  path = tmp_path / "configs" / "x.toml"
  path.parent.mkdir(exist_ok=True)
  path.write_text(text)
  return sheets.load("x", path.parent)


def record(cell, **overrides):
  """Makes the fields of a cell's record; size s and seed 0 are the defaults."""
  point = {"size": "s", "seed": 0, **cell.point}
  score = SCORES.get(
    (point["size"], point["method"], point["seed"]), (50.0, 60.0)
  )[point["task"] == "wic"]
  metrics = {"accuracy": score + 5, "f1": score - 5, "invalid": 30.0}
  evaluation = {"step": 1, "metrics": {cell.point["task"]: metrics}}
  return {
    "schema": record_schema.VERSION,
    "kind": "train",
    "status": "finished",
    "started": "now",
    "command": cell.command,
    "configuration": Archive().configuration(cell).to_json(),
    "commit": "0123456789",
    "versions": {"jax": "0"},
    "device": {"platform": "cpu", "cpus": 2},
    "gin": "A = 1",
    "seconds": 360.0,
    "step_seconds": 0.25,
    "parameters": {
      "trainable": 10 if cell.point["method"] == "prompt" else 990,
      "frozen": 990 if cell.point["method"] == "prompt" else 0,
    },
    "evals": [evaluation],
    "best": evaluation,
    **overrides,
  }


def results(tmp_path, sheet, cells=None, **overrides):
  """Files records of the cells (default: all); returns the sheet's results."""
  some = sheet.cells() if cells is None else cells
  return Results(sheet, file(tmp_path, some, **overrides))


def file(tmp_path, cells, **overrides):
  """Files records of the cells; returns the archive of all records."""
  folder = tmp_path / "results" / "x"
  folder.mkdir(parents=True, exist_ok=True)
  for cell in cells:
    text = json.dumps(record(cell, **overrides))
    (folder / f"{cell.name}.json").write_text(text)
  return Archive(tmp_path, tmp_path / "results")
