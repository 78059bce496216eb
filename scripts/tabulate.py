"""Writes the tables and figures of sheets from the committed records.

  python scripts/tabulate.py [SHEET...]

A SHEET is a name such as scale, full/scale, parameters or claims; all by
default. The README's tables are written with any. With --check nothing is
written, and the exit status says whether what lies there is what the records
make.
"""

import argparse
from collections.abc import Mapping
import pathlib
import sys

from prompt_tuning.experiments import pages, records, sheets

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
RESULTS = ROOT / "results"
README = ROOT / "README.md"
TABLES = "results/tables"


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("sheets", nargs="*", metavar="SHEET")
  parser.add_argument("--check", action="store_true", help="only compare")
  args = parser.parse_args()
  try:
    files = _files(args.sheets)
  except ValueError as error:
    sys.exit(f"Error: {error}")
  if not args.check:
    pages.write(files, ROOT)
    print(f"{len(files)} files: {README.name}, others in {RESULTS.name}.")
    return
  whole = None if args.sheets else TABLES
  if wrong := pages.differences(files, ROOT, whole):
    sys.exit(
      f"Error: {', '.join(wrong)}. Run python scripts/tabulate.py and commit."
    )


def _files(names: list[str]) -> dict[str, bytes]:
  """Path -> content."""
  known = records.load(RESULTS)
  every = {sheet.name: sheet for sheet in sheets.load_all(CONFIGS)}
  if unknown := set(names) - {*every, *sheets.NO_RUNS}:
    raise ValueError(
      f"No sheet {', '.join(sorted(unknown))} in configs; there is "
      f"{', '.join([*every, *sheets.NO_RUNS])}."
    )
  wanted = names or [*every, *sheets.NO_RUNS]
  files = {}
  for name in wanted:
    if name in every:
      sheet = every[name]
      beside = every[sheet.beside] if sheet.beside else None
      files |= pages.of_sheet(sheet, known, beside)
  files = {f"{TABLES}/{name}": x for name, x in files.items()}
  readme = pages.fill(README.read_text(encoding="utf-8"), every, known)
  files[README.name] = readme.encode()
  if set(wanted) & set(sheets.NO_RUNS):
    files |= _without_runs(wanted, every)
  return files


def _without_runs(
  wanted: list[str], every: Mapping[str, sheets.Sheet]
) -> dict[str, bytes]:
  # They need the models, and with them seconds to import.
  from prompt_tuning.experiments import claims, parameters

  sheet = sheets.parse(CONFIGS / "parameters.toml", parameters.ParameterSheet)
  counted = parameters.count_all(sheet)
  files = {}
  if "parameters" in wanted:
    for name, content in parameters.page(sheet, counted).items():
      files[f"{TABLES}/{name}"] = content
  if "claims" in wanted:
    files["results/claims.md"] = claims.page(
      sheets.parse(CONFIGS / "claims.toml", claims.Claims),
      claims.Sources(sheet, counted, every),
    )
  return files


if __name__ == "__main__":
  main()
