"""The catalogue of mistakes, each as a separate process."""

import functools
import json
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from mistakes import catalogue

from reliability_parts import cases

# The short version makes one of this many mistakes.
_STRIDE = 20


def run(scratch: pathlib.Path, *, full: bool) -> dict[str, int | float]:
  """Makes mistakes, and counts the good and the bad messages.

  A good message has the mistake, its place and the remedy but no traceback; the
  process ends with an error, and leaves nothing on disk.

  Args:
    scratch: A folder to work in.
    full: Whether to make all of the catalogue's mistakes.

  Returns:
    The counts, and the median seconds to the message of a t5x command.
  """
  chosen = catalogue.MISTAKES[:: 1 if full else _STRIDE]
  times = scratch / "seconds.jsonl"
  counts = cases.count(
    scratch,
    {
      f"{number} {x.words}": functools.partial(_make, x, times)
      for number, x in enumerate(chosen)
    },
  )
  if times.exists():
    seconds = map(json.loads, times.read_text().splitlines())
    counts["median_seconds"] = round(statistics.median(seconds), 2)
  return counts


def _make(mistake: Any, times: pathlib.Path) -> cases.Counts:
  with tempfile.TemporaryDirectory() as folder:
    place = pathlib.Path(folder)
    catalogue.prepare(place, mistake)
    before = set(place.rglob("*"))
    start = time.monotonic()
    done = subprocess.run(
      [sys.executable, *catalogue.command(mistake)],
      cwd=folder,
      capture_output=True,
      text=True,
      check=False,
    )
    if mistake.program in ("train", "eval", "infer"):
      with times.open("a") as file:
        file.write(f"{time.monotonic() - start}\n")
    is_good = (
      done.returncode in (1, 2)
      and re.search(mistake.says, done.stderr, re.DOTALL) is not None
      and "Traceback" not in done.stderr
      and set(place.rglob("*")) == before
    )
  if not is_good:
    print(f"\n{mistake.program} {mistake.words}: {done.stderr}", flush=True)
  return {"good": int(is_good), "bad": int(not is_good)}
