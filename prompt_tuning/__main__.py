"""The command line of the project: `python -m prompt_tuning COMMAND ...`."""

import sys

from prompt_tuning.commands import console

if __name__ == "__main__":
  sys.exit(console.main())
