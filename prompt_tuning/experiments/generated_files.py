"""The tables, figures and pages that the committed records make."""

from collections.abc import Collection, Mapping, Sequence
import difflib
import io
import pathlib

from matplotlib import image
import numpy as np

from prompt_tuning.experiments import pages, sheets
from prompt_tuning.experiments.records import Archive
from prompt_tuning.experiments.results import Results

# Pages whose tables are filled in.
_PAGES = ("README.md", "docs/results.md")
TABLES = "results/tables"
# Sheets whose pages lie elsewhere.
_FOLDERS = {"claims": "results", "plan": "results"}
_DRIFT = f"{TABLES}/{pages.DRIFT_PAGE}"


def make(
  root: pathlib.Path, given: Sequence[str]
) -> tuple[dict[str, bytes], list[str]]:
  """Makes the files of sheets.

  Args:
    root: Folder with configs/ and results/.
    given: Names or paths of sheets; empty for all of them.

  Returns:
    Path below `root` -> content; and the sheets without results.

  Raises:
    ValueError: if there is no such sheet, or a record or a sheet is wrong.
  """
  configs = root / "configs"
  wanted = {sheets.name_of(x, configs, without_runs=True) for x in given}
  every = _results(root)
  if not given:  # Another project may lack the pages without runs.
    own = {x for x in sheets.NO_RUNS if (configs / f"{x}.toml").exists()}
    wanted = {*every, *own}
  made = {
    name: pages.sheet_files(results)
    for name, results in every.items()
    if name in wanted
  }
  made["drift"] = {pages.DRIFT_PAGE: pages.drift_page(every.values()).encode()}
  made["hours"] = {pages.HOURS_PAGE: pages.hours_page(every.values()).encode()}
  if wanted & set(sheets.NO_RUNS):
    made |= _without_runs(configs, wanted, every)
  files = {
    f"{_FOLDERS.get(sheet, TABLES)}/{name}": content
    for sheet, own in made.items()
    for name, content in own.items()
  }
  for name in _PAGES:
    if (page := root / name).exists():
      text = pages.fill(page.read_text(encoding="utf-8"), every)
      files[name] = text.encode()
  return files, [sheet for sheet, own in made.items() if not own]


def write(files: Mapping[str, bytes], folder: pathlib.Path) -> None:
  """Writes files into a folder."""
  for name, content in files.items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def differences(
  files: Mapping[str, bytes], folder: pathlib.Path, whole: str | None = None
) -> tuple[list[str], list[str]]:
  """Compares files with those in a folder.

  Pictures are compared by their pixels: how they are compressed depends on the
  machine's libraries.

  Args:
    files: Name -> content.
    folder: The folder.
    whole: A folder in it that may contain nothing else.

  Returns:
    The names that differ, each with the kind of difference; and the lines in
    which the page of drifted records differs.
  """
  wrong, lines = [], []
  for name, content in sorted(files.items()):
    path = folder / name
    old = path.read_bytes() if path.exists() else b""
    if name == _DRIFT:
      texts = (old.decode().splitlines(), content.decode().splitlines())
      lines += difflib.unified_diff(*texts, name, name, lineterm="", n=1)
    if not path.exists():
      wrong.append(f"{name} is missing")
    elif old != content:
      pictures = (old, content) if path.suffix == ".png" else ()
      pixels = [image.imread(io.BytesIO(x), format="png") for x in pictures]
      if not pixels or not np.array_equal(pixels[0], pixels[1]):
        wrong.append(f"{name} differs")
  for path in sorted((folder / whole).glob("*")) if whole else ():
    name = path.relative_to(folder).as_posix()
    if name not in files:
      wrong.append(f"{name} belongs to no sheet, remove it")
  return wrong, lines


def _results(root: pathlib.Path) -> dict[str, Results]:
  """Returns the name of every sheet -> its results."""
  archive = Archive(root, root / "results")
  every = sheets.load_all(root / "configs")
  for sheet in every.values():
    if sheet.beside and sheet.beside not in every:
      raise ValueError(f"{sheet.name}: beside: there is no {sheet.beside}.toml")
  return {
    name: Results(
      sheet,
      archive,
      Results(every[sheet.beside], archive) if sheet.beside else None,
    )
    for name, sheet in every.items()
  }


def _without_runs(
  configs: pathlib.Path, wanted: Collection[str], every: Mapping[str, Results]
) -> dict[str, dict[str, bytes]]:
  """Returns the files of sheets without runs: sheet -> name -> content."""
  # They import the models, which takes seconds.
  from prompt_tuning.experiments import (
    claims,
    interpretability,
    parameters,
    plan_page,
    plan_table,
  )

  made = {}
  if "interpretability" in wanted:
    path = configs / "interpretability.toml"
    page = sheets.parse(path, interpretability.Page)
    if page.sheet not in every:
      raise ValueError(f"interpretability.toml: there is no {page.sheet}.toml")
    text = interpretability.page(page, every[page.sheet], configs.parent)
    made[path.stem] = {f"{path.stem}.md": text.encode()} if text else {}
  if "plan" in wanted:
    plan = sheets.parse(configs / "plan.toml", plan_table.Plan)
    paths = sorted(configs.parent.glob("results/plan_*.json"))
    page = plan_page.page(plan, plan_table.read(*paths))
    made["plan"] = {"plan.md": page.encode()}
  if {"parameters", "claims"} & set(wanted):
    path = configs / "parameters.toml"
    sheet = sheets.parse(path, parameters.ParameterSheet)
    counted = {size: parameters.count(sheet, size) for size in sheet.sizes}
    if "parameters" in wanted:
      made["parameters"] = parameters.files(sheet, counted)
    if "claims" in wanted:
      known = {name: results.sheet for name, results in every.items()}
      page = sheets.parse(configs / "claims.toml", claims.Claims)
      text = claims.page(page, sheet, counted, known)
      made["claims"] = {"claims.md": text}
  return made
