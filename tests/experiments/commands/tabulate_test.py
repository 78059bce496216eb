"""Tables of a project of another's, by the command that writes them."""

import made_up
import pytest

from prompt_tuning.commands import tabulate

TABLES = {f"x.{x}" for x in ("csv", "md", "png", "svg", "tex")}


def test_project_needs_no_pages_without_runs(tmp_path, capsys):
  """Neither configs/claims.toml and its like, nor README and docs."""
  made_up.results(tmp_path, made_up.sheet(tmp_path))
  root = f"--root={tmp_path}"
  tabulate.main([root])
  assert capsys.readouterr().out == "Written: 7 files in results/tables.\n"
  files = {path.name for path in (tmp_path / "results/tables").iterdir()}
  assert files == {*TABLES, "drift.md", "hours.md"}
  tabulate.main([root, "--check"])
  (tmp_path / "results/tables/x.md").write_text("")
  with pytest.raises(SystemExit, match=r"^Error: results/tables/x.md d"):
    tabulate.main([root, "--check"])


def test_sheet_beside_which_there_is_none_is_named(tmp_path):
  made_up.sheet(tmp_path, 'beside = "full/y"\n' + made_up.SHEET)
  with pytest.raises(SystemExit, match=r"x: beside: there is no full/y\.toml"):
    tabulate.main([f"--root={tmp_path}"])


def test_sheets_without_results_and_pages_of_prose_are_named(tmp_path, capsys):
  made_up.sheet(tmp_path)
  (tmp_path / "README.md").write_text("")
  tabulate.main([f"--root={tmp_path}", "x"])
  assert capsys.readouterr().out == (
    "Written: 2 files in results/tables, README.md.\nNo results yet: x.\n"
  )
