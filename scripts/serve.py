"""Serves many prompts on one frozen model by HTTP; see `--help`."""

import t5x  # noqa: F401  # Before what imports TensorFlow, to keep that quiet.

# isort: split

from prompt_tuning.commands import serve as command

if __name__ == "__main__":
  command.main()
