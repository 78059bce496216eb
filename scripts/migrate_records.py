"""Brings the records in results up to today's schema; harmless when done."""

import pathlib
import sys

from prompt_tuning.experiments import migration

RESULTS = pathlib.Path(__file__).resolve().parents[1] / "results"

if __name__ == "__main__":
  try:
    print(f"{migration.migrate(RESULTS)} records changed.")
  except ValueError as error:
    sys.exit(f"Error: {error}")
