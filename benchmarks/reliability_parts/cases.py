"""Cases of a part, each of which runs once even if the part is stopped."""

import collections
from collections.abc import Callable, Mapping
import contextlib
import json
import os
import pathlib
import traceback

import tqdm

# A folder beside the parts' folders, with results of undisturbed commands. Only
# this process uses it, because another may run parts with different code.
SHARED = f"undisturbed_{os.getpid()}"
Counts = Mapping[str, int | float]


def count(
  scratch: pathlib.Path, cases: Mapping[str, Callable[[], Counts]]
) -> dict[str, int | float]:
  """Runs the cases that have not been run, and adds up the counts of all.

  Args:
    scratch: A folder. Its `cases.jsonl` has a line for each finished case, so
      that another call runs only the others.
    cases: Name -> the function that runs the case. If it raises an error, the
      case counts as `broken`, and `cases.jsonl` has the traceback.

  Returns:
    The sum of each count, or the greatest if its name starts with `most_`;
    `planned` and `done` are the numbers of cases. Ctrl-C ends it early.
  """
  path = scratch / "cases.jsonl"
  done: dict[str, Counts] = {}
  for line in path.read_text().splitlines() if path.exists() else ():
    with contextlib.suppress(ValueError):  # A killed process wrote the line.
      fields = json.loads(line)
      done[fields["case"]] = fields["counts"]
  with contextlib.suppress(KeyboardInterrupt):
    for name, run in tqdm.tqdm(cases.items(), unit="case"):
      if name in done:
        continue
      fields = {"case": name}
      try:
        fields["counts"] = done[name] = dict(run())
      except Exception:
        fields["counts"] = done[name] = {"broken": 1}
        fields["traceback"] = traceback.format_exc()
      with path.open("a") as file:  # Its last line may be of a killed process.
        file.write(f"\n{json.dumps(fields)}\n")
  counts = [done[name] for name in cases if name in done]
  values: dict[str, list[int | float]] = collections.defaultdict(list)
  for case in counts:
    for name, value in case.items():
      values[name].append(value)
  return {
    "planned": len(cases),
    "done": len(counts),
    **{
      name: (max if name.startswith("most_") else sum)(x)
      for name, x in values.items()
    },
  }
