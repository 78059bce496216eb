"""Mutations of the files of every reader: see `tests/fuzz`.

FUZZ_EXAMPLES sets the number for each reader, FUZZ_SEED another seed.
"""

import dataclasses
import functools
import pathlib
import sys
import tempfile

from fuzz import checking
import tqdm

from reliability_parts import cases

# Mutations of each reader, in a full run and in a short one.
_EXAMPLES, _FEW = 10_000, 20


def run(scratch: pathlib.Path, *, full: bool) -> dict[str, int | float]:
  """Mutates the files of all readers.

  Args:
    scratch: A folder that keeps the counts between runs.
    full: Whether to make as many mutations as the bar requires.

  Returns:
    The sums, or for seconds and megabytes the maxima, of
    `fuzz.checking.Counts`.
  """
  examples = checking.EXAMPLES or (_EXAMPLES if full else _FEW)
  found = {
    f"{name}, {examples} times": functools.partial(
      _check, scratch, name, examples
    )
    for name in checking.READERS
  }
  return cases.count(scratch, found)


def _check(scratch: pathlib.Path, name: str, examples: int) -> cases.Counts:
  counts = checking.Counts()
  with tempfile.TemporaryDirectory(dir=scratch) as folder:
    try:
      checking.check(
        name, pathlib.Path(folder), examples, checking.SEED, counts
      )
    except (AssertionError, ExceptionGroup) as error:  # One, or several.
      tqdm.tqdm.write(f"{name}: {error}", file=sys.stderr)
  greatest = ("seconds", "megabytes")
  found = dataclasses.asdict(counts).items()
  return {"most_" * (k in greatest) + k: x for k, x in found}
