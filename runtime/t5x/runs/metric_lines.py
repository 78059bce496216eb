"""Files of metrics after a restart: lines of JSON with a `step`."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
import json
import os
from typing import Any

from etils import epath

from t5x.files import safe_files

Line = Mapping[str, Any]


def _parse(text: bytes) -> Line | None:
  try:
    line = json.loads(text)
  except (ValueError, RecursionError):
    return None
  has_step = isinstance(line, dict) and isinstance(line.get("step"), int)
  return line if has_step else None


def keep(
  path: str | os.PathLike[str],
  is_kept: Callable[[Line], bool],
  missing: Callable[[Sequence[Line]], Iterable[Line]] = lambda kept: (),
) -> None:
  """Drops lines of a file, and a partial last line of a killed process.

  A file with other unreadable lines is set aside, and its readable lines are
  kept.

  Args:
    path: The file; it need not exist.
    is_kept: Returns whether a line stays.
    missing: Returns the lines to add, given those that stay.
  """
  path = epath.Path(path)
  content = path.read_bytes() if path.exists() else b""
  texts = content.split(b"\n")
  # The last one is partial, unless it is empty.
  lines = [_parse(text) for text in texts[:-1]]
  kept = [line for line in lines if line is not None and is_kept(line)]
  added = list(missing(kept))
  if None in lines:
    safe_files.set_aside(
      path,
      f"line {lines.index(None) + 1} has no metrics of a step",
      "The lines that can be read are kept, and evaluations are added.",
    )
  elif not added and len(kept) == len(lines) and not texts[-1]:
    return
  safe_files.write(
    path,
    "".join(
      json.dumps(line) + "\n"
      for line in sorted([*kept, *added], key=lambda line: line["step"])
    ),
  )


def keep_evaluations(
  folder: str | os.PathLike[str], steps: Collection[int]
) -> None:
  """Drops seqio's lines of evaluations that will be repeated, and duplicates.

  Args:
    folder: The folder of seqio's `<task>-metrics.jsonl`.
    steps: The steps of the evaluations that stay.
  """
  for path in epath.Path(folder).glob("*-metrics.jsonl"):
    seen: set[int] = set()

    def is_kept(line: Line, seen=seen) -> bool:
      is_new = line["step"] in steps and line["step"] not in seen
      seen.add(line["step"])
      return is_new

    keep(path, is_kept)
