"""Ours and PEFT, side by side: speed and memory, as ratios in one run.

  python benchmarks/compare.py --case=step-base-bfloat16-b8-i512
  python benchmarks/compare.py --case=step-small-bfloat16-b8-i128 \\
    --peer=t5x --sources=T5X --sources=AIRIO --sources=JESTIMATOR

Each side of a case is a separate process with the same random weights, of the
sizes of a real T5 1.1. The sides take turns, A B A B, so that other load slows
both. Their outcomes are compared first, and sides that disagree are not timed.
`--peer=t5x` replaces PEFT by Google's trainer around our network, for training
steps only. `--case` takes patterns (`step-small-*`); `--quick` uses tiny
models. Writes a record of each case to `results/benchmarks/`, and
`results/benchmarks.md` from all records; `--tabulate` only writes the page.
"""

import dataclasses
import datetime
import fnmatch
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

from absl import app, flags
import numpy as np

from peers import cases as cases_lib
from peers import report
from t5x.runs import records

FLAGS = flags.FLAGS
flags.DEFINE_multi_string(
  "case", [], "Names or patterns of cases; unset: all but the tiny ones."
)
flags.DEFINE_bool("quick", False, "Tiny models, two rounds; keeps no record.")
flags.DEFINE_bool("list", False, "Print the names of the cases.")
flags.DEFINE_bool("tabulate", False, "Write the table from the records.")
flags.DEFINE_integer("rounds", 5, "Turns of each side.")
flags.DEFINE_float("seconds", 6.0, "About the length of a turn, seconds.")
flags.DEFINE_string("weights_dir", None, "Where weights are kept, if they are.")
flags.DEFINE_string(
  "baseline", None, "A checkout of this repository to compare with as well."
)
flags.DEFINE_enum("peer", "peft", list(report.PEERS), "The other side.")
flags.DEFINE_multi_string(
  "sources", [], "Folders of Google's T5X and what it imports; repeatable."
)
flags.DEFINE_string(
  "ours",
  "{}",
  'Fields of T5Config other than usual, as JSON: {"remat": true}. Keeps no '
  "record.",
)
flags.DEFINE_bool("keep", True, "Whether to write records.")

ROOT = pathlib.Path(__file__).parents[1]
# Name of the side of `--baseline`.
BASELINE = "baseline"
# Losses and gradient norms: relative; tokens: share that may differ; log
# likelihoods: nats. transformers computes bfloat16 losses in bfloat16, whose
# neighbours at 11 nats are 1/16 apart.
_TOLERANCES = {
  "float32": {
    "loss": 1e-4,
    "gradient_norm": 2e-3,
    "tokens": 0.01,
    "scores": 1e-2,
  },
  "bfloat16": {
    "loss": 2e-2,
    "gradient_norm": 5e-2,
    "tokens": 0.5,
    "scores": 1.0,
  },
}


class Side:
  """A process that computes one side of a case on demand."""

  def __init__(self, name: str, case: cases_lib.Case, weights: str):
    """Starts the process and waits until it is ready."""
    root = pathlib.Path(FLAGS.baseline or ROOT) if name == BASELINE else ROOT
    self.name = name
    self.turns: list[dict[str, Any]] = []
    self._process = subprocess.Popen(
      [
        # Without the working directory, which is no baseline.
        *(sys.executable, "-P", "-m", "peers.worker"),
        name.replace(BASELINE, "ours"),
        json.dumps(dataclasses.asdict(case)),
        weights,
        FLAGS.ours,
      ],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env=_environment(root, name),
    )
    self.start = self._answer()

  def work(self, calls: int) -> None:
    """Takes a turn."""
    assert self._process.stdin
    self._process.stdin.write(f"{calls}\n")
    self._process.stdin.flush()
    self.turns.append(self._answer())

  def close(self) -> None:
    """Ends the process."""
    assert self._process.stdin
    self._process.stdin.close()
    self._process.wait()

  def _answer(self) -> dict[str, Any]:
    assert self._process.stdout
    line = self._process.stdout.readline()
    if not line:
      raise ValueError(
        f"{self.name} ended with status {self._process.wait()}, see above."
      )
    return json.loads(line)

  def fields(self) -> dict[str, Any]:
    """Returns the fields of a record; seconds are of one call."""
    turns = self.turns
    return {
      "seconds": [float(np.mean(turn["seconds"])) for turn in turns],
      "calls_in_a_turn": len(turns[0]["seconds"]),
      "cpu_seconds": float(
        np.median([x["cpu_seconds"] / len(x["seconds"]) for x in turns])
      ),
      "peak_bytes": turns[-1]["peak_bytes"],
      "load_seconds": self.start["load_seconds"],
      # Compilation of all shapes, and the first calls.
      "warm_up_seconds": self.start["warm_seconds"],
    }


