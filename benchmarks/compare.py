"""Ours and PEFT, side by side: speed and memory, as ratios in one run.

  python benchmarks/compare.py --case=step-base-bfloat16-b8-i512
  python benchmarks/compare.py --case=step-small-bfloat16-b8-i128 \\
    --peer=t5x --sources=T5X --sources=AIRIO --sources=JESTIMATOR

Each side of a case is a separate process with the same random weights, in the
sizes of a real T5 1.1. The sides take turns, A B A B, so that other load slows
both. Their outcomes are compared first, and sides that disagree are not timed.
`--peer=t5x` replaces PEFT by Google's trainer around our network, for training
steps only. `--case` takes patterns (`step-small-*`); `--quick` uses tiny
models. Writes a record of each case to `results/benchmarks/`, and
`results/benchmarks.md` from all records; `--tabulate` only writes the page.
"""

import argparse
import dataclasses
import fnmatch
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np

import harness
from peers import cases as cases_lib
from peers import report

# Name of the side of `--baseline`.
BASELINE = "baseline"


class Side:
  """A process that computes one side of a case on demand."""

  def __init__(
    self,
    name: str,
    case: cases_lib.Case,
    weights: pathlib.Path,
    path: dict[str, list[Any]],
  ):
    """Starts the process and waits until it is ready."""
    self.name = name
    self.turns: list[dict[str, Any]] = []
    self._process = subprocess.Popen(
      [
        # Without the working directory, which is not the baseline.
        *(sys.executable, "-P", "-m", "peers.worker"),
        name.replace(BASELINE, "ours"),
        json.dumps(dataclasses.asdict(case)),
        str(weights),
      ],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env=_environment(path.get(name, path["ours"])),
    )
    self.start = self._answer()

  def work(self, calls: int) -> None:
    """Makes the calls of one turn."""
    assert self._process.stdin
    print(calls, file=self._process.stdin, flush=True)
    self.turns.append(self._answer())

  def close(self) -> None:
    """Ends the process."""
    self._process.communicate()

  def _answer(self) -> dict[str, Any]:
    assert self._process.stdout
    line = self._process.stdout.readline()
    if not line:
      raise ValueError(
        f"{self.name} ended with status {self._process.wait()}, see above."
      )
    return json.loads(line)

  def fields(self) -> dict[str, Any]:
    """Returns the fields of a record; seconds are for one call."""
    turns = self.turns
    return {
      "seconds": [float(np.mean(turn["seconds"])) for turn in turns],
      "calls_in_a_turn": len(turns[0]["seconds"]),
      "cpu_seconds": float(
        np.median([x["cpu_seconds"] / len(x["seconds"]) for x in turns])
      ),
      "peak_bytes": turns[-1]["peak_bytes"],
      "load_seconds": self.start["load_seconds"],
      # Includes compilation of all shapes, and the first calls.
      "warm_up_seconds": self.start["warm_seconds"],
    }


def _environment(path: list[Any]) -> dict[str, str]:
  return {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(
      map(str, [pathlib.Path(__file__).parent, *path])
    ),
    "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu"),
    # No side may use the network.
    "HF_HUB_OFFLINE": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "PYTHONWARNINGS": "ignore",
  }


def agreement(
  case: cases_lib.Case, ours: Side, others: list[Side]
) -> dict[str, float]:
  """Compares our outcome with those of other sides.

  Returns:
    Name of an outcome -> difference from the last side, as in `cases.toml`.

  Raises:
    ValueError: if they disagree.
  """
  found = {}
  for side in others:
    found, theirs = {}, side.start["outcome"]
    for name in ours.start["outcome"].keys() & theirs.keys():
      a = np.asarray(ours.start["outcome"][name], np.float64)
      b = np.asarray(theirs[name], np.float64)
      difference = np.mean(a != b) if name == "tokens" else np.abs(a - b).max()
      if name not in ("tokens", "scores"):
        difference /= np.abs(b)
      found[name] = float(difference)
      most = cases_lib.TOLERANCES[case.dtype][name]
      # Not `difference > most`, because a NaN must not pass.
      if not difference <= most:
        raise ValueError(
          f"{case.name}: {ours.name} and {side.name} disagree on {name} by "
          f"{difference:.2g}, more than {most}: {a} and {b}."
        )
  return found


def run(
  case: cases_lib.Case, weights: pathlib.Path, args: argparse.Namespace
) -> dict[str, Any]:
  """Compares one case and returns its record."""
  root, folder = harness.ROOT, weights / case.size
  path = {"ours": [root, root / "runtime"], "t5x": [root, *args.sources]}
  subprocess.run(
    [sys.executable, "-m", "peers.peft", case.size, str(folder)],
    check=True,
    env=_environment(path["ours"]),
  )
  compared = [args.peer]
  if args.baseline:
    path[BASELINE] = [args.baseline, args.baseline / "runtime"]
    compared.insert(0, BASELINE)
  names = ["ours", *["ours, one prompt"] * (case.work == "prompts"), *compared]
  sides: list[Side] = []
  try:
    for name in names:
      sides.append(Side(name, case, folder, path))
    others = [side for side in sides if side.name in compared]
    agreed = agreement(case, sides[0], others)
    calls = {}
    for side in sides:
      side.work(side.start["batches"])
      once = sum(side.turns.pop()["seconds"])
      repeats = max(1, round(args.seconds / once))
      calls[side.name] = repeats * side.start["batches"]
    for _ in range(2 if args.quick else args.rounds):
      for side in sides:
        side.work(calls[side.name])
  finally:
    for side in sides:
      side.close()
  return {
    "case": dataclasses.asdict(case),
    # Greater than the sides' own threads if something else ran.
    "load_average": os.getloadavg()[0],
    "disagreement": agreed,
    "sides": {side.name: side.fields() for side in sides},
  }


def main() -> None:
  parser = harness.parser(__doc__)
  add, peers = parser.add_argument, list(report.PEERS)
  add("--case", action="append", help="a pattern; by default, all but tiny")
  add("--quick", action="store_true", help="tiny models; keeps no record")
  add("--list", action="store_true", help="print the names of the cases")
  add("--tabulate", action="store_true", help="write the page from the records")
  add("--rounds", type=int, default=5, help="turns of each side")
  add("--seconds", type=float, default=6.0, help="seconds of a turn")
  add("--baseline", type=pathlib.Path, help="a checkout to compare with too")
  add("--peer", choices=peers, default="peft", help="the other side")
  add("--sources", action="append", default=[], help="T5X and its imports")
  args = parser.parse_args()
  if (args.peer == "t5x") != bool(args.sources):
    parser.error("--peer=t5x and --sources belong together.")
  every = cases_lib.all_cases()
  if args.list:
    print("\n".join(every))
    return
  if not args.tabulate:
    chosen = [
      case
      for name, case in every.items()
      if any(fnmatch.fnmatch(name, x) for x in args.case or ["*"])
      and case.size.startswith("tiny") == args.quick
      and (args.peer == "peft" or case.work == "step")
    ]
    if not chosen:
      parser.error(f"Expected patterns of {', '.join(every)}.")
    with tempfile.TemporaryDirectory() as weights:
      for case in chosen:
        record = run(case, pathlib.Path(weights), args)
        print(report.table([record]), record["disagreement"], flush=True)
        if not args.quick:
          name = report.name_of(case, args.peer)
          harness.write(name, record, ("torch", "transformers", "peft"))
  if not args.quick:
    report.tabulate(every)


if __name__ == "__main__":
  main()
