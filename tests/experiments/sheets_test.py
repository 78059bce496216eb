"""Tests of sheets: their cells, commands and errors."""

import re

from documented import ROOT
import made_up
import pytest
from started import TESTS

from prompt_tuning.experiments import launching, sheets
from t5x.runs import preflight

# A sheet and the file that it extends.
SHEET, SHARED = (
  (TESTS / "testdata" / "sheets" / name).read_text()
  for name in ("x.toml", "parts/shared.toml")
)


def _load(tmp_path, sheet=SHEET, shared=SHARED):
  (tmp_path / "parts").mkdir(exist_ok=True)
  (tmp_path / "parts" / "shared.toml").write_text(shared)
  (tmp_path / "x.toml").write_text(sheet)
  return sheets.load("x", tmp_path)


def test_cells_are_the_union_of_the_grids(tmp_path):
  """The launcher runs all cells of one seed before those of the next."""
  sheet = _load(tmp_path, SHEET.replace("seed = [1, 2]", "seed = [2, 1]"))
  assert [cell.name for cell in sheet.cells()] == [
    *("prompt-cb-seed0", "prompt-cb-seed1", "model-cb-seed0"),
    *("model-cb-seed1", "prompt-cb-seed2"),
  ]
  assert [cell.name for cell in launching.select(["x.toml"], (), tmp_path)] == [
    *("prompt-cb-seed0", "model-cb-seed0", "prompt-cb-seed1"),
    *("model-cb-seed1", "prompt-cb-seed2"),
  ]


def test_command_of_a_cell(tmp_path):
  cell = _load(tmp_path).cells()[1]
  assert cell.command == (
    *("python", "-m", "t5x.train"),
    *("--gin_file=prompt.gin", "--gin_file=run.gin"),
    *('--gin.TASK="cb"', "--gin.SEED=1", '--gin.LENGTHS={"inputs": 8}'),
    *("--gin.LR=0.3", '--gin.WORDS=["yes", "no"]', "--gin.TAP=@tap()"),
    '--gin.MODEL_DIR="runs/x/prompt-cb-seed1"',
  )
  # The sheet overrides the file that it extends.
  cells = _load(tmp_path, SHEET + "[values.task.cb.facts]\nwords = []").cells()
  assert "--gin.WORDS=[]" in cells[0].command
  assert '--gin.LENGTHS={"inputs": 8}' in cells[0].command


@pytest.mark.parametrize(
  ("old", "new", "message"),
  [
    ('["cb"]', '["cd"]', r"task=cd has no \[values.task.cd\]; there is"),
    ('["cb"]', '["cb"]\ncut = [0, 1]', "cut has 2 values, but only"),
    ("seed = [0, 1]", "seed = [0]\ncut = [0]", "axis cut and another has none"),
    ("[layout]", '[layout]\nkind = "tasks"', "so name seed in rows"),
    (
      'columns = "task"',
      'kind = "ensemble"\ncolumns = "method"',
      "the prompts of one method, got model, prompt",
    ),
    ("[layout]", '[layout]\ngaps = [["prompt", "lora"]]', "gaps: expected"),
    (
      "[layout]",
      '[layout]\npanels = true\nfigure = "lines"\nmean_over = "method"',
      "panels: expected figure",
    ),
    (
      "[layout]",
      '[layout]\nmean_column = true\nmean_over = "method"',
      "mean_column: expected tasks as columns",
    ),
    (
      "[layout]",
      '[values.task.cb]\nprogram = "evil"\n[layout]',
      "prompt-cb-seed0: no program evil; there is",
    ),
    (
      "seed = [1, 2]",
      'seed = ["seed1"]\n[values.seed.seed1]',
      "prompt-cb-seed1 is the name of",
    ),
    ('words = ["yes", "no"]', "", "prompt-cb-seed0: 'words' is asked for"),
    ("seed = [0, 1]", "seed = [false, true]", "a valid integer"),
    ("seed = [0, 1]", "seed = []", "grids.*seed: .* at least 1 item"),
    ('"$seed"', "0", "seed0 and prompt-cb-seed1 have the same settings"),
  ],
)
def test_wrong_sheet_is_refused(tmp_path, old, new, message):
  with pytest.raises(ValueError, match=message):
    _load(tmp_path, SHEET.replace(old, new), SHARED.replace(old, new))


def test_names_of_command_lines(monkeypatch):
  monkeypatch.chdir(ROOT)
  for given in ("full/scale.toml", str(ROOT / "configs/full/scale.toml")):
    assert sheets.name_of(given, ROOT / "configs") == "full/scale"
  with pytest.raises(ValueError, match=r"There is no sheet .*configs\.toml in"):
    sheets.name_of(str(ROOT / "configs.toml"), ROOT / "configs")


@pytest.mark.parametrize(
  ("old", "new", "message"),
  [
    ("x = [77e6, 11e9]", "x = [77e6]", "1 x for 2 columns"),
    ('[58.5, "~89.9"]', "[58.5]", "Prompt tuning: 1 values for 2 columns"),
    ('"~89.9"', '"n/a"', "should match pattern"),
    ('title = "S', 'name = "y"\ntitle = "S', "must not set name"),
  ],
)
def test_slip_in_a_sheet_is_named(tmp_path, old, new, message):
  with pytest.raises(ValueError, match=message):
    made_up.sheet(tmp_path, made_up.SHEET.replace(old, new))


@pytest.mark.parametrize("name", sheets.names(ROOT / "configs"))
def test_sheet_of_the_repository(name):
  """A committed sheet expands to distinct cells with valid settings."""
  sheet = sheets.load(name, ROOT / "configs")
  cells = sheet.cells()
  assert len({cell.command for cell in cells}) == len(cells)
  for _, _, module, *words in {x.gin_files: x.command for x in cells}.values():
    if module.startswith("t5x."):
      for problem in preflight.problems(module.removeprefix("t5x."), words):
        assert re.search("No checkpoint|is not a file|VOCABULARY", problem)
  if sheet.beside:
    assert sheets.load(sheet.beside, ROOT / "configs").paper