def _environment(root: pathlib.Path, side: str = "ours") -> dict[str, str]:
  runtime = FLAGS.sources if side == "t5x" else [root / "runtime"]
  path = [pathlib.Path(__file__).parent, root, *runtime]
  return {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(map(str, path)),
    "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu"),
    # No side may use a network.
    "HF_HUB_OFFLINE": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "PYTHONWARNINGS": "ignore",
  }


def disagreement(name: str, a: Any, b: Any) -> float:
  """Returns the difference of two outcomes in the unit of `_TOLERANCES`."""
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  if name == "tokens":
    return float(np.mean(a != b))
  difference = float(np.max(np.abs(a - b)))
  return difference if name == "scores" else difference / float(np.abs(b))


def agreement(case: cases_lib.Case, sides: list[Side]) -> dict[str, float]:
  """Compares the first side's outcome with the last's and the baseline's.

  Returns:
    Name of an outcome -> difference between the first and the last side.

  Raises:
    ValueError: if they disagree.
  """
  ours = sides[0].start["outcome"]
  found = {}
  others = [x for x in sides[1:-1] if x.name == BASELINE]
  for side in (*others, sides[-1]):
    theirs = side.start["outcome"]
    found = {
      name: disagreement(name, value, theirs[name])
      for name, value in ours.items()
      if name in theirs
    }
    for name, difference in found.items():
      most = _TOLERANCES[case.dtype][name]
      # Not "more than": a NaN must not pass.
      if not difference <= most:
        raise ValueError(
          f"{case.name}: {sides[0].name} and {side.name} disagree on {name} by "
          f"{difference:.2g}, more than {most}: {ours[name]} and "
          f"{theirs[name]}."
        )
  return found


def run(case: cases_lib.Case, weights: pathlib.Path) -> dict[str, Any]:
  """Compares one case and returns its record."""
  folder = weights / case.size
  folder.mkdir(parents=True, exist_ok=True)
  subprocess.run(
    [sys.executable, "-m", "peers.weights", case.size, str(folder)],
    check=True,
    env=_environment(ROOT),
  )
  names = [*case.sides[:-1], FLAGS.peer]
  if FLAGS.baseline:
    names.insert(1, BASELINE)
  sides: list[Side] = []
  try:
    for name in names:
      sides.append(Side(name, case, str(folder)))
    agreed = agreement(case, sides)
    calls = {}
    for side in sides:
      side.work(side.start["batches"])
      once = sum(side.turns.pop()["seconds"])
      repeats = max(1, round(FLAGS.seconds / once))
      calls[side.name] = repeats * side.start["batches"]
    for _ in range(2 if FLAGS.quick else FLAGS.rounds):
      for side in sides:
        side.work(calls[side.name])
  finally:
    for side in sides:
      side.close()
  return {
    "case": dataclasses.asdict(case),
    "options": json.loads(FLAGS.ours),
    "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    **records.environment(("torch", "transformers", "peft")),
    # Above the sides' own threads if something else ran.
    "load_average": os.getloadavg()[0],
    "disagreement": agreed,
    "sides": {side.name: side.fields() for side in sides},
  }


def _chosen() -> list[cases_lib.Case]:
  every = cases_lib.all_cases()
  patterns = FLAGS.case or ["*"]
  chosen = [
    case
    for name, case in every.items()
    if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
    and (case.size == "tiny") == FLAGS.quick
    and (FLAGS.peer == "peft" or case.work == "step")
  ]
  if not chosen:
    raise app.UsageError(
      f"Expected patterns of {', '.join(every)}, got {patterns}."
    )
  return chosen


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"Expected flags only, got {argv[1:]}.")
  if (FLAGS.peer == "t5x") != bool(FLAGS.sources):
    raise app.UsageError("--peer=t5x and --sources belong together.")
  if FLAGS.list:
    print("\n".join(cases_lib.all_cases()))
    return
  if not FLAGS.tabulate:
    with tempfile.TemporaryDirectory() as place:
      for case in _chosen():
        record = run(case, pathlib.Path(FLAGS.weights_dir or place))
        print(report.line(record), flush=True)
        if FLAGS.keep and not FLAGS.quick and not json.loads(FLAGS.ours):
          report.write(report.name_of(case, FLAGS.peer), record)
  if not FLAGS.quick:
    report.tabulate(cases_lib.all_cases())


if __name__ == "__main__":
  app.run(main)
