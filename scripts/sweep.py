"""Runs a train command with lists in the place of values; see `--help`."""

from prompt_tuning.commands import sweep

if __name__ == "__main__":
  sweep.main()
