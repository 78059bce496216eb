"""Pages and figures: of the committed records, and of some made up here."""

import functools
import io
import pathlib

import made_up
from matplotlib import image
import pytest

from prompt_tuning.commands import console
from prompt_tuning.experiments import (
  generated_files,
  interpretability,
  pages,
  sheets,
  tables,
)
from prompt_tuning.experiments.records import Archive
from prompt_tuning.experiments.results import Results
from t5x import checkpoints

ROOT = pathlib.Path(__file__).parents[2]
TABLES = ROOT / generated_files.TABLES


@pytest.fixture(scope="module")
def archive():
  return Archive(ROOT, ROOT / "results")


@pytest.fixture
def sheet(tmp_path):
  return made_up.sheet(tmp_path, made_up.edited(made_up.NO_FIGURE))


@pytest.mark.parametrize(
  "name",
  [
    "ensemble",
    "interference",  # Gaps; runs on a mixture, by task.
    "ladder",  # A run is a row.
    "scale",  # Beside full/scale, with the paper's numbers.
    "steps",  # Runs after some of their steps; a panel for each task.
    "t5_small",  # Dots; tasks as columns; what trains, guesses, means.
  ],
)
def test_committed_records_make_the_committed_files(archive, name):
  """To the byte: tables in three formats, the page and its figure."""
  sheet = sheets.load(name, ROOT / "configs")
  beside = sheet.beside and sheets.load(sheet.beside, ROOT / "configs")
  beside = Results(beside, archive) if beside else None
  files = pages.sheet_files(Results(sheet, archive, beside))
  assert {f"{name}.md", f"{name}.tex", f"{name}.csv"} <= {*files}
  assert generated_files.differences(files, TABLES) == ([], [])


def test_committed_prompts_make_the_committed_page(
  tmp_path, monkeypatch, archive
):
  """It has those whose base model is there."""
  path = ROOT / "configs" / "interpretability.toml"
  page = sheets.parse(path, interpretability.Page)
  results = Results(sheets.load(page.sheet, ROOT / "configs"), archive)
  read = functools.cache(checkpoints.open_checkpoint)
  monkeypatch.setattr(checkpoints, "open_checkpoint", read)
  text = interpretability.page(page, results, ROOT)
  assert text == (TABLES / "interpretability.md").read_text()
  assert interpretability.page(page, results, tmp_path) is None


def test_average_and_best_of_prompts_are_of_all_or_of_none(
  monkeypatch, archive
):
  lacking = {
    "ensemble/ladder_xs-prompt_tuning-ladder_boolq-seed3",
    "ensemble/ladder_xs-ensemble-ladder_cb",
  }
  find = archive.find
  monkeypatch.setattr(
    archive, "find", lambda x: None if x.full_name in lacking else find(x)
  )
  sheet = sheets.load("ensemble", ROOT / "configs")
  rows = tables.table(Results(sheet, archive)).rows
  assert rows[:2] == [
    ["BoolQ", "-", "-", "100.0"],
    ["CB", "65.4", "69.1", "-"],
  ]
  assert len(rows) == 5  # Without their mean.


def test_tables_are_written_into_a_page_of_prose(tmp_path, sheet):
  every = {"x": made_up.results(tmp_path, sheet)}
  page = "A\n<!-- ours: x -->\nold\n<!-- end -->\nB"
  filled = pages.fill(page, every)
  assert filled.startswith("A\n<!-- ours: x -->\n\n| Method")
  assert filled.endswith(" (3) |\n\n<!-- end -->\nB")
  with pytest.raises(ValueError, match="<!-- ours: y --> names no sheet"):
    pages.fill(page.replace("ours: x", "ours: y"), every)
  with pytest.raises(ValueError, match="no <!-- end --> after it"):
    pages.fill(page.replace("<!-- end -->\n", ""), every)


