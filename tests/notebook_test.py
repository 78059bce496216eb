"""docs/tuning_in_python.ipynb, run cell by cell."""

import json
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.slow
def test_notebook_runs_and_the_prompt_helps(monkeypatch):
  monkeypatch.chdir(ROOT)
  notebook = json.loads((ROOT / "docs/tuning_in_python.ipynb").read_text())
  names = {}
  for cell in notebook["cells"]:
    if cell["cell_type"] == "code":
      exec("".join(cell["source"]), names)
  gain = names["tuned"]["accuracy"] - names["alone"]["accuracy"]
  assert gain > 20
  names["folder"].cleanup()
