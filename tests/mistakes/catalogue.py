"""The mistakes of `mistakes.toml`."""

from collections.abc import Mapping
import pathlib
import tomllib
from typing import Any, NamedTuple

import numpy as np

ROOT = pathlib.Path(__file__).parents[2]
_TABLE = tomllib.loads(
  (pathlib.Path(__file__).parent / "mistakes.toml").read_text("utf-8")
)
_NAMES: dict[str, str] = _TABLE["names"]
_PROGRAMS = {
  "train": "train",
  "data": "train",
  "eval": "eval",
  "infer": "infer",
}


class Mistake(NamedTuple):
  """A wrong command or call and the message that it must get.

  Attributes:
    program: "train", "eval" or "infer" of t5x; "console", the project's command
      line; or "python".
    words: The command's words, or Python code that uses `pt` or `model`.
    says: Regular expression of the message.
    files: The files of the working directory: name -> content.
  """

  program: str
  words: str
  says: str
  files: Mapping[str, str] = {}


def _full(text: str) -> str:
  """Replaces names in braces with their texts."""
  for name, value in _NAMES.items():
    if f"{{{name}}}" in text:
      text = _full(text.replace(f"{{{name}}}", value))
  return text


def _mistake(kind: str, words: str, says: str, files: Any = ()) -> Mistake:
  if kind == "sheets":  # The second column is the new text.
    sheet = {"configs/x.toml": _full("{SHEET}").replace(words, says)}
    return Mistake("console", "launch x --root=.", files, sheet)
  if files == "x.csv":
    files = {"x.csv": "{SENTENCES}"}
  right = f"{{RIGHT_{kind.upper()}}} " if kind in _PROGRAMS else ""
  return Mistake(
    _PROGRAMS.get(kind, kind),
    _full(right + words),
    _full(says),
    {name: _full(text) for name, text in dict(files).items()},
  )


LADDER = _full("{LADDER}")
MISTAKES = [
  _mistake(kind, *row) for kind, rows in _TABLE["rows"].items() for row in rows
]


def words(mistake: Mistake) -> list[str]:
  """Returns the words of a command after its program."""
  _, alone, whole = mistake.words.rpartition("!")
  found = []
  for word in (whole if alone else mistake.words).split():
    kind, rest = word[0], word[1:]
    full = {"%": f"--gin.{rest}", "+": f"--gin_file=gin/{rest}.gin"}
    found.append(full.get(kind, word))
  return found


def prepare(folder: pathlib.Path, mistake: Mistake) -> None:
  """Writes a mistake's files, a prompt and a link to the checkpoints."""
  (folder / "checkpoints").symlink_to(ROOT / "checkpoints")
  np.save(folder / "p.npy", np.zeros((2, 64), np.float32))
  for name, content in mistake.files.items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def command(mistake: Mistake) -> list[str]:
  """Returns the arguments of a process that makes a mistake."""
  if mistake.program == "python":
    code = f"model = pt.load({LADDER!r})\n{mistake.words}"
    program = (
      "import sys, numpy as np, prompt_tuning as pt\n"
      f"try: exec({code!r})\n"
      "except ValueError as e: sys.exit(f'Error: {e}')\n"
    )
    return ["-c", program]
  module = f"t5x.{mistake.program}"
  if mistake.program == "console":
    module = "prompt_tuning"
  return ["-m", module, *words(mistake)]