def test_differences_are_found(tmp_path):
  sheet = made_up.sheet(tmp_path)
  files = pages.sheet_files(made_up.results(tmp_path, sheet))
  generated_files.write(files, tmp_path)
  (tmp_path / "x.md").unlink()
  (tmp_path / "x.csv").write_text("other")
  pixels = image.imread(io.BytesIO(files["x.png"]))
  # The same picture, compressed in another way, and one that is darker.
  image.imsave(tmp_path / "x.png", pixels)
  assert (tmp_path / "x.png").read_bytes() != files["x.png"]
  wrong, _ = generated_files.differences(files, tmp_path)
  assert wrong == ["x.csv differs", "x.md is missing"]
  (tmp_path / "y.md").touch()
  image.imsave(tmp_path / "x.png", pixels * [0.5, 0.5, 0.5, 1])
  wrong, _ = generated_files.differences(files, tmp_path, ".")
  assert {"y.md belongs to no sheet, remove it", "x.png differs"} <= {*wrong}


def test_runs_are_told_apart(tmp_path):
  """Those that failed, by their commit, and from others beside them."""
  edits = ('budget = "a minute"', 'budget = ""\nlaunch = "python do.py"')
  text = made_up.edited(made_up.NO_FIGURE, edits)
  sheet = made_up.sheet(tmp_path, text)
  assert pages.sheet_files(Results(sheet, Archive())) == {}
  cells = sheet.cells()
  made_up.file(tmp_path, cells[:5], status="stopped")
  made_up.file(tmp_path, cells[5:6], uncommitted_changes=True)
  failed = {"status": "failed", "error": "it broke", "evals": [], "best": None}
  made_up.file(tmp_path, cells[12:13], configuration=None, **failed)
  results = made_up.results(tmp_path, sheet, cells[6:12], **failed)
  assert "| model | failed | - |" in tables.table(results).markdown()
  page = pages.sheet_files(results)["x.md"].decode()
  assert (
    "24 cells: 6 failed, 1 finished, 5 stopped, 12 not run yet; 0.6 h" in page
  )
  assert "Commits: 0123456 (5 runs), 0123456 + changes (1 runs)." in page
  assert "* s-model-cb-seed0: it broke" in page
  assert "| model, s | failed | failed |" in page
  assert f"* `{cells[12].name}`: failed: it broke" in page
  assert "where runs end" not in page  # There was nothing to choose.
  assert "`python do.py` runs what is missing" in page
  hours = pages.hours_page([results, results])
  assert hours.count("| [x](x.md) | 24 | 6 | 12, 6 failed | 0.6 | 1.2 |") == 2
  assert "| All, each run once |  | 6 |  | 0.6 | 1.2 |" in hours


def test_project_needs_no_pages_without_runs(tmp_path, sheet, capsys):
  """Neither configs/claims.toml and its like, nor README and docs."""
  root = f"--root={tmp_path}"
  assert console.main(["tabulate", root, "x"]) == 0
  said = "Written: 2 files in results/tables.\n"
  assert capsys.readouterr().out == f"{said}No results yet: x.\n"
  made_up.results(tmp_path, sheet)
  (tmp_path / "README.md").write_text("")
  assert console.main(["tabulate", root]) == 0
  said = "Written: 5 files in results/tables, README.md.\n"
  assert capsys.readouterr().out == said
  files = {path.name for path in (tmp_path / "results/tables").iterdir()}
  assert files == {"x.csv", "x.md", "x.tex", "drift.md", "hours.md"}
  assert console.main(["tabulate", root, "--check"]) == 0
  (tmp_path / "results/tables/x.md").write_text("")
  assert console.main(["tabulate", root, "--check"]) == 1
  assert capsys.readouterr().err.startswith("Error: results/tables/x.md d")


def test_sheet_beside_which_there_is_none_is_named(tmp_path):
  made_up.sheet(tmp_path, 'beside = "full/y"\n' + made_up.SHEET)
  with pytest.raises(ValueError, match="x: beside: there is no full/y"):
    generated_files.make(tmp_path, ["x"])
