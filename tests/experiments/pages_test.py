"""Tests of pages and figures, from made-up and committed records."""

import io

from documented import ROOT
import made_up
from matplotlib import image
import pytest

from prompt_tuning.experiments import generated_files, pages, sheets, tables
from prompt_tuning.experiments.records import Archive
from prompt_tuning.experiments.results import Results


@pytest.fixture
def sheet(tmp_path):
  return made_up.sheet(tmp_path, made_up.edited(made_up.NO_FIGURE))


def test_failed_runs_are_named(tmp_path, sheet):
  cells = sheet.cells()
  made_up.file(tmp_path, cells[:6])
  failed = {"status": "failed", "error": "it broke", "best": None}
  results = made_up.results(tmp_path, sheet, cells[6:12], **failed)
  assert "| model | failed | - |" in tables.table(results).markdown()
  page = pages.sheet_files(results)["x.md"].decode()
  assert "24 cells: 6 failed, 6 finished, 12 not run yet; 0.6 hours" in page
  assert "* s-model-cb-seed0: it broke" in page
  assert "| model, s | failed | failed |" in page
  assert "| [x](x.md) | 24 | 6 | 12, 6 failed |" in pages.hours_page([results])
  runs = (
    'rows = ["method"]',
    'kind = "tasks"\nrows = ["method", "size", "task", "seed"]',
  )
  edits = (made_up.NO_FIGURE, made_up.BY_TASK, runs)
  sheet = made_up.sheet(tmp_path, made_up.edited(*edits))
  table = tables.table(Results(sheet, results.archive)).markdown()
  assert "| model, s, cb, 0 | failed | failed |" in table


@pytest.fixture(scope="module")
def archive():
  return Archive(ROOT, ROOT / "results")


@pytest.mark.parametrize(
  "name",
  [
    "domain_ladder",  # Mixtures; the usual answers of their tasks are unknown.
    "ensemble",
    "interference",  # Gaps; runs on a mixture, by task.
    "ladder",  # A run is a row.
    "scale",  # Beside full/scale, with the paper's numbers.
    "steps",  # Scores after fewer steps; a panel for each task.
    "t5_small",  # Dots; tasks as columns; parameters, guesses, means.
  ],
)
def test_committed_records_make_the_committed_files(archive, name):
  """The page, its figure and the tables in three formats are unchanged."""
  sheet = sheets.load(name, ROOT / "configs")
  beside = sheet.beside and sheets.load(sheet.beside, ROOT / "configs")
  beside = Results(beside, archive) if beside else None
  files = pages.sheet_files(Results(sheet, archive, beside))
  assert {f"{name}.md", f"{name}.tex", f"{name}.csv"} <= {*files}
  folder = ROOT / generated_files.TABLES
  assert generated_files.differences(files, folder) == ([], [])


def test_what_the_choice_of_the_best_evaluation_adds(tmp_path, sheet):
  """The table of runs' ends is left out if runs have one evaluation."""
  best, last = (
    {"step": step, "score": x, "metrics": {"cb": {"accuracy": x}}}
    for step, x in ((1, 90.0), (2, 40.0))
  )
  for evals in ([best, last], [best]):
    results = made_up.results(tmp_path, sheet, evals=evals, best=best)
    page = pages.sheet_files(results)["x.md"].decode()
    ours, *ends = page.split("## Ours, at the end of each run")
    assert "| Prompt_tuning | 90.0 ± 0.0 (3) |" in ours
    assert len(ends) == len(evals) - 1
    assert all("| Prompt_tuning | 40.0 ± 0.0 (3) |" in x for x in ends)


def test_hours_of_all_sheets_count_a_run_once(tmp_path, sheet):
  results = made_up.results(tmp_path, sheet, sheet.cells()[:6])
  [run, *_] = [run.record for run in results.runs if run.record]
  page = pages.hours_page([results, results])
  wall = 6 * run.seconds / 3600
  numbers = f"| {wall:.1f} | {2 * wall:.1f} |"
  assert page.count(f"| [x](x.md) | 24 | 6 | 18 {numbers}") == 2
  assert f"| All, each run once |  | 6 |  {numbers}" in page


def test_tables_are_written_into_a_page_of_prose(tmp_path, sheet):
  every = {"x": made_up.results(tmp_path, sheet)}
  page = (
    "A\n<!-- ours: x -->\nold\n<!-- end -->\n<!-- paper: x -->\n<!-- end -->\nB"
  )
  filled = pages.fill(page, every)
  assert "old" not in filled
  assert "| Prompt_tuning | 51.7 ± 5.8 (3) | 63.3 ± 14.4 (3) |" in filled
  assert "| Prompt tuning | 58.5 | ~89.9 | Figure 1, read off" in filled
  assert filled.startswith("A\n<!-- ours: x -->\n\n| Method")
  assert filled.endswith("<!-- end -->\nB")
  assert pages.fill(filled, every) == filled
  with pytest.raises(ValueError, match="<!-- ours: y --> names no sheet"):
    pages.fill(page.replace("ours: x", "ours: y"), every)
  with pytest.raises(ValueError, match="no <!-- end --> after it"):
    pages.fill(page.replace("<!-- end -->\n", "", 1), every)


def test_differences_are_found(tmp_path):
  sheet = made_up.sheet(tmp_path)
  assert pages.sheet_files(Results(sheet, Archive())) == {}
  files = pages.sheet_files(made_up.results(tmp_path, sheet))
  generated_files.write(files, tmp_path)
  assert generated_files.differences(files, tmp_path) == ([], [])
  (tmp_path / "x.md").unlink()
  (tmp_path / "x.csv").write_text("other")
  pixels = image.imread(io.BytesIO(files["x.png"]))
  # The same picture, compressed in another way.
  image.imsave(tmp_path / "x.png", pixels)
  assert (tmp_path / "x.png").read_bytes() != files["x.png"]
  wrong, _ = generated_files.differences(files, tmp_path)
  assert wrong == ["x.csv differs", "x.md is missing"]
  (tmp_path / "y.md").touch()
  wrong, _ = generated_files.differences(files, tmp_path, ".")
  assert "y.md belongs to no sheet, remove it" in wrong
  image.imsave(tmp_path / "x.png", pixels * [0.5, 0.5, 0.5, 1])
  assert "x.png differs" in generated_files.differences(files, tmp_path)[0]


def test_runs_are_told_apart(tmp_path):
  """The page counts runs by commit and lists a record that fits no cell."""
  sheet = made_up.sheet(
    tmp_path,
    made_up.edited(
      made_up.NO_FIGURE,
      ('budget = "a minute"', 'budget = ""\nlaunch = "python do.py"'),
    ),
  )
  [first, second, third, *_] = sheet.cells()
  made_up.file(tmp_path, [first], status="stopped")
  made_up.file(tmp_path, [second], uncommitted_changes=True)
  failed = {"status": "failed", "error": "it broke", "evals": [], "best": None}
  results = made_up.results(
    tmp_path, sheet, [third], configuration=None, **failed
  )
  page = pages.sheet_files(results)["x.md"].decode()
  assert "Commits: 0123456 (1 runs), 0123456 + changes (1 runs)." in page
  assert f"* `{third.name}`: failed: it broke" in page
  assert "`python do.py` runs the missing cells" in page
