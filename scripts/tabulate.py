"""Writes tables and figures from records; see `--help`."""

from prompt_tuning.experiments.commands import tabulate

if __name__ == "__main__":
  tabulate.main()
