"""Writes the tables and figures of sheets from the committed records.

  python scripts/tabulate.py [SHEET...]

A SHEET is a name such as scale, full/scale, parameters, claims or
interpretability, or the path of its file; all by default. Tables in README and
docs are written with any.
With --check nothing is written, and the exit status says whether what lies
there is what the records make.
"""

import argparse
from collections.abc import Collection, Mapping, Sequence
import pathlib
import sys

from prompt_tuning.commands import options
from prompt_tuning.experiments import drift, hours, pages, sheets, toml_files
from prompt_tuning.experiments.archive import Archive
from prompt_tuning.experiments.results import Results

# Pages whose tables are filled in.
_PAGES = ("README.md", "docs/results.md")
_TABLES = "results/tables"


def main(arguments: Sequence[str] | None = None) -> None:
  """Does what the arguments say, by default those of the process."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("sheets", nargs="*", metavar="SHEET")
  parser.add_argument("--check", action="store_true", help="only compare")
  options.add_root(parser)
  args = parser.parse_args(arguments)
  root = args.root.resolve()
  try:
    files, empty = _files(root, args.sheets)
  except (OSError, ValueError) as error:
    sys.exit(f"Error: {error}")
  if not args.check:
    pages.write(files, root)
    others = sorted(x for x in files if not x.startswith(f"{_TABLES}/"))
    count = len(files) - len(others)
    print(", ".join([f"Written: {count} files in {_TABLES}", *others]) + ".")
    if empty:
      print(f"No results yet: {', '.join(empty)}.")
    return
  whole = None if args.sheets else _TABLES
  if wrong := pages.differences(files, root, whole):
    for line in _hidden(root):
      print(f"Not on {_TABLES}/{drift.PAGE}: {line}", file=sys.stderr)
    sys.exit(
      f"Error: {', '.join(wrong)}. Run python scripts/tabulate.py and commit."
    )


def _files(
  root: pathlib.Path, given: Sequence[str]
) -> tuple[dict[str, bytes], list[str]]:
  """Path, from the root -> content; and which sheets have no results."""
  configs = root / "configs"
  wanted = {sheets.name_of(x, configs, without_runs=True) for x in given}
  every = _results(root)
  if not given:  # A project of another's may have none without runs.
    own = {x for x in sheets.NO_RUNS if (configs / f"{x}.toml").exists()}
    wanted = {*every, *own}
  made = {
    sheet: pages.of_results(results)
    for sheet, results in every.items()
    if sheet in wanted
  }
  files = {
    f"{_TABLES}/{name}": content
    for own in made.values()
    for name, content in own.items()
  }
  files[f"{_TABLES}/{drift.PAGE}"] = drift.page(every.values()).encode()
  files[f"{_TABLES}/{hours.PAGE}"] = hours.page(every.values()).encode()
  for name in _PAGES:
    page = root / name
    if page.exists():
      text = pages.fill(page.read_text(encoding="utf-8"), every)
      files[name] = text.encode()
  if wanted & set(sheets.NO_RUNS):
    files |= _without_runs(configs, wanted, every)
  empty = [sheet for sheet, own in made.items() if not own]
  page = "interpretability"
  if page in wanted and f"{_TABLES}/{page}.md" not in files:
    empty.append(page)
  return files, empty


def _hidden(root: pathlib.Path) -> list[str]:
  """Records that today's files would not make, and the page does not list."""
  path = root / _TABLES / drift.PAGE
  shown = path.read_text(encoding="utf-8") if path.exists() else ""
  return drift.hidden(_results(root).values(), shown)


def _results(root: pathlib.Path) -> dict[str, Results]:
  """Name of every sheet -> its results."""
  archive = Archive.load(root / "results")
  every = {x.name: x for x in sheets.load_all(root / "configs")}
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
) -> dict[str, bytes]:
  # They need the models, and with them seconds to import.
  from prompt_tuning.experiments import claims, interpretability, parameters

  files = {}
  if "interpretability" in wanted:
    page = toml_files.parse(
      configs / "interpretability.toml", interpretability.Page
    )
    if page.sheet not in every:
      raise ValueError(f"interpretability.toml: there is no {page.sheet}.toml")
    text = interpretability.page(page, every[page.sheet], configs.parent)
    if text is not None:
      files[f"{_TABLES}/interpretability.md"] = text.encode()
  if not {"parameters", "claims"} & set(wanted):
    return files
  sheet = toml_files.parse(
    configs / "parameters.toml", parameters.ParameterSheet
  )
  counted = {size: parameters.count(sheet, size) for size in sheet.sizes}
  known = {name: results.sheet for name, results in every.items()}
  if "parameters" in wanted:
    for name, content in parameters.page(sheet, counted).items():
      files[f"{_TABLES}/{name}"] = content
  if "claims" in wanted:
    files["results/claims.md"] = claims.page(
      toml_files.parse(configs / "claims.toml", claims.Claims),
      claims.Sources(sheet, counted, known),
    )
  return files
