"""Mutations of the files of every reader: see `tests/fuzz`.

FUZZ_EXAMPLES says how many for each, FUZZ_SEED another seed. `fuzz.json` in the
scratch folder has the counts of each reader, which is then not done again.
"""

import dataclasses
import json
import pathlib
import sys
import tempfile

from fuzz import checking
import tqdm

# Mutations of each reader, in a full run and in a short one.
_EXAMPLES, _FEW = 10_000, 20


def run(scratch: pathlib.Path, *, full: bool) -> dict[str, int | float]:
  """Mutates the files of all readers.

  Args:
    scratch: A folder that keeps the counts between runs.
    full: Whether to make as many mutations as the bar asks for.

  Returns:
    The number of readers, and the sums, or for seconds and megabytes the
    maxima, of `fuzz.checking.Counts`.
  """
  examples = checking.EXAMPLES or (_EXAMPLES if full else _FEW)
  path = scratch / "fuzz.json"
  done = json.loads(path.read_text()) if path.exists() else {}
  for name in tqdm.tqdm(checking.READERS, "fuzz", unit=" readers"):
    before = checking.Counts(**done.get(name, {}))
    if before.mutations >= examples and not before.unclean + before.unnamed:
      continue
    counts = checking.Counts(unclean=1)
    # It stays there if a file kills the process.
    path.write_text(json.dumps({**done, name: dataclasses.asdict(counts)}))
    counts.unclean = 0
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
      try:
        checking.check(
          name, pathlib.Path(folder), examples, checking.SEED, counts
        )
      except (AssertionError, ExceptionGroup) as error:  # One, or several.
        tqdm.tqdm.write(f"{name}: {error}", file=sys.stderr)
    done[name] = dataclasses.asdict(counts)
    path.write_text(json.dumps(done, indent=1))
  every = done.values()
  sums = ("mutations", "refused", "unclean", "unnamed")
  return {
    "readers": len(done),
    **{name: sum(counts[name] for counts in every) for name in sums},
    **{x: max(counts[x] for counts in every) for x in ("seconds", "megabytes")},
  }
