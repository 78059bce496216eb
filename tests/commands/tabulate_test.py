"""Tests of `tabulate` in a project other than this one."""

import made_up

from prompt_tuning.commands import console

TABLES = {f"x.{x}" for x in ("csv", "md", "png", "svg", "tex")}


def test_project_needs_no_pages_without_runs(tmp_path, capsys):
  """Tables need no configs/claims.toml or similar sheets, README, or docs."""
  made_up.results(tmp_path, made_up.sheet(tmp_path))
  root = f"--root={tmp_path}"
  assert console.main(["tabulate", root]) == 0
  assert capsys.readouterr().out == "Written: 7 files in results/tables.\n"
  files = {path.name for path in (tmp_path / "results/tables").iterdir()}
  assert files == {*TABLES, "drift.md", "hours.md"}
  assert console.main(["tabulate", root, "--check"]) == 0
  (tmp_path / "results/tables/x.md").write_text("")
  assert console.main(["tabulate", root, "--check"]) == 1
  assert capsys.readouterr().err.startswith("Error: results/tables/x.md d")


def test_sheets_without_results_and_pages_of_prose_are_named(tmp_path, capsys):
  made_up.sheet(tmp_path)
  (tmp_path / "README.md").write_text("")
  console.main(["tabulate", f"--root={tmp_path}", "x"])
  assert capsys.readouterr().out == (
    "Written: 2 files in results/tables, README.md.\nNo results yet: x.\n"
  )
