"""Runs the cells of sheets; see `--help`."""

from prompt_tuning.commands import launch

if __name__ == "__main__":
  launch.main()
