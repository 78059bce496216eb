"""Training runs that SIGKILL ends, and that are started again."""

from collections.abc import Mapping
import functools
import itertools
import pathlib

import bucket

from reliability_parts import cases, programs
from reliability_parts.programs import At, Bench

_MODES = ("normal", "by length", "two processes")
# Moment -> the calls at which runs are killed.
_NUMBERS = {"start-up": (1, 1, 1), "compiling": (1, 8, 20), "step": (3, 8, 13)}
_SECONDS = (0.0, 0.02, 0.1)


def run(scratch: pathlib.Path, *, full: bool) -> Mapping[str, int | float]:
  """Counts kills, and the runs that differ afterwards."""
  bench = Bench(scratch)
  with bucket.in_place_of_googles():
    found = {
      f"{moment} {number}, {place}, {mode}": functools.partial(
        _case, bench, place, mode, moment, number
      )
      for moment, place, mode, number in itertools.product(
        programs.MOMENTS, bench.places, _MODES, range(3)
      )
    }
    short = ("step 1, disk, by length", "saving 1, bucket, normal")
    return cases.count(
      scratch, found if full else {name: found[name] for name in short}
    )


def _case(
  bench: Bench, place: str, mode: str, moment: str, number: int
) -> dict[str, int]:
  at = At(
    programs.MOMENTS[moment],
    programs.kill,
    _NUMBERS.get(moment, (1, 2, 3))[number],
    _SECONDS[number],
    process=number % 2 if mode == "two processes" else 0,
  )
  make = functools.partial(programs.training, base=bench.base, mode=mode)
  return bench.killed(place, mode, make, at)
