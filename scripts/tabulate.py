"""Writes the tables and figures of sheets from the committed records.

  python scripts/tabulate.py [SHEET...]

A SHEET is a name such as scale; all by default. With --check nothing is
written, and the exit status says whether what lies there is what the records
make.
"""

import argparse
import pathlib
import sys

from prompt_tuning import pages, records, sheets

ROOT = pathlib.Path(__file__).resolve().parents[1]


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
  folder = ROOT / "results" / "tables"
  if not args.check:
    pages.write(files, folder)
    print(f"{len(files)} files in {folder.relative_to(ROOT)}.")
  elif wrong := pages.differences(files, folder):
    sys.exit(
      f"Error: in results/tables, {', '.join(wrong)}. "
      "Run python scripts/tabulate.py and commit."
    )


def _files(names: list[str]) -> dict[str, bytes]:
  known = records.load(ROOT / "results")
  every = {sheet.name: sheet for sheet in sheets.load_all(ROOT / "configs")}
  if unknown := set(names) - set(every):
    raise ValueError(
      f"No sheet {', '.join(sorted(unknown))} in configs; there is "
      f"{', '.join(every)}."
    )
  files = {}
  for name in names or every:
    sheet = every[name]
    beside = every[sheet.beside] if sheet.beside else None
    files |= pages.of_sheet(sheet, known, beside)
  return files


if __name__ == "__main__":
  main()
