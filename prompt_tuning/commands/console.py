"""`prompt-tuning COMMAND ...`: the programs of scripts/, wherever installed."""

import difflib
import pathlib
import runpy
import sys

import prompt_tuning

# They are about the files of a checkout.
_OF_A_CHECKOUT = ("quickstart", "plan_table")


def _programs() -> dict[str, pathlib.Path]:
  """Command -> its program."""
  folder = pathlib.Path(prompt_tuning.gin_search_path()) / "scripts"
  return {
    path.stem.replace("_", "-"): path
    for path in sorted(folder.glob("*.py"))
    if path.stem not in _OF_A_CHECKOUT
  }


def main() -> None:
  """Runs the program that the first argument names, with the others.

  Raises:
    SystemExit: with what the program ends with, or 2 for an unknown command.
  """
  programs = _programs()
  command = sys.argv[1].replace("_", "-") if len(sys.argv) > 1 else "--help"
  if command in ("--help", "-h", "-help"):
    print("prompt-tuning COMMAND ...\n\nCommands, each with a --help:\n")
    for name, path in programs.items():
      about = path.read_text(encoding="utf-8").partition("\n")[0].strip('"')
      print(f"  {name:20} {about}")
    return
  if command not in programs:
    near = difflib.get_close_matches(command, programs, n=3)
    print(
      f"Error: expected one of {', '.join(programs)}, got {command!r}."
      + (f" Did you mean {' or '.join(near)}?" if near else ""),
      file=sys.stderr,
    )
    sys.exit(2)
  path = programs[command]
  sys.argv[:2] = [str(path)]
  # What scripts import from beside them, as `python scripts/X.py` finds it.
  sys.path.insert(0, str(path.parent))
  runpy.run_path(str(path), run_name="__main__")
