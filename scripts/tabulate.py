"""Writes tables and figures from records; see `--help`."""

from prompt_tuning.commands import tabulate

if __name__ == "__main__":
  tabulate.main()
