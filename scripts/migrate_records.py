"""Brings the records in results up to today's schema; harmless when done.

python scripts/migrate_records.py
"""

import argparse
import pathlib
import sys

from prompt_tuning.experiments import migration

RESULTS = pathlib.Path(__file__).resolve().parents[1] / "results"


def main() -> None:
  argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  ).parse_args()
  try:
    print(f"{migration.migrate(RESULTS)} records changed.")
  except ValueError as error:
    sys.exit(f"Error: {error}")


if __name__ == "__main__":
  main()
