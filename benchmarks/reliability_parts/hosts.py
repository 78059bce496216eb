"""Runs of two processes, one of which is killed."""

from collections.abc import Mapping
import functools
import itertools
import json
import pathlib
import signal
import socket
from typing import Any

from reliability_parts import cases, programs
from reliability_parts.programs import At, Bench

_MOMENTS = ("compiling", "step", "evaluation", "saving")
_CASES = (
  ("start-up", 1),
  ("deleting", 0),  # Only the first process deletes.
  *itertools.product(_MOMENTS, range(2)),
)
_MOST_SECONDS = 30.0


def run(scratch: pathlib.Path, *, full: bool) -> Mapping[str, int | float]:
  """Counts lost processes, and the outcomes for the others and a restart."""
  bench = Bench(scratch)
  found = {
    f"{moment}, process {lost}": functools.partial(_case, bench, moment, lost)
    for moment, lost in _CASES
  }
  return cases.count(scratch, found if full else dict([found.popitem()]))


def _case(bench: Bench, moment: str, lost: int) -> dict[str, int | float]:
  number = {"start-up": 1, "compiling": 8, "step": 8}.get(moment, 2)
  at = At(programs.MOMENTS[moment], programs.kill, number, process=lost)
  mode = "two processes"
  make = functools.partial(programs.training, base=bench.base, mode=mode)
  folder, record = bench.scratch / f"{moment}-{lost}", dict[str, Any]()

  def look() -> None:
    if (path := folder / "record.json").exists():
      record.update(json.loads(path.read_text()))

  endings, counts = bench.disturbed(str(folder), mode, make, [at], look)
  other, killed = endings[1 - lost], endings[lost]
  seconds = other.time - killed.time
  is_clear = other.is_clear(f"Process {lost} on {socket.gethostname()}")
  return counts | {
    "lost": int(killed.status == -signal.SIGKILL),
    "unclear": int(not is_clear or record.get("status", "failed") != "failed"),
    "slow": int(seconds > _MOST_SECONDS),
    "most_seconds": round(seconds, 1),
  }
